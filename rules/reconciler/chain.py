"""What an event's allocation says: the `allocated` event in effect at its time (contract 3.2).

`step_allocated` has the allocated events of all allocations that the scope names, one per allocation and
time (the latest of the order counts), with `released_at`, the first release from then on; `step_released` all
their releases.
"""

import duckdb
import numpy as np
import pyarrow as pa

from rules.asof import Ints
from rules.reconciler.intervals import LATEST
from rules.reconciler.store import CODE

_STEP = f"""
CREATE OR REPLACE TEMP TABLE step_code AS
SELECT DISTINCT code FROM (
  SELECT {CODE} FROM new_allocation UNION ALL SELECT {CODE} FROM new_access
  UNION ALL SELECT {CODE} FROM new_placement UNION ALL SELECT {CODE} FROM older_allocation
  UNION ALL SELECT {CODE} FROM older_access UNION ALL SELECT {CODE} FROM older_placement);

CREATE OR REPLACE TEMP TABLE step_released AS
SELECT DISTINCT allocation_id, t FROM allocation SEMI JOIN step_code USING (code) WHERE action = 'released';

CREATE OR REPLACE TEMP TABLE step_any AS
SELECT allocation_id, t, source, event_id, "partition", "offset", party_id_sent, principal, authorization_id,
  serials
FROM allocation SEMI JOIN step_code USING (code) WHERE action = 'allocated';

CREATE OR REPLACE TEMP TABLE step_several AS
SELECT allocation_id FROM step_any GROUP BY allocation_id HAVING count(*) > 1;
"""

_LATEST = f"""
WITH latest AS (
  FROM step_any SEMI JOIN step_several USING (allocation_id)
  QUALIFY row_number() OVER (PARTITION BY allocation_id, t ORDER BY {LATEST}) = 1
  UNION ALL FROM step_any ANTI JOIN step_several USING (allocation_id)
), released AS (
  SELECT allocation_id, a.t, min(r.t) AS released_at
  FROM latest a JOIN step_released r USING (allocation_id) WHERE r.t >= a.t GROUP BY ALL
)
SELECT a.* EXCLUDE (source, event_id, "partition", "offset"), r.released_at
FROM latest a LEFT JOIN released r USING (allocation_id, t)
"""

_IN_EFFECT = """
SELECT e.number, a.number AS allocated
FROM (SELECT number, allocation_id, t FROM {events} ANTI JOIN step_several USING (allocation_id)) e
JOIN step_allocated a ON e.allocation_id = a.allocation_id AND e.t >= a.t
UNION ALL
SELECT e.number, a.number
FROM (SELECT number, allocation_id, t FROM {events} SEMI JOIN step_several USING (allocation_id)) e
ASOF JOIN step_allocated a ON e.allocation_id = a.allocation_id AND e.t >= a.t
"""
"""Nearly every allocation has one `allocated` event, for which a hash join will do; the others need ASOF."""


def gather(con: duckdb.DuckDBPyConnection) -> pa.Table:
    """Makes and returns `step_allocated`, `number` being the row. Expects the new allocation events to be
    kept."""
    con.execute(_STEP)
    allocated = con.sql(_LATEST).to_arrow_table().combine_chunks()
    allocated = allocated.append_column("number", pa.array(np.arange(allocated.num_rows)))
    con.register("step_allocated", allocated)
    return allocated


def in_effect(con: duckdb.DuckDBPyConnection, events: str, count: int) -> Ints:
    """The row of `step_allocated` in effect for each row of the relation `events` (`number` from 0 to
    `count`, `allocation_id`, `t`), -1 for none."""
    if not count:
        return np.zeros(0, np.int64)
    found = con.sql(_IN_EFFECT.format(events=events)).to_arrow_table()
    rows = np.full(count, -1, np.int64)
    rows[found["number"].to_numpy()] = found["allocated"].to_numpy()
    return rows

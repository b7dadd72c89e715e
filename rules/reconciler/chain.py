"""What an event's allocation says: the `allocated` event in effect at its time (contract 3.2), as columns.

`step_allocated` has the allocated events of all allocations that the scope names, one per allocation and time
(the latest of the order counts), `step_released` their releases.
"""

import duckdb

from rules.reconciler.intervals import LATEST
from rules.reconciler.store import CODE
from schemas.record import Record

_STEP = f"""
CREATE OR REPLACE TEMP TABLE step_allocation AS
SELECT allocation_id, {CODE} FROM (
  SELECT allocation_id FROM scope_allocation UNION SELECT allocation_id FROM scope_access
  UNION SELECT allocation_id FROM scope_placement)
WHERE allocation_id IS NOT NULL;

CREATE OR REPLACE TEMP TABLE step_chain AS
SELECT action, allocation_id, t, source, event_id, "partition", "offset", party_id_sent, principal,
  authorization_id, serials
FROM allocation SEMI JOIN step_allocation USING (code);

CREATE OR REPLACE TEMP TABLE step_released AS
SELECT DISTINCT allocation_id, t FROM step_chain WHERE action = 'released';

CREATE OR REPLACE TEMP TABLE step_any AS SELECT * EXCLUDE (action) FROM step_chain WHERE action = 'allocated';

CREATE OR REPLACE TEMP TABLE step_several AS
SELECT allocation_id FROM step_any GROUP BY allocation_id HAVING count(*) > 1;

CREATE OR REPLACE TEMP TABLE step_allocated AS
WITH latest AS (
  FROM step_any SEMI JOIN step_several USING (allocation_id)
  QUALIFY row_number() OVER (PARTITION BY allocation_id, t ORDER BY {LATEST}) = 1
  UNION ALL FROM step_any ANTI JOIN step_several USING (allocation_id)
), released AS (
  SELECT allocation_id, a.t, min(r.t) AS released_at
  FROM latest a JOIN step_released r USING (allocation_id) WHERE r.t >= a.t GROUP BY ALL
)
SELECT a.* EXCLUDE (source, event_id, "partition", "offset"), r.released_at
FROM latest a LEFT JOIN released r USING (allocation_id, t);
"""

_WITH_ALLOCATION = """
SELECT {columns}, a.t AS allocated_at, a.party_id_sent AS allocation_party_id_sent,
  a.principal AS allocation_principal, a.authorization_id AS allocation_authorization_id,
  a.released_at AS allocation_released_at{more}
FROM {scope} s {join} a ON s.allocation_id = a.allocation_id AND s.t >= a.t
WHERE {where}
"""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables, for this connection; `scope.create` comes first."""
    con.execute(_STEP)


def follow(con: duckdb.DuckDBPyConnection) -> None:
    """Gathers the chains of the scope's allocations. Expects the new allocation events to be kept."""
    con.execute(_STEP)


def with_allocation(record: Record, columns: str, where: str, more: str = "") -> str:
    """A query: `columns` (of `s`) of the scope's rows of a stream that fulfil `where`, with what their
    allocation's event in effect names; `more` are further columns of that event, `a`.

    Nearly every allocation has one `allocated` event, for which a hash join will do; the others need ASOF.
    """
    scope = f"scope_{record.name}"
    only = _WITH_ALLOCATION.format(
        columns=columns,
        more=more,
        scope=f"(FROM {scope} ANTI JOIN step_several USING (allocation_id))",
        join="LEFT JOIN step_allocated",
        where=where,
    )
    latest = _WITH_ALLOCATION.format(
        columns=columns,
        more=more,
        scope=f"(FROM {scope} SEMI JOIN step_several USING (allocation_id))",
        join="ASOF LEFT JOIN step_allocated",
        where=where,
    )
    return f"{only} UNION ALL {latest}"

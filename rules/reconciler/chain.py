"""What an event's allocation says: the `allocated` event in effect at its time (contract 3.2), as columns.

`step_allocated` has the allocated events of all allocations that the scope names, one per allocation and time
(the latest of the order counts), `step_released` their releases.
"""

import duckdb

from rules.reconciler.intervals import LATEST
from schemas.record import Record

_STEP = f"""
CREATE OR REPLACE TEMP TABLE step_allocation AS
SELECT allocation_id FROM scope_allocation UNION SELECT allocation_id FROM scope_access
UNION SELECT allocation_id FROM scope_placement;

CREATE OR REPLACE TEMP TABLE step_released AS
SELECT DISTINCT a.allocation_id, a.t FROM allocation a SEMI JOIN step_allocation USING (allocation_id)
WHERE a.action = 'released';

CREATE OR REPLACE TEMP TABLE step_allocated AS
SELECT a.*, r.t AS released_at, count(*) OVER (PARTITION BY a.allocation_id) = 1 AS is_only
FROM (
  SELECT allocation_id, t, party_id_sent, principal, authorization_id, serials
  FROM allocation SEMI JOIN step_allocation USING (allocation_id)
  WHERE action = 'allocated'
  QUALIFY row_number() OVER (PARTITION BY allocation_id, t ORDER BY {LATEST}) = 1
) a ASOF LEFT JOIN step_released r ON a.allocation_id = r.allocation_id AND a.t <= r.t;
"""

_WITH_ALLOCATION = """
SELECT {columns}, a.t AS allocated_at, a.party_id_sent AS allocation_party_id_sent,
  a.principal AS allocation_principal, a.authorization_id AS allocation_authorization_id,
  a.released_at AS allocation_released_at{more}
FROM {scope} s {join} a ON s.allocation_id = a.allocation_id AND s.t >= a.t
WHERE {where}
"""


def follow(con: duckdb.DuckDBPyConnection) -> None:
    """Gathers the chains of the scope's allocations. Expects the new allocation events to be kept."""
    con.execute(_STEP)


def with_allocation(record: Record, columns: str, where: str, more: str = "") -> str:
    """A query: `columns` (of `s`) of the scope's rows of a stream that fulfil `where`, with what their
    allocation's event in effect names; `more` are further columns of that event, `a`.

    Nearly every allocation has one `allocated` event, for which a hash join will do; the others need ASOF.
    """
    several = "(SELECT allocation_id FROM step_allocated WHERE NOT is_only)"
    scope = f"scope_{record.name}"
    only = _WITH_ALLOCATION.format(
        columns=columns,
        more=more,
        scope=f"(FROM {scope} ANTI JOIN {several} USING (allocation_id))",
        join="LEFT JOIN (FROM step_allocated WHERE is_only)",
        where=where,
    )
    latest = _WITH_ALLOCATION.format(
        columns=columns,
        more=more,
        scope=f"(FROM {scope} SEMI JOIN {several} USING (allocation_id))",
        join="ASOF LEFT JOIN (FROM step_allocated WHERE NOT is_only)",
        where=where,
    )
    return f"{only} UNION ALL {latest}"

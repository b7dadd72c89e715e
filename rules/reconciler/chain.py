"""What an event's allocation says: the `allocated` event in effect at its time (contract 3.2), as columns.

`step_allocated` has the allocated events of all allocations that the scope names, one per allocation and time
(the latest of the order counts), `step_released` their releases.
"""

import duckdb

from rules.reconciler.intervals import LATEST
from rules.reconciler.store import listed
from schemas.events import ALLOCATION
from schemas.record import Record

_STEP = f"""
CREATE OR REPLACE TEMP TABLE step_allocation AS
SELECT allocation_id FROM scope_allocation UNION SELECT allocation_id FROM scope_access
UNION SELECT allocation_id FROM scope_placement;

CREATE OR REPLACE TEMP TABLE step_allocated AS
SELECT {listed(ALLOCATION, "a")} FROM allocation a SEMI JOIN step_allocation USING (allocation_id)
WHERE a.action = 'allocated'
QUALIFY row_number() OVER (PARTITION BY a.allocation_id, a.t ORDER BY {LATEST}) = 1;

CREATE OR REPLACE TEMP TABLE step_released AS
SELECT DISTINCT a.allocation_id, a.t FROM allocation a SEMI JOIN step_allocation USING (allocation_id)
WHERE a.action = 'released';
"""

_WITH_ALLOCATION = """
SELECT s.*, a.t AS allocated_at, a.party_id_sent AS allocation_party_id_sent,
  a.principal AS allocation_principal, a.authorization_id AS allocation_authorization_id{more}
FROM scope_{stream} s
ASOF LEFT JOIN step_allocated a ON s.allocation_id = a.allocation_id AND s.t >= a.t
WHERE {where}
"""


def follow(con: duckdb.DuckDBPyConnection) -> None:
    """Gathers the chains of the scope's allocations."""
    con.execute(_STEP)


def with_allocation(record: Record, where: str, more: str = "") -> str:
    """A query: the scope's rows of a stream that fulfil `where` (columns of `s`), with what their
    allocation's event in effect names; `more` are further columns of that event, `a`."""
    return _WITH_ALLOCATION.format(stream=record.name, where=where, more=more)

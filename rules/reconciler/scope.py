"""Which events a step has to judge: the new ones, and those that new records or versions reach back to.

Makes `scope_allocation`, `scope_access` and `scope_placement`: kept columns, and
`row_rules`: the row rules are judged here, on the event as sent and completed through its allocation;
`chain_rules`: the deadline and sweep rules of single events are judged.
"""

from collections.abc import Iterator

import duckdb

from rules.reconciler import intervals, reach
from rules.reconciler.store import TABLE, listed
from schemas.events import ACCESS, ALLOCATION, EVENTS, PLACEMENT
from schemas.record import Record

LACKING = (
    "(allocation_id IS NOT NULL AND action <> 'allocated' "
    "AND ((party_id_sent IS NULL AND principal IS NULL) OR authorization_id IS NULL))"
)
"""Events that are judged for what they do not name through their allocation (contract 3.2)."""

_JUDGED = {
    ALLOCATION.name: "action = 'allocated'",
    ACCESS.name: "true",
    PLACEMENT.name: "action <> 'stopped'",
}
"""Stream → which of its events deadline and sweep rules look at."""

_AT = 'topic, "partition", "offset"'
_AT_E = 'e.topic, e."partition", e."offset"'

_TOUCHED = """
CREATE OR REPLACE TEMP TABLE touched (
  topic VARCHAR, "partition" INTEGER, "offset" BIGINT, row_rules BOOLEAN, chain_rules BOOLEAN)
"""
_ONCE = (
    f"SELECT {_AT}, bool_or(row_rules) AS row_rules, bool_or(chain_rules) AS chain_rules "
    "FROM touched GROUP BY ALL"
)

_CHANGED = """
CREATE OR REPLACE TEMP TABLE changed_allocation AS
SELECT allocation_id, min(t) AS from_t FROM (
  SELECT allocation_id, t FROM new_allocation UNION ALL SELECT allocation_id, t FROM gone_allocation)
GROUP BY allocation_id;
"""

_RIVALS = """
CREATE OR REPLACE TEMP TABLE changed_authorization AS
SELECT authorization_id, min(from_t) AS from_t FROM (
  SELECT a.authorization_id, c.from_t
  FROM changed_chain a JOIN changed_allocation c USING (allocation_id) WHERE a.action = 'allocated'
  UNION ALL SELECT authorization_id, t FROM gone_allocation)
WHERE authorization_id IN (SELECT authorization_id FROM capped)
GROUP BY authorization_id;

CREATE OR REPLACE TEMP TABLE changed_serial AS
SELECT serial, min(from_t) AS from_t FROM (
  SELECT unnest(a.serials) AS serial, c.from_t
  FROM changed_chain a JOIN changed_allocation c USING (allocation_id) WHERE a.action = 'allocated'
  UNION ALL SELECT unnest(serials), t FROM gone_allocation)
GROUP BY serial;
"""


def build(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the scope from `new_*` (with `commit` and `stale_commit`), `gone_*` and `reach_id`.

    Expects the new allocation events to be kept already, and the new accesses and placements not yet.
    """
    con.execute(_CHANGED)
    intervals.follow(con)
    con.execute(_RIVALS)
    reaching = reach.is_reaching(con)
    if reaching:
        reach.follow_allocations(con)
    for record in EVENTS.values():
        _scope(con, record, reaching)


def _scope(con: duckdb.DuckDBPyConnection, record: Record, reaching: bool) -> None:
    """New events are all in scope; of the kept ones those that a change touches."""
    name, table = record.name, TABLE[record.name]
    con.execute(_TOUCHED)
    for query in _touching(record, reaching):
        con.execute(f"INSERT INTO touched {query}")
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE scope_{name} AS SELECT {listed(record)}, "
        f'{LACKING} OR "commit" IN (SELECT "commit" FROM stale_commit) AS row_rules, '
        f"{_JUDGED[name]} AS chain_rules FROM new_{name}"
    )
    con.execute(
        f"INSERT INTO scope_{name} BY NAME SELECT {listed(record, 'e')}, touching.row_rules, "
        f"touching.chain_rules AND {_JUDGED[name]} AS chain_rules "
        f'FROM "{table}" e JOIN ({_ONCE}) touching USING ({_AT}) ANTI JOIN new_{name} USING ({_AT})'
    )


def _touching(record: Record, reaching: bool) -> Iterator[str]:
    """Queries for the coordinates of kept events that changes touch, `row_rules` and `chain_rules`."""
    yield from _by_allocation(record, "changed_allocation", "e.t >= c.from_t")
    if record is ALLOCATION:
        yield from _rivals()
    yield f"SELECT {_AT}, false, false FROM scope_same_id WHERE topic = '{record.topic}'"
    if reaching:
        yield from _by_allocation(
            record, "reach_allocation", "e.t >= c.from_t AND (c.to_t IS NULL OR e.t < c.to_t)"
        )
        for query in reach.reached(record):
            yield f"SELECT *, true, true FROM ({query})"


def _by_allocation(record: Record, changed: str, when: str) -> Iterator[str]:
    """Events of an allocation whose own events, or what they name, have changed."""
    yield (
        f'SELECT {_AT_E}, {LACKING}, true FROM "{TABLE[record.name]}" e '
        f"JOIN {changed} c USING (allocation_id) WHERE {when}"
    )


def _rivals() -> Iterator[str]:
    """`allocated` events beside which more or less is open than before, or that were or were not placed."""
    judged = f"SELECT {_AT_E}, false, true FROM allocation e"
    placed = (
        "SELECT allocation_id FROM new_placement UNION SELECT allocation_id FROM gone_placement "
        "UNION SELECT allocation_id FROM changed_allocation"
    )
    yield f"{judged} WHERE e.allocation_id IN ({placed})"
    yield f"{judged} JOIN changed_authorization c USING (authorization_id) WHERE e.t >= c.from_t"
    yield (
        f"{judged} JOIN (SELECT DISTINCT h.allocation_id, h.from_t FROM held h JOIN changed_serial c "
        "USING (serial) WHERE h.from_t >= c.from_t) h "
        "ON e.allocation_id = h.allocation_id AND e.t = h.from_t"
    )

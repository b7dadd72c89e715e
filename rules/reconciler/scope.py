"""Which events a step has to judge: the new ones, and those that new records or versions reach back to.

Makes `older_<stream>` of the kept events that are in scope: kept columns, `number` from 0, and
`row_rules`: the row rules are judged again, on the event as sent and completed through its allocation;
`chain_rules`: the deadline and sweep rules of single events are judged again.
"""

from collections.abc import Iterator, Mapping

import duckdb
import pyarrow as pa

from rules.reconciler import intervals, reach
from rules.reconciler.state import has_rows, least, span
from rules.reconciler.store import TABLE, allocation_events, listed, relation
from schemas.events import ACCESS, ALLOCATION, EVENTS, PLACEMENT
from schemas.record import Record

LACKING = (
    "(allocation_id IS NOT NULL AND action <> 'allocated' "
    "AND ((party_id_sent IS NULL AND principal IS NULL) OR authorization_id IS NULL))"
)
"""Events that are judged for what they do not name through their allocation (contract 3.2)."""

JUDGED = {
    ALLOCATION.name: "action = 'allocated'",
    ACCESS.name: "true",
    PLACEMENT.name: "action <> 'stopped'",
}
"""Stream → which of its events deadline and sweep rules look at."""

_AT = 'topic, "partition", "offset"'
_AT_E = 'e.topic, e."partition", e."offset", e.t'

_TABLES = """
CREATE TEMP TABLE touched (
  topic VARCHAR, "partition" INTEGER, "offset" BIGINT, t TIMESTAMP, row_rules BOOLEAN, chain_rules BOOLEAN);
CREATE TEMP TABLE changed_allocation (allocation_id VARCHAR, from_t TIMESTAMP);
CREATE TEMP TABLE changed_authorization (authorization_id VARCHAR, from_t TIMESTAMP);
CREATE TEMP TABLE changed_serial (code UBIGINT, from_t TIMESTAMP);
"""

_OLDER = """
INSERT INTO older_{stream} BY NAME
SELECT {kept}, row_number() OVER () - 1 AS number, touching.row_rules,
  touching.chain_rules AND {judged} AS chain_rules
FROM {events} e JOIN (
  SELECT topic, "partition", "offset", bool_or(row_rules) AS row_rules, bool_or(chain_rules) AS chain_rules
  FROM touched GROUP BY ALL
) touching USING (topic, "partition", "offset")
WHERE e.t BETWEEN {low} AND {high}
"""

_SCOPE = """
CREATE TEMP TABLE older_{stream} AS
SELECT {columns}, 0::BIGINT AS number, false AS row_rules, false AS chain_rules FROM "{table}" LIMIT 0
"""

_CHANGED = """
INSERT INTO changed_allocation
SELECT allocation_id, min(t) AS from_t FROM (
  SELECT allocation_id, t FROM new_allocation UNION ALL SELECT allocation_id, t FROM gone_allocation)
GROUP BY allocation_id;
"""

_RIVALS = """
INSERT INTO changed_authorization
SELECT authorization_id, min(from_t) AS from_t FROM (
  SELECT authorization_id, changed_from AS from_t FROM changed_chain WHERE action = 'allocated'
  UNION ALL SELECT authorization_id, t FROM gone_allocation)
WHERE authorization_id IN (SELECT authorization_id FROM capped)
GROUP BY authorization_id;

INSERT INTO changed_serial
SELECT hash(serial) AS code, min(from_t) AS from_t FROM (
  SELECT unnest(serials) AS serial, changed_from AS from_t FROM changed_chain WHERE action = 'allocated'
  UNION ALL SELECT unnest(serials), t FROM gone_allocation)
GROUP BY code;
"""


_PLACED = """
CREATE OR REPLACE TEMP TABLE placed_allocation AS
SELECT allocation_id FROM new_placement UNION SELECT allocation_id FROM gone_placement
UNION SELECT allocation_id FROM changed_allocation
"""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables and views of the scope, for this connection; `store.create` comes first."""
    con.execute(_TABLES)
    for record in EVENTS.values():
        con.execute(
            _SCOPE.format(
                stream=record.name,
                table=TABLE[record.name],
                columns=listed(record),
            )
        )


def build(con: duckdb.DuckDBPyConnection, new: Mapping[str, pa.Table], gone: int, reaching: bool) -> None:
    """Makes `older_<stream>` from `new_*`, `gone_*`, `scope_same_id` and `reach_id`.

    Expects that the new events are not kept yet.

    Args:
        con: the state.
        new: the step's new events by stream.
        gone: how many events went.
        reaching: whether new versions may reach back.
    """
    for table in ("changed_allocation", "changed_authorization", "changed_serial"):
        con.execute(f"DELETE FROM {table}")
    if new[ALLOCATION.name].num_rows or gone:
        con.execute(_CHANGED)
        intervals.follow(con)
        con.execute(_RIVALS)
    if reaching:
        reach.follow_allocations(con)
    for record in EVENTS.values():
        _gather(con, record, reaching)


def _gather(con: duckdb.DuckDBPyConnection, record: Record, reaching: bool) -> None:
    """Fills `older_<stream>`."""
    con.execute(f"DELETE FROM older_{record.name}; DELETE FROM touched")
    queries = _touching(con, record, reaching)
    found = [con.execute(f"INSERT INTO touched {query}").fetchall() for query in queries]
    if any(count for ((count,),) in found):
        low, high = span(con, "touched")
        older = _OLDER.format(
            stream=record.name,
            events=relation(con, record, low, high),
            kept=listed(record, "e"),
            judged=JUDGED[record.name],
            low=low,
            high=high,
        )
        con.execute(older)


def _touching(con: duckdb.DuckDBPyConnection, record: Record, reaching: bool) -> Iterator[str]:
    """Queries for the kept events that changes touch: coordinates, `t`, `row_rules` and `chain_rules`."""
    since = least(con, "changed_allocation", "from_t")
    if since is not None:
        events = relation(con, record, low=since)
        yield from _by_allocation(events, "changed_allocation", f"e.t >= c.from_t AND e.t >= {since}")
    if record is ALLOCATION:
        yield from _rivals(con)
    if has_rows(con, "scope_same_id"):
        yield f"SELECT {_AT}, t, false, false FROM scope_same_id WHERE topic = '{record.topic}'"
    if reaching:
        since = least(con, "reach_id", "from_t")
        events = relation(con, record, low=since)
        yield from _by_allocation(
            events, "reach_allocation", "e.t >= c.from_t AND (c.to_t IS NULL OR e.t < c.to_t)"
        )
        for query in reach.reached(record, events):
            yield f"SELECT *, true, true FROM ({query})"


def _by_allocation(events: str, changed: str, when: str) -> Iterator[str]:
    """Events of an allocation whose own events, or what they name, have changed."""
    yield (
        f"SELECT {_AT_E}, {LACKING}, true FROM {events} e JOIN {changed} c USING (allocation_id) WHERE {when}"
    )


def _rivals(con: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """`allocated` events beside which more or less is open than before, or that were or were not placed."""
    con.execute(_PLACED)
    placed = allocation_events(con, "placed_allocation")
    yield f"SELECT {_AT_E}, false, true FROM {placed} e WHERE e.action = 'allocated'"
    judged = f"SELECT {_AT_E}, false, true FROM allocation e"
    since = least(con, "changed_authorization", "from_t")
    if since is not None:
        yield (
            f"{judged} JOIN changed_authorization c USING (authorization_id) "
            f"WHERE e.t >= c.from_t AND e.t >= {since}"
        )
    since = least(con, "changed_serial", "from_t")
    if since is not None:
        listed = (
            "SELECT unnest(serials) AS code, allocation_id, from_t "
            "FROM (FROM interval_open UNION ALL FROM interval_closed) "
            f"WHERE from_t >= {since}"
        )
        yield (
            f"{judged} JOIN (SELECT DISTINCT l.allocation_id, l.from_t "
            f"FROM ({listed}) l JOIN changed_serial c USING (code) WHERE l.from_t >= c.from_t) l "
            f"ON e.allocation_id = l.allocation_id AND e.t = l.from_t WHERE e.t >= {since}"
        )

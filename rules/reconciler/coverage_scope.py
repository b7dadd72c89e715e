"""Which allocations to cut from events of all kinds, and these events.

`coverage_placement` carries the placements in effect at the watermark, of any allocation. `coverage_late`
notes what reaches back behind `coverage_clock`, the watermark of the last update.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa

from rules.asof import Ints
from rules.reconciler.coverage_log import TEXTS
from rules.reconciler.coverage_open import Open
from rules.reconciler.pieces import Mask, Named

EventsOf = Callable[[str, str, str], str]
"""(stream, temp table, its column of allocation ids) → temp table of all events of the stream naming them."""

BEGINNING = -1
"""A watermark (µs) before every event: times are from 1970 on."""

CHUNK = 1_000_000
"""Events that are cut at once, so that memory does not grow with a step."""

_CREATE = """
CREATE TABLE IF NOT EXISTS coverage_late (allocation_id VARCHAR, from_t TIMESTAMP, voids BOOLEAN);
CREATE TABLE IF NOT EXISTS coverage_clock (t TIMESTAMP);
"""

_LATE = """
INSERT INTO coverage_late
SELECT allocation_id, min(t), bool_or(stream = 'allocation')
FROM (
  SELECT stream, t, allocation_id FROM new_event UNION ALL SELECT stream, t, allocation_id FROM gone_event)
WHERE allocation_id IS NOT NULL AND t <= make_timestamp($before)
GROUP BY allocation_id
"""

_REACHED = (
    "SELECT allocation_id, epoch_us(min(from_t)) AS from_t FROM reach_allocation GROUP BY allocation_id"
)
_REACH = "INSERT INTO coverage_late SELECT allocation_id, make_timestamp(from_t), false FROM coverage_reach"

_PASSED = "t > make_timestamp({before}) AND t <= make_timestamp({now})"

_SCOPE = f"""
CREATE OR REPLACE TEMP TABLE coverage_scope AS
WITH due AS (
  SELECT allocation_id FROM allocation WHERE {_PASSED}
  UNION SELECT allocation_id FROM recent_placement WHERE allocation_id IS NOT NULL AND {_PASSED}
), scope AS (
  SELECT allocation_id, true AS late, min(from_t) AS from_t, bool_or(voids) AS voids FROM coverage_late
  GROUP BY ALL
  UNION ALL
  SELECT allocation_id, false, NULL, false FROM due ANTI JOIN coverage_late USING (allocation_id)
)
SELECT row_number() OVER (ORDER BY allocation_id) - 1 AS number, * FROM scope;
CREATE OR REPLACE TEMP TABLE coverage_on AS SELECT number, allocation_id FROM coverage_scope WHERE NOT late;
CREATE OR REPLACE TEMP TABLE coverage_again AS SELECT number, allocation_id FROM coverage_scope WHERE late
"""

_READ_SCOPE = (
    "SELECT allocation_id, late, epoch_us(from_t) AS from_t, voids FROM coverage_scope ORDER BY number"
)

_COLUMNS = {
    "allocation": """t, source, event_id, "partition", "offset", action = 'allocated' AS allocated,
  party_id_sent, principal, authorization_id, model,
  coalesce(accelerators, nullif(len(serials), 0), 1) AS accelerators,
  requested_by IS NOT NULL AS requested""",
    "access": "t, coalesce(action IN ('opened', 'call') AND method IS NOT NULL, false) AS shows_how",
    "placement": """t, source, event_id, "partition", "offset", workload_id, action <> 'stopped' AS running,
  site_id""",
}

_TABLES = {"allocation": "allocation", "access": "recent_access", "placement": "recent_placement"}

_CARRIED = {
    "allocation": """number, make_timestamp(allocated_at) AS t, true AS allocated, party_id_sent, principal,
  authorization_id, model, accelerators, requested FROM coverage_carried""",
    "access": """number, make_timestamp(how_at) AS t, true AS shows_how FROM coverage_carried
  WHERE how_at >= 0""",
    "placement": """number, t, source, event_id, "partition", "offset", workload_id, true AS running, site_id
  FROM coverage_placement JOIN coverage_on USING (allocation_id)""",
}

_ORDER = 'ORDER BY number, t, source, event_id, "partition", "offset"'

_READ = {
    "allocation": f"""number, epoch_us(t) AS t, allocated, party_id_sent, principal, authorization_id, model,
  accelerators, requested FROM coverage_allocation_event {{chunk}} {_ORDER}""",
    "access": "number, epoch_us(t) AS t, shows_how FROM coverage_access_event {chunk}",
    "placement": f"""number, epoch_us(t) AS t, workload_id, running, site_id, source, event_id, "partition",
  "offset" FROM coverage_placement_event {{chunk}} {_ORDER}""",
}


@dataclass(frozen=True)
class Scope:
    """Some allocations to cut: one value each, and its slot where it is open (-1 where not).

    Of a `late` one all events are given, and what ends at or after `limit` (µs) is written again; of the
    others what starts at or after it. `replaces`: pieces may have been written from there on; `voids`:
    perhaps none of them is left.
    """

    ids: pa.StringArray
    slots: Ints
    late: Mask
    limit: Ints
    replaces: Mask
    voids: Mask

    def __getitem__(self, part: slice) -> "Scope":
        return Scope(*(getattr(self, field.name)[part] for field in fields(self)))


@dataclass(frozen=True)
class Events:
    """The events that name the allocations of a `Scope`: for cutting, and their columns in the same order."""

    named: Named
    allocations: pa.RecordBatch
    placements: pa.RecordBatch
    sites: pa.StringArray


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    con.execute(_CREATE)


def watermark(con: duckdb.DuckDBPyConnection) -> int:
    """The watermark (µs) of the last update, BEGINNING before the first."""
    rows = con.execute("SELECT epoch_us(t) FROM coverage_clock").fetchall()
    return int(rows[0][0]) if rows else BEGINNING


def note(con: duckdb.DuckDBPyConnection, held: Open, before: int) -> None:
    """Notes which allocations the step's events and versions reach back to, behind `before` (µs)."""
    con.execute(_LATE, {"before": before})
    reached = con.sql(_REACHED).to_arrow_table().combine_chunks()
    if reached.num_rows:
        late = _reach(held, _column(reached, "allocation_id"), _ints(_column(reached, "from_t")), before)
        con.register("coverage_reach", reached.filter(pa.array(late)))
        con.execute(_REACH)
        con.unregister("coverage_reach")


def _reach(held: Open, ids: pa.Array, from_t: Ints, before: int) -> Mask:
    """Which of these allocations versions from some time on make late: not those whose last piece began
    before it, since a piece is judged at its start. What begins later is judged anew."""
    slots = held.find(ids)
    is_open = slots >= 0
    opened = slots[is_open]
    held.set(opened, {"until": np.minimum(held["until"][opened], from_t[is_open])})
    late = from_t <= before
    late[is_open] &= from_t[is_open] <= held["from_at"][opened]
    return late


def select(con: duckdb.DuckDBPyConnection, held: Open, before: int, now: int, events_of: EventsOf) -> Scope:
    """What is to be cut from events of all kinds: the allocations that events other than accesses name, up to
    `now`, and those that something reaches back to. The others go on from what is carried.

    Makes `coverage_scope`, and for each stream a table of the events that name its allocations.
    """
    passed = {"before": before, "now": now}
    con.execute(_SCOPE.format(**passed))
    rows = con.sql(_READ_SCOPE).to_arrow_table()
    scope = _scope(held, rows)
    if len(scope.ids) == 0:
        return scope
    con.register("coverage_carried", _carried(held, scope))
    for stream, columns in _COLUMNS.items():
        table = f"coverage_{stream}_event"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT number, {columns} "
            f"FROM {_TABLES[stream]} JOIN coverage_on USING (allocation_id) WHERE {_PASSED.format(**passed)} "
            f"UNION ALL BY NAME SELECT {_CARRIED[stream]}"
        )
        if scope.late.any():
            every = events_of(stream, "coverage_again", "allocation_id")
            con.execute(
                f"INSERT INTO {table} SELECT number, {columns} "
                f'FROM "{every}" JOIN coverage_again USING (allocation_id) WHERE t <= make_timestamp({now})'
            )
    con.unregister("coverage_carried")
    return scope


def _scope(held: Open, rows: pa.Table) -> Scope:
    ids, late = _column(rows, "allocation_id"), _mask(_column(rows, "late"))
    slots = held.find(ids)
    limit = _ints(_column(rows, "from_t").fill_null(BEGINNING)).copy()
    goes_on = ~late & (slots >= 0)
    limit[goes_on] = held["from_at"][slots[goes_on]]
    replaces = late.copy()
    replaces[goes_on] = held["written"][slots[goes_on]]
    return Scope(ids, slots, late, limit, replaces, _mask(_column(rows, "voids")))


def _carried(held: Open, scope: Scope) -> pa.Table:
    """What is carried of the allocations that go on, as `_CARRIED` reads it."""
    numbers = np.flatnonzero(~scope.late & (scope.slots >= 0))
    slots = scope.slots[numbers]
    columns = {name: held[name][slots] for name in ("allocated_at", "accelerators", "requested", "how_at")}
    return pa.table({"number": numbers, **columns, **{name: held.text(name, slots) for name in TEXTS}})


def read(con: duckdb.DuckDBPyConnection, scope: Scope) -> Iterator[tuple[Scope, Events]]:
    """The allocations that `select` gave and their events, some allocations at a time."""
    if len(scope.ids) == 0:
        return
    bounds = _bounds(con, len(scope.ids))
    for low, high in pairwise(bounds):
        tables = {name: _rows(con, query, low, high, len(bounds) > 2) for name, query in _READ.items()}
        part = scope[low:high]
        yield part, _events(tables, low, np.where(part.late, BEGINNING, part.limit))


def _bounds(con: duckdb.DuckDBPyConnection, allocations: int) -> list[int]:
    """Numbers between which lie about CHUNK events."""
    parts = [f"(SELECT count(*) FROM coverage_{stream}_event)" for stream in _COLUMNS]
    ((events,),) = con.execute(f"SELECT {' + '.join(parts)}").fetchall()
    chunks = min(events // CHUNK + 1, allocations)
    return [int(bound) for bound in np.linspace(0, allocations, chunks + 1)]


def _rows(con: duckdb.DuckDBPyConnection, query: str, low: int, high: int, several: bool) -> pa.RecordBatch:
    chunk = "WHERE number >= $low AND number < $high" if several else ""
    values = {"low": low, "high": high} if several else {}
    table: pa.Table = con.sql(f"SELECT {query.format(chunk=chunk)}", params=values).to_arrow_table()
    return pa.RecordBatch.from_pydict({name: table[name].combine_chunks() for name in table.column_names})


def _events(tables: dict[str, pa.RecordBatch], low: int, since: Ints) -> Events:
    allocation, access, placement = (tables[stream] for stream in _COLUMNS)
    workload = placement["workload_id"].dictionary_encode()
    site = placement["site_id"].dictionary_encode()
    named = Named(
        since=since,
        allocation_group=_ints(allocation["number"]) - low,
        allocation_at=_ints(allocation["t"]),
        allocated=_mask(allocation["allocated"]),
        requested=_mask(allocation["requested"]),
        access_group=_ints(access["number"]) - low,
        access_at=_ints(access["t"]),
        shows_how=_mask(access["shows_how"]),
        placement_group=_ints(placement["number"]) - low,
        placement_at=_ints(placement["t"]),
        workload=_ints(workload.indices.cast(pa.int64())),
        running=_mask(placement["running"]),
        site=_ints(site.indices.cast(pa.int64()).fill_null(-1)),
    )
    columns = {name: allocation[name].dictionary_encode() for name in TEXTS}
    columns["accelerators"] = allocation["accelerators"]
    return Events(named, pa.RecordBatch.from_pydict(columns), placement, site.dictionary)


def _column(table: pa.Table, name: str) -> pa.Array:
    return table[name].combine_chunks()


def _ints(column: pa.Array) -> Ints:
    values: Ints = column.to_numpy(zero_copy_only=False)
    return values


def _mask(column: pa.Array) -> Mask:
    mask: Mask = column.to_numpy(zero_copy_only=False)
    return mask

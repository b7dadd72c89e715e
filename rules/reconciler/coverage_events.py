"""The events from which a scope's allocations are cut: what the watermark has passed, and what is carried; of
late ones all that there are.

`coverage_placement` carries the placements in effect at the watermark, of any allocation.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa

from rules.asof import Ints
from rules.reconciler.coverage_accesses import SHOWS_HOW, Accesses, concat
from rules.reconciler.coverage_log import TEXTS
from rules.reconciler.coverage_open import Open
from rules.reconciler.coverage_scope import BEGINNING, PASSED, Scope, ints, mask
from rules.reconciler.pieces import Named

EventsOf = Callable[[str, str, str], str]
"""(stream, temp table, its column of allocation ids) → temp table of all events of the stream naming them."""

CHUNK = 1_000_000
"""Events that are cut at once, so that memory does not grow with a step."""

_COLUMNS = {
    "allocation": """t, source, event_id, "partition", "offset", action = 'allocated' AS allocated,
  party_id_sent, principal, authorization_id, model,
  coalesce(accelerators, nullif(len(serials), 0), 1) AS accelerators,
  requested_by IS NOT NULL AS requested""",
    "access": f"t, {SHOWS_HOW} AS shows_how",
    "placement": """t, source, event_id, "partition", "offset", workload_id, action <> 'stopped' AS running,
  site_id""",
}

_CARRIED = {
    "allocation": """number, make_timestamp(allocated_at) AS t, true AS allocated, party_id_sent, principal,
  authorization_id, model, accelerators, requested FROM coverage_carried""",
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
class Events:
    """The events that name the allocations of a `Scope`: for cutting, and their columns in the same order."""

    named: Named
    allocations: pa.RecordBatch
    placements: pa.RecordBatch
    sites: pa.StringArray


def read(
    con: duckdb.DuckDBPyConnection,
    held: Open,
    scope: Scope,
    accesses: Accesses,
    before: int,
    now: int,
    events_of: EventsOf,
) -> Iterator[tuple[Scope, Events]]:
    """The allocations of a scope and their events up to `now`, some allocations at a time.

    `accesses`: those later than `before` of the allocations that are not late, by the position in the scope.
    """
    if len(scope.ids) == 0:
        return
    _gather(con, held, scope, PASSED.format(before=before, now=now), now, events_of)
    accesses = concat([accesses[~scope.late[accesses.owner]], _shown(held, scope)]).ordered()
    bounds = _bounds(con, len(scope.ids), len(accesses.at))
    for low, high in pairwise(bounds):
        tables = {name: _rows(con, query, low, high, len(bounds) > 2) for name, query in _READ.items()}
        part = scope[low:high]
        mine = accesses[slice(*np.searchsorted(accesses.owner, [low, high]))]
        yield part, _events(tables, mine, low, np.where(part.late, BEGINNING, part.limit))


def _gather(
    con: duckdb.DuckDBPyConnection, held: Open, scope: Scope, passed: str, now: int, events_of: EventsOf
) -> None:
    """Makes of each stream a table of the events that name an allocation of the scope; of accesses only those
    of late ones."""
    con.register("coverage_carried", _carried(held, scope))
    for stream in _CARRIED:
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE coverage_{stream}_event AS SELECT number, {_COLUMNS[stream]} "
            f"FROM {stream} JOIN coverage_on USING (allocation_id) WHERE {passed} "
            f"UNION ALL BY NAME SELECT {_CARRIED[stream]}"
        )
    con.unregister("coverage_carried")
    con.execute(
        "CREATE OR REPLACE TEMP TABLE coverage_access_event (number BIGINT, t TIMESTAMP, shows_how BOOLEAN)"
    )
    for stream, columns in _COLUMNS.items() if scope.late.any() else ():
        every = events_of(stream, "coverage_again", "allocation_id")
        con.execute(
            f"INSERT INTO coverage_{stream}_event SELECT number, {columns} "
            f'FROM "{every}" JOIN coverage_again USING (allocation_id) WHERE t <= make_timestamp({now})'
        )


def _shown(held: Open, scope: Scope) -> Accesses:
    """Of the allocations that go on, the first access that shows how, where there was one."""
    numbers = np.flatnonzero(~scope.late & (scope.slots >= 0))
    at = held["how_at"][scope.slots[numbers]]
    return Accesses(numbers, at, np.ones(len(at), bool))[at >= 0]


def _bounds(con: duckdb.DuckDBPyConnection, allocations: int, accesses: int) -> list[int]:
    """Numbers between which lie about CHUNK events."""
    parts = [f"(SELECT count(*) FROM coverage_{stream}_event)" for stream in _COLUMNS]
    ((events,),) = con.execute(f"SELECT {' + '.join(parts)}").fetchall()
    chunks = min((events + accesses) // CHUNK + 1, allocations)
    return [int(bound) for bound in np.linspace(0, allocations, chunks + 1)]


def _rows(con: duckdb.DuckDBPyConnection, query: str, low: int, high: int, several: bool) -> pa.RecordBatch:
    chunk = "WHERE number >= $low AND number < $high" if several else ""
    values = {"low": low, "high": high} if several else {}
    table: pa.Table = con.sql(f"SELECT {query.format(chunk=chunk)}", params=values).to_arrow_table()
    return pa.RecordBatch.from_pydict({name: table[name].combine_chunks() for name in table.column_names})


def _events(tables: dict[str, pa.RecordBatch], accesses: Accesses, low: int, since: Ints) -> Events:
    allocation, late, placement = (tables[stream] for stream in _COLUMNS)
    more = Accesses(*(ints(late["number"]), ints(late["t"])), mask(late["shows_how"]))
    access = concat([accesses, more])
    workload = placement["workload_id"].dictionary_encode()
    site = placement["site_id"].dictionary_encode()
    named = Named(
        since=since,
        allocation_group=ints(allocation["number"]) - low,
        allocation_at=ints(allocation["t"]),
        allocated=mask(allocation["allocated"]),
        requested=mask(allocation["requested"]),
        access_group=access.owner - low,
        access_at=access.at,
        shows_how=access.shows_how,
        placement_group=ints(placement["number"]) - low,
        placement_at=ints(placement["t"]),
        workload=ints(workload.indices.cast(pa.int64())),
        running=mask(placement["running"]),
        site=ints(site.indices.cast(pa.int64()).fill_null(-1)),
    )
    columns = {name: allocation[name].dictionary_encode() for name in TEXTS}
    columns["accelerators"] = allocation["accelerators"]
    return Events(named, pa.RecordBatch.from_pydict(columns), placement, site.dictionary)


def _carried(held: Open, scope: Scope) -> pa.Table:
    """What is carried of the allocations that go on, as `_CARRIED` reads it."""
    numbers = np.flatnonzero(~scope.late & (scope.slots >= 0))
    slots = scope.slots[numbers]
    columns = {name: held[name][slots] for name in ("allocated_at", "accelerators", "requested")}
    return pa.table({"number": numbers, **columns, **{name: held.text(name, slots) for name in TEXTS}})

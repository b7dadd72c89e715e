"""Which allocations to cut again, and the events that name them.

`coverage_open` carries each allocation that is open at the watermark: where its last piece starts, whether
that is written, and the `allocated` event in effect. `coverage_placement` carries the placements in effect at
the watermark, of any allocation. `coverage_late` notes what reaches back behind `coverage_clock`, the
watermark of the last update.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow as pa

from rules.asof import Ints
from rules.reconciler.pieces import Mask, Named

EventsOf = Callable[[str, str, str], str]
"""(stream, temp table, its column of allocation ids) → temp table of all events of the stream naming them."""

BEGINNING = -1
"""A watermark (µs) before every event: times are from 1970 on."""

CHUNK = 1_000_000
"""Events that are cut at once, so that memory does not grow with a step."""

_CREATE = """
CREATE TABLE IF NOT EXISTS coverage_open (
  allocation_id VARCHAR, from_at TIMESTAMP, written BOOLEAN, site_id VARCHAR, covered BOOLEAN,
  how_at TIMESTAMP, allocated_at TIMESTAMP, party_id_sent VARCHAR, principal VARCHAR,
  authorization_id VARCHAR, model VARCHAR, accelerators BIGINT, requested BOOLEAN);
CREATE TABLE IF NOT EXISTS coverage_placement (
  allocation_id VARCHAR, workload_id VARCHAR, site_id VARCHAR, t TIMESTAMP, source VARCHAR, event_id VARCHAR,
  "partition" INTEGER, "offset" BIGINT);
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

# The piece that still runs was judged at its start: a version from later on does not touch it.
_REACHED = """
INSERT INTO coverage_late
SELECT r.allocation_id, min(r.from_t), false
FROM reach_allocation r LEFT JOIN coverage_open o USING (allocation_id)
WHERE r.from_t <= make_timestamp($before) AND (o.allocation_id IS NULL OR r.from_t <= o.from_at)
GROUP BY r.allocation_id
"""

_PASSED = "t > make_timestamp($before) AND t <= make_timestamp($now)"

_SCOPE = f"""
CREATE OR REPLACE TEMP TABLE coverage_scope AS
WITH late AS (
  SELECT allocation_id, min(from_t) AS from_t, bool_or(voids) AS voids FROM coverage_late GROUP BY ALL
), due AS (
  SELECT allocation_id FROM allocation WHERE {_PASSED}
  UNION SELECT allocation_id FROM recent_access WHERE allocation_id IS NOT NULL AND {_PASSED}
  UNION SELECT allocation_id FROM recent_placement WHERE allocation_id IS NOT NULL AND {_PASSED}
  UNION SELECT allocation_id FROM coverage_open WHERE NOT written AND from_at < make_timestamp($now)
), scope AS (
  SELECT allocation_id, true AS late, from_t, true AS replaces, voids FROM late
  UNION ALL
  SELECT allocation_id, false, o.from_at, coalesce(o.written, false), false
  FROM due ANTI JOIN late USING (allocation_id) LEFT JOIN coverage_open o USING (allocation_id)
)
SELECT row_number() OVER (ORDER BY allocation_id) - 1 AS number, * FROM scope
"""

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
    "allocation": """allocated_at AS t, true AS allocated, party_id_sent, principal, authorization_id, model,
  accelerators, requested FROM coverage_open""",
    "access": "how_at AS t, true AS shows_how FROM (FROM coverage_open WHERE how_at IS NOT NULL)",
    "placement": """t, source, event_id, "partition", "offset", workload_id, true AS running, site_id
  FROM coverage_placement""",
}

_ORDER = 'ORDER BY number, t, source, event_id, "partition", "offset"'

_READ = {
    "allocation": f"""number, epoch_us(t) AS t, allocated, party_id_sent, principal, authorization_id, model,
  accelerators, requested FROM coverage_allocation_event {{chunk}} {_ORDER}""",
    "access": "number, epoch_us(t) AS t, shows_how FROM coverage_access_event {chunk}",
    "placement": f"""number, epoch_us(t) AS t, workload_id, running, site_id, source, event_id, "partition",
  "offset" FROM coverage_placement_event {{chunk}} {_ORDER}""",
    "scope": """number, allocation_id, late, epoch_us(from_t) AS from_t, replaces, voids
  FROM coverage_scope {chunk} ORDER BY number""",
}


@dataclass(frozen=True)
class Scope:
    """Some allocations to cut, numbered from 0, which is number `first` of `coverage_scope`.

    Of a `late` one all events are given, and what ends at or after `limit` (µs) is written again; of the
    others what starts at or after it. `replaces`: pieces may have been written from there on; `voids`:
    perhaps none of them is left.
    """

    first: int
    ids: pa.Array
    late: Mask
    limit: Ints
    replaces: Mask
    voids: Mask


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


def note(con: duckdb.DuckDBPyConnection, before: int) -> None:
    """Notes which allocations the step's events and versions reach back to, behind `before` (µs)."""
    if before != BEGINNING:
        con.execute(_LATE, {"before": before})
        con.execute(_REACHED, {"before": before})


def select(con: duckdb.DuckDBPyConnection, before: int, now: int, events_of: EventsOf) -> bool:
    """Makes `coverage_scope`, and for each stream the events up to `now` that name its allocations.

    An allocation that nothing reaches back to goes on from what is carried. Returns whether there is any.
    """
    con.execute(_SCOPE, {"before": before, "now": now})
    number, again = con.execute("SELECT count(*), count_if(late) FROM coverage_scope").fetchall()[0]
    if number == 0:
        return False
    for late in (False, True):
        name = "coverage_again" if late else "coverage_on"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {name} AS "
            f"SELECT number, allocation_id FROM coverage_scope WHERE {'' if late else 'NOT '}late"
        )
    for stream, columns in _COLUMNS.items():
        table = f"coverage_{stream}_event"
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT number, {columns} "
            f"FROM {_TABLES[stream]} JOIN coverage_on USING (allocation_id) WHERE {_PASSED} "
            f"UNION ALL BY NAME SELECT number, {_CARRIED[stream]} JOIN coverage_on USING (allocation_id)",
            {"before": before, "now": now},
        )
        if again:
            every = events_of(stream, "coverage_again", "allocation_id")
            con.execute(
                f"INSERT INTO {table} SELECT number, {columns} "
                f'FROM "{every}" JOIN coverage_again USING (allocation_id) WHERE t <= make_timestamp($now)',
                {"now": now},
            )
    return True


def read(con: duckdb.DuckDBPyConnection) -> Iterator[tuple[Scope, Events]]:
    """What `select` made, some allocations at a time."""
    bounds = _bounds(con)
    for low, high in pairwise(bounds):
        tables = {name: _rows(con, query, low, high, len(bounds) > 2) for name, query in _READ.items()}
        scope = tables["scope"]
        late = _mask(scope["late"])
        limit = _ints(scope["from_t"].fill_null(BEGINNING))
        yield (
            Scope(
                low,
                scope["allocation_id"],
                late,
                limit,
                _mask(scope["replaces"]),
                _mask(scope["voids"]),
            ),
            _events(tables, low, np.where(late, BEGINNING, limit)),
        )


def _bounds(con: duckdb.DuckDBPyConnection) -> list[int]:
    """Numbers between which lie about CHUNK events."""
    parts = [f"(SELECT count(*) FROM coverage_{stream}_event)" for stream in _COLUMNS]
    allocations, events = con.execute(f"SELECT count(*), {' + '.join(parts)} FROM coverage_scope").fetchall()[
        0
    ]
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
    texts = ("party_id_sent", "principal", "authorization_id", "model")
    columns = {name: allocation[name].dictionary_encode() for name in texts}
    columns["accelerators"] = allocation["accelerators"]
    return Events(named, pa.RecordBatch.from_pydict(columns), placement, site.dictionary)


def _ints(column: pa.Array) -> Ints:
    values: Ints = column.to_numpy(zero_copy_only=False)
    return values


def _mask(column: pa.Array) -> Mask:
    mask: Mask = column.to_numpy(zero_copy_only=False)
    return mask

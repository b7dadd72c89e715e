"""The stretches of a step's numbers and broker times without a gap, source by source (see `absences.py`).

Worked out over arrays: a step has many events and few sources.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]

ISLAND = pa.schema([("beat", pa.bool_()), ("source", pa.string()), ("low", pa.int64()), ("high", pa.int64())])
EDGE = pa.schema(
    [
        ("beat", pa.bool_()),
        ("source", pa.string()),
        ("value", pa.int64()),
        ("t", pa.int64()),
        ("topic", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("event_id", pa.string()),
    ]
)

NEWEST = pa.schema([("source", pa.string()), ("newest", pa.int64())])

_COLUMNS = ("source", "source_seq", "broker_time", "t", "future", "topic", "partition", "offset", "event_id")


@dataclass(frozen=True)
class Measured:
    """What a step's events say of their sources; times in µs.

    Attributes:
        islands: ISLAND rows, the lowest and the highest value of each stretch whose values lie no further
            apart than the source's threshold.
        edges: EDGE rows, the events that have one of these values.
        newest: NEWEST rows, the greatest event time of events that are not `future`.
    """

    islands: pa.Table
    edges: pa.Table
    newest: pa.Table


def measure(con: duckdb.DuckDBPyConnection, least_us: int, new: Iterable[pa.Table] | None = None) -> Measured:
    """Measures `new_event`, or the tables that it is a view of, where they are at hand.

    Numbers lie apart by more than 1, broker times by more than `source_bound.least_us`, or `least_us` where
    that says nothing.
    """
    if new is None:
        rows = con.sql("FROM new_event").to_arrow_table().select(_COLUMNS)
    else:
        rows = pa.concat_tables(table.select(_COLUMNS) for table in new)
    names, codes = _coded(rows["source"])
    bounds = con.sql("SELECT source, least_us FROM source_bound").to_arrow_table()
    limits = bounds["least_us"].take(pc.index_in(names, bounds["source"])).fill_null(least_us).to_numpy()
    islands: list[pa.Table] = []
    edges: list[pa.Table] = []
    for beat, column in ((False, "source_seq"), (True, "broker_time")):
        island, edge = _measured(rows, column, names, codes, limits if beat else np.ones_like(limits))
        for found, table in ((islands, island), (edges, edge)):
            found.append(table.append_column("beat", pa.repeat(beat, len(table))))
    return Measured(
        pa.concat_tables(islands).select(ISLAND.names).cast(ISLAND),
        pa.concat_tables(edges).select(EDGE.names).cast(EDGE),
        _newest(rows, names, codes),
    )


def _newest(rows: pa.Table, names: pa.Array, codes: Codes) -> pa.Table:
    times, future = _numbers(rows["t"]), rows["future"].to_numpy()
    if future.any():
        times, codes = times[~future], codes[~future]
    _, newest = _extremes(times, codes, len(names))
    found = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    return pa.table([names.take(pa.array(found)), newest[found]], NEWEST)


def _measured(
    rows: pa.Table, column: str, names: pa.Array, codes: Codes, limits: Ints
) -> tuple[pa.Table, pa.Table]:
    """The islands and edges of one kind. `codes`: which of the `names` is each row's source; `limits`: how
    far apart neighbours of each source may be."""
    there = np.flatnonzero(rows[column].is_valid().to_numpy())
    if len(there) < len(rows):
        codes = codes[there]
    values = _numbers(rows[column].drop_null())
    source, low, high, at_edge = _islands(values, codes, limits)
    islands = pa.table({"source": names.take(pa.array(source)), "low": low, "high": high})
    events = rows.select(["source", "t", "topic", "partition", "offset", "event_id"]).take(there[at_edge])
    return islands, events.append_column("value", pa.array(values[at_edge]))


def _islands(values: Ints, codes: Codes, limits: Ints) -> tuple[Codes, Ints, Ints, Ints]:
    """(source, lowest and highest value of each island; the positions of the values at their edges)."""
    low, high = _extremes(values, codes, len(limits))
    spoke = np.bincount(codes, minlength=len(limits)) > 0
    one = spoke & ((_apart(high, low) <= limits.view(np.uint64)) | _whole(values, codes, low, high))
    at_edge = (values == low[codes]) | (values == high[codes])
    if (one == spoke).all():
        found = np.flatnonzero(spoke)
        return found, low[found], high[found], np.flatnonzero(at_edge)
    rest = np.flatnonzero(~one[codes])
    rest = rest[np.lexsort((values[rest], codes[rest]))]
    ordered, source = values[rest], codes[rest]
    starts = np.ones(len(rest) + 1, bool)
    starts[1:-1] = (source[1:] != source[:-1]) | (
        _apart(ordered[1:], ordered[:-1]) > limits[source[1:]].view(np.uint64)
    )
    first, last = np.flatnonzero(starts)[:-1], np.flatnonzero(starts)[1:] - 1
    island = np.cumsum(starts[:-1]) - 1
    at_edge[rest] = (ordered == ordered[first][island]) | (ordered == ordered[last][island])
    found = np.flatnonzero(one)
    return (
        np.concatenate([found, source[first]]),
        np.concatenate([low[found], ordered[first]]),
        np.concatenate([high[found], ordered[last]]),
        np.flatnonzero(at_edge),
    )


def _apart(higher: Ints, lower: Ints) -> npt.NDArray[np.uint64]:
    """How far apart two numbers are, of which neither is lower than the other; more than an int64 can say."""
    distance: npt.NDArray[np.uint64] = higher.view(np.uint64) - lower.view(np.uint64)  # wraps around rightly
    return distance


def _numbers(column: pa.ChunkedArray) -> Ints:
    """Numbers, or times as numbers; none is null."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us")).cast(pa.int64())
    values: Ints = column.to_numpy()
    return values


def _extremes(values: Ints, codes: Codes, count: int) -> tuple[Ints, Ints]:
    """The lowest and highest value of each source; of those without one, the extremes of the type."""
    ends = np.iinfo(np.int64)
    low, high = np.full(count, ends.max), np.full(count, ends.min)
    np.minimum.at(low, codes, values)
    np.maximum.at(high, codes, values)
    return low, high


def _coded(sources: pa.ChunkedArray) -> tuple[pa.Array, Codes]:
    """Each source once, and which of them each row has."""
    encoded = sources.dictionary_encode().unify_dictionaries().combine_chunks()
    return encoded.dictionary, encoded.indices.to_numpy().astype(np.int64)


def _whole(values: Ints, codes: Codes, low: Ints, high: Ints) -> Mask:
    """Of each source, whether every number from its lowest to its highest is there."""
    wide = _apart(high, low)
    counts = np.bincount(codes, minlength=len(low)).astype(np.uint64)
    able = wide < counts
    room = np.where(able, wide + np.uint64(1), np.uint64(0)).astype(np.int64)
    first = np.cumsum(room) - room
    if not able.all():
        rows = able[codes]
        values, codes = values[rows], codes[rows]
    there = np.zeros(int(room.sum()) + 1, bool)  # one spare, so that every source has a place to start at
    there[(first - low)[codes] + values] = True
    distinct = np.add.reduceat(there, first, dtype=np.int64)
    return able & (distinct == room)

"""From where to where a step's numbers and broker times reach, source by source (see `absences.py`).

Worked out over arrays: a step has many events and few sources.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]

SPAN = pa.schema(
    [
        ("beat", pa.bool_()),
        ("source", pa.string()),
        ("low", pa.int64()),
        ("high", pa.int64()),
        ("whole", pa.bool_()),
    ]
)
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
        spans: SPAN rows, the lowest and the highest value; `whole`: all values between the two are there.
        edges: EDGE rows, the events that have one of these values.
        newest: NEWEST rows, the greatest event time of events that are not `future`.
    """

    spans: pa.Table
    edges: pa.Table
    newest: pa.Table


def measure(con: duckdb.DuckDBPyConnection, new: Iterable[pa.Table] | None = None) -> Measured:
    """Measures `new_event`, or the tables that it is a view of, where they are at hand."""
    if new is None:
        rows = con.sql("FROM new_event").to_arrow_table().select(_COLUMNS)
    else:
        rows = pa.concat_tables(table.select(_COLUMNS) for table in new)
    names, codes = _coded(rows["source"])
    spans, edges = [], []
    for beat, column in ((False, "source_seq"), (True, "broker_time")):
        span, edge = _measured(rows, column, names, codes)
        spans.append(span.append_column("beat", pa.array([beat] * len(span), pa.bool_())).select(SPAN.names))
        edges.append(edge.append_column("beat", pa.array([beat] * len(edge), pa.bool_())).select(EDGE.names))
    return Measured(
        pa.concat_tables(spans).cast(SPAN), pa.concat_tables(edges).cast(EDGE), _newest(rows, names, codes)
    )


def _newest(rows: pa.Table, names: pa.Array, codes: Codes) -> pa.Table:
    times, future = _numbers(rows["t"]), rows["future"].to_numpy()
    if future.any():
        times, codes = times[~future], codes[~future]
    _, newest = _extremes(times, codes, len(names))
    found = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    return pa.table([names.take(pa.array(found)), newest[found]], NEWEST)


def _measured(rows: pa.Table, column: str, names: pa.Array, codes: Codes) -> tuple[pa.Table, pa.Table]:
    """The spans and edges of one kind. `codes`: which of the `names` is each row's source."""
    there = np.flatnonzero(rows[column].is_valid().to_numpy())
    if len(there) < len(rows):
        codes = codes[there]
    values = _numbers(rows[column].drop_null())
    low, high = _extremes(values, codes, len(names))
    found = np.flatnonzero(np.bincount(codes, minlength=len(names)))
    whole = pa.array(_whole(values, codes, low, high)[found])
    span = {"source": names.take(pa.array(found)), "low": low[found], "high": high[found], "whole": whole}
    edges = np.flatnonzero((values == low[codes]) | (values == high[codes]))
    events = rows.select(["source", "t", "topic", "partition", "offset", "event_id"]).take(there[edges])
    return pa.table(span), events.append_column("value", pa.array(values[edges]))


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
    wide = high.view(np.uint64) - low.view(np.uint64)  # wraps around rightly
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

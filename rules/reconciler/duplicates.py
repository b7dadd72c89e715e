"""Duplicates, and events that bear one id but differ (contract section 1).

Of the accepted events of a stream with equal (source, event_id) and equal fields, the one with the lowest
coordinates is the original and the others are its duplicates, however late they come. A lower coordinate that
comes later takes the part over: the original so far is `gone`. What is original is held in `Seen`; of
duplicates only the coordinates are held.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rules.join import FUTURE_US
from rules.reconciler import fingerprint
from rules.reconciler.runs import NO_TIME, Entries, Ints, Words, concat
from rules.reconciler.seen import Seen
from schemas.events import EVENTS
from schemas.record import Record
from schemas.tables import COORDINATES

Mask = npt.NDArray[np.bool_]

CONFLICT_WINDOW_US = 7 * 86_400 * 1_000_000
"""Conflicts are recognised among events no further apart than this."""

GONE = pa.schema(
    [
        ("stream", pa.string()),
        *COORDINATES,
        ("source", pa.string()),
        ("event_id", pa.string()),
        ("source_seq", pa.int64()),
        ("t", pa.timestamp("us")),
        ("broker_time", pa.timestamp("us")),
        ("future", pa.bool_()),
        ("allocation_id", pa.string()),
        ("action", pa.string()),
    ]
)

DUPLICATES = pa.schema([*COORDINATES, *(pa.field(f"of_{field.name}", field.type) for field in COORDINATES)])

_TOPICS = pa.array(sorted(EVENTS), pa.string())  # codes sort as the topics do
_STREAMS = pa.array([EVENTS[topic].name for topic in sorted(EVENTS)], pa.string())
_NARROW = ("source", "event_id", "source_seq", "allocation_id", "action")


@dataclass(frozen=True)
class Found:
    """What became of a step's rows.

    Attributes:
        original: by stream, whether each row of the step is an original.
        duplicates: DUPLICATES rows: the new duplicates, and those whose original is another one now.
        gone: GONE rows: originals of earlier steps that are duplicates now.
    """

    original: Mapping[str, Mask]
    duplicates: pa.Table
    gone: pa.Table


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes what is missing of the tables."""
    fingerprint.create(con)
    con.execute(
        'CREATE TABLE IF NOT EXISTS known_duplicate (topic VARCHAR, "partition" INTEGER, "offset" BIGINT, '
        "of_topic VARCHAR, of_partition INTEGER, of_offset BIGINT)"
    )


def find(con: duckdb.DuckDBPyConnection, seen: Seen, landed: Mapping[str, pa.Table]) -> Found:
    """Takes in a step's events and says which are originals.

    Args:
        con: needs the temp table `judged_id`; gets the temp table `scope_same_id`, with all events of the ids
            in it (party_id and allocation_id null).
        seen: the index over `con`.
        landed: by stream, `typed(record)` rows without `ingested_at`; no coordinate is handed in twice, ever.
    """
    seen.refresh()
    rows = _Rows.of(con, landed)
    order = np.argsort(rows.entries.key, kind="stable")
    entries = rows.entries.take(order)
    held = _held(seen, entries)
    which = np.flatnonzero(_repeated(entries.key) | np.isin(entries.key, held.key))
    classes = _Classes.of(entries.take(which), held)
    fresh = np.ones(len(entries), bool)
    fresh[which] = classes.first[: len(which)]
    seen.add(entries.take(np.flatnonzero(fresh)))
    _judge_ids(con, seen, rows, order[which], classes)
    original = np.empty(len(entries), bool)
    original[order] = fresh
    bounds = np.cumsum([0, *(len(table) for table in rows.tables.values())])
    return Found(
        {name: original[bounds[i] : bounds[i + 1]] for i, name in enumerate(rows.tables)},
        _duplicates(con, classes),
        _gone(rows, order[which], classes),
    )


@dataclass(frozen=True)
class _Rows:
    """The step's rows, stream after stream, and their entries in the same order."""

    tables: dict[str, pa.Table]
    entries: Entries

    @staticmethod
    def of(con: duckdb.DuckDBPyConnection, landed: Mapping[str, pa.Table]) -> "_Rows":
        records = [record for record in EVENTS.values() if record.name in landed]
        tables = {record.name: landed[record.name] for record in records}
        return _Rows(tables, concat(_entries(con, record, tables[record.name]) for record in records))

    def narrow(self, at: Ints) -> pa.Table:
        """Source, event id and what else all streams have, of rows by number."""
        return pa.concat_tables(table.select(_NARROW) for table in self.tables.values()).take(pa.array(at))


def _entries(con: duckdb.DuckDBPyConnection, record: Record, rows: pa.Table) -> Entries:
    code = _TOPICS.index(record.topic).as_py()
    assert pc.all(pc.equal(rows["topic"], record.topic)).as_py() is not False, "a row of another topic"
    fields = rows.drop_columns("party_id").append_column("party_id", rows["party_id_sent"])
    return Entries.of(
        fingerprint.identities(con, rows),
        fingerprint.contents(con, record, fields),
        _times(rows["occurred_at"]),
        _times(rows["broker_time"]),
        (code << 32) | _numbers(rows["partition"]),
        _numbers(rows["offset"]),
    )


def _times(column: pa.ChunkedArray) -> Ints:
    values: Ints = column.cast(pa.timestamp("us")).cast(pa.int64()).fill_null(NO_TIME).to_numpy()
    return np.ascontiguousarray(values)


def _numbers(column: pa.ChunkedArray) -> Ints:
    values: Ints = column.cast(pa.int64()).to_numpy()
    return np.ascontiguousarray(values)


def _held(seen: Seen, entries: Entries) -> Entries:
    """The entries of the index that have a key of these (ascending keys) and are near enough in time."""
    if len(entries) == 0:
        return concat([])
    low, high = int(entries.t.min()), int(entries.t.max())
    distinct = entries.key[np.concatenate([[True], entries.key[1:] != entries.key[:-1]])]
    _, held = seen.find(distinct, low - CONFLICT_WINDOW_US, high + CONFLICT_WINDOW_US)
    return held


def _repeated(keys: Words) -> Mask:
    """Which of the ascending keys are there more than once."""
    same = keys[1:] == keys[:-1]
    repeated = np.zeros(len(keys), bool)
    repeated[1:] |= same
    repeated[:-1] |= same
    return repeated


@dataclass(frozen=True)
class _Classes:
    """New entries, then held ones, with the order that brings together what has one id and one content.

    `new` counts the new ones; `first` is true for the one with the lowest coordinates of each class, and
    `original` the position of that one.
    """

    entries: Entries
    new: int
    order: Ints
    first: Mask
    original: Ints

    @staticmethod
    def of(new: Entries, held: Entries) -> "_Classes":
        both = concat([new, held])
        order = np.lexsort((both.offset, both.place, *both.words[3::-1]))
        starts = np.ones(len(order), bool)
        starts[1:] = (np.diff(both.words[:4, order]) != 0).any(axis=0)
        first = np.empty(len(order), bool)
        first[order] = starts
        original = np.empty(len(order), np.int64)
        original[order] = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
        return _Classes(both, len(new), order, first, original)

    def replaced(self) -> Ints:
        """The held entries that were original until now and whose class has a new first."""
        held = self.order[self.order >= self.new]
        once = np.concatenate([[True], self.original[held][1:] != self.original[held][:-1]])[: len(held)]
        lowest = held[once]  # of each class, the lowest of those held
        return lowest[self.original[lowest] < self.new]

    def shared(self) -> Ints:
        """One new entry of every id that stands for more than one content and has a new entry."""
        words = self.entries.words[:2, self.order]
        starts = np.ones(len(self.order), bool)
        starts[1:] = (np.diff(words) != 0).any(axis=0)
        group = np.cumsum(starts) - 1
        contents = np.bincount(group, self.first[self.order])
        lowest = np.full(len(contents), len(self.order))
        np.minimum.at(lowest, group, self.order)
        shared: Ints = lowest[(contents > 1) & (lowest < self.new)]
        return shared


def _duplicates(con: duckdb.DuckDBPyConnection, classes: _Classes) -> pa.Table:
    """Rows for all whose original is new or changed, which are also remembered."""
    replaced = classes.replaced()
    places = np.concatenate([np.flatnonzero(~classes.first[: classes.new]), replaced])
    named = _coordinates(classes.entries.take(places))
    of = _coordinates(classes.entries.take(classes.original[places]), "of_")
    changed = pa.table({**named, **of}, schema=DUPLICATES)
    if len(replaced):
        changed = pa.concat_tables([changed, _followers(con, changed)])
    if len(changed):
        con.register("changed_duplicates", changed)
        con.execute("INSERT INTO known_duplicate FROM changed_duplicates")
        con.unregister("changed_duplicates")
    return changed


def _followers(con: duckdb.DuckDBPyConnection, changed: pa.Table) -> pa.Table:
    """The known duplicates of originals that are duplicates now, as rows of the new originals; taken out."""
    con.register("changed_duplicates", changed)
    con.execute(
        "CREATE OR REPLACE TEMP TABLE duplicate_follower AS "
        'SELECT k.topic, k."partition", k."offset", c.of_topic, c.of_partition, c.of_offset '
        "FROM known_duplicate k JOIN changed_duplicates c ON k.of_topic = c.topic "
        'AND k.of_partition = c."partition" AND k.of_offset = c."offset"'
    )
    con.unregister("changed_duplicates")
    con.execute(
        "DELETE FROM known_duplicate k USING duplicate_follower f WHERE k.topic = f.topic "
        'AND k."partition" = f."partition" AND k."offset" = f."offset"'
    )
    return con.sql("FROM duplicate_follower").to_arrow_table().cast(DUPLICATES)


def _gone(rows: _Rows, numbers: Ints, classes: _Classes) -> pa.Table:
    """The held entries that are no originals any more. `numbers` are the row numbers of the new entries."""
    replaced = classes.replaced()
    entries = classes.entries.take(replaced)
    narrow = rows.narrow(numbers[classes.original[replaced]])
    timed = entries.broker_time != NO_TIME
    columns = {
        "stream": _STREAMS.take(pa.array(entries.place >> 32)),
        **_coordinates(entries),
        **{name: narrow[name] for name in _NARROW},
        "t": pa.array(entries.t, pa.timestamp("us")),
        "broker_time": pa.array(entries.broker_time, pa.timestamp("us"), mask=~timed),
        "future": pa.array(timed & (entries.t - FUTURE_US > entries.broker_time)),
    }
    return pa.table(columns).select(GONE.names).cast(GONE)


def _judge_ids(
    con: duckdb.DuckDBPyConnection, seen: Seen, rows: _Rows, numbers: Ints, classes: _Classes
) -> None:
    """Fills `judged_id` and `scope_same_id` for the new entries' ids that stand for more than one content."""
    shared = classes.shared()
    narrow = rows.narrow(numbers[shared])
    ids = _ids(classes.entries.take(shared))
    _, held = seen.find(np.unique(classes.entries.key[shared]))
    every = _Classes.of(concat([]), held)
    events = held.take(every.order[every.first[every.order]])  # what is original, by id
    of = pc.index_in(_ids(events), ids)
    events = events.take(np.flatnonzero(of.is_valid().to_numpy(zero_copy_only=False)))
    of = of.drop_null()
    con.register(
        "same_id",
        pa.table(
            {
                **_coordinates(events),
                "source": narrow["source"].take(of),
                "event_id": narrow["event_id"].take(of),
                "t": pa.array(events.t, pa.timestamp("us")),
                "number": of,
            }
        ),
    )
    con.execute(_SAME_ID)
    con.unregister("same_id")
    con.execute("INSERT INTO judged_id SELECT DISTINCT source, event_id FROM scope_same_id")


_SAME_ID = """
CREATE OR REPLACE TEMP TABLE scope_same_id AS
SELECT topic, "partition", "offset", source, event_id, t,
  CAST(NULL AS VARCHAR) AS party_id, CAST(NULL AS VARCHAR) AS allocation_id,
  least(
    epoch_us(t) - lag(epoch_us(t)) OVER by_time, lead(epoch_us(t)) OVER by_time - epoch_us(t)
  ) AS apart_us
FROM same_id
WINDOW by_time AS (PARTITION BY number ORDER BY t, topic, "partition", "offset")
"""


def _ids(entries: Entries) -> pa.Array:
    """Both words of each id's fingerprint as one value."""
    words = np.ascontiguousarray(entries.words[:2].T)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(entries), [None, pa.py_buffer(words)])


def _coordinates(entries: Entries, prefix: str = "") -> dict[str, pa.Array]:
    return {
        f"{prefix}topic": _TOPICS.take(pa.array(entries.place >> 32)),
        f"{prefix}partition": pa.array((entries.place & 0xFFFFFFFF).astype(np.int32)),
        f"{prefix}offset": pa.array(entries.offset),
    }

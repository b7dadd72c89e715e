"""Duplicates, and events that bear one id but differ (contract section 1).

Of the accepted events of a stream with equal (source, event_id) and equal fields, the one with the lowest
coordinates is the original and the others are its duplicates, however late they come. A lower coordinate that
comes later takes the part over: the original so far is `gone`. `Seen` knows every original by a hash of its
id; only events whose hash was there before, or twice in the step, are compared. Of duplicates only the
coordinates are held.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rules.growing import ascending, ranges
from rules.reconciler import alike
from rules.reconciler.alike import TOPICS, Alike
from rules.reconciler.runs import Entries, Ints, Words, concat
from rules.reconciler.seen import Seen
from schemas.events import EVENTS
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

_AT = 'topic, "partition", "offset"'


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
    """Makes what is missing of the tables; `store.create` comes first."""
    alike.create(con)
    con.execute(
        'CREATE TABLE IF NOT EXISTS known_duplicate (topic VARCHAR, "partition" INTEGER, "offset" BIGINT, '
        "of_topic VARCHAR, of_partition INTEGER, of_offset BIGINT)"
    )


def find(con: duckdb.DuckDBPyConnection, seen: Seen, landed: Mapping[str, pa.Table]) -> Found:
    """Takes in a step's events and says which are originals.

    Args:
        con: has the originals of earlier steps in the tables of kept events (`store.py`), and the temp table
            `judged_id`; gets the temp table `scope_same_id`, with all events of the ids in it (party_id and
            allocation_id null).
        seen: the index over `con`.
        landed: by stream (every one), `typed(record)` rows without `ingested_at`; no coordinate is handed in
            twice, ever.
    """
    seen.refresh()
    rows = _Rows.of(con, landed)
    order = ascending(rows.entries.key)
    entries = rows.entries.take(order)
    held = _held(seen, entries)
    which = np.flatnonzero(_repeated(entries.key) | _among(entries.key, held.key))
    con.execute(_NO_SAME_ID)
    original = np.ones(len(entries), bool)
    if len(which) == 0:
        seen.add(entries)
        return Found(rows.by_stream(original), DUPLICATES.empty_table(), GONE.empty_table())
    candidates = _Candidates.of(con, rows, order[which], held)
    gone = _gone(con, candidates)
    _judge_ids(con, seen, candidates, gone)
    original[candidates.row[candidates.is_new & ~candidates.is_first]] = False
    seen.add(entries.take(np.flatnonzero(original[order])))
    return Found(rows.by_stream(original), _duplicates(con, candidates), gone)


@dataclass(frozen=True)
class _Rows:
    """The step's rows, stream after stream, and their entries in the same order."""

    tables: dict[str, pa.Table]
    bounds: Ints
    entries: Entries

    @staticmethod
    def of(con: duckdb.DuckDBPyConnection, landed: Mapping[str, pa.Table]) -> "_Rows":
        tables = {record.name: landed[record.name] for record in EVENTS.values()}
        bounds = np.cumsum([0, *(len(table) for table in tables.values())])
        return _Rows(tables, bounds, concat(_entries(con, name, table) for name, table in tables.items()))

    def by_stream(self, mask: Mask) -> dict[str, Mask]:
        """A mask of all rows, cut by stream."""
        return dict(zip(self.tables, np.split(mask, self.bounds[1:-1]), strict=True))

    def take(self, rows: Ints, numbers: Ints) -> dict[str, tuple[pa.Table, Ints]]:
        """By stream, some of all rows with their numbers."""
        taken = {}
        for index, (name, table) in enumerate(self.tables.items()):
            low, high = self.bounds[index], self.bounds[index + 1]
            mine = np.flatnonzero((rows >= low) & (rows < high))
            taken[name] = table.take(pa.array(rows[mine] - low)), numbers[mine]
        return taken


def _entries(con: duckdb.DuckDBPyConnection, stream: str, rows: pa.Table) -> Entries:
    topic = f"custody.{stream}"
    assert pc.all(pc.equal(rows["topic"], topic)).as_py() is not False, "a row of another topic"
    t = rows["occurred_at"].cast(pa.timestamp("us")).cast(pa.int64())
    place = (TOPICS.index(topic) << 32) | _numbers(rows["partition"])
    return Entries.of(hashes(con, rows), _numbers(t), place, _numbers(rows["offset"]))


def hashes(con: duckdb.DuckDBPyConnection, rows: pa.Table) -> Words:
    """A number for each row's (source, event_id): of DuckDB's making, so that it goes with a state.

    It decides nothing: who makes two ids collide has them compared, which costs time only.
    """
    places = pa.array(np.arange(len(rows)))
    con.register("hash_input", rows.select(["source", "event_id"]).append_column("place", places))
    found = con.sql("SELECT place, hash(source, event_id) AS code FROM hash_input").to_arrow_table()
    con.unregister("hash_input")
    ordered = np.empty(len(rows), np.uint64)
    ordered[found["place"].to_numpy()] = found["code"].to_numpy()
    return ordered


def _numbers(column: pa.ChunkedArray) -> Ints:
    values: Ints = column.cast(pa.int64()).to_numpy()
    return np.ascontiguousarray(values)


def _held(seen: Seen, entries: Entries) -> Entries:
    """The entries of the index that have a key of these (ascending keys) and are near enough in time."""
    if len(entries) == 0:
        return concat([])
    low, high = int(entries.t.min()), int(entries.t.max())
    return seen.find(_distinct(entries.key), low - CONFLICT_WINDOW_US, high + CONFLICT_WINDOW_US)


def _distinct(keys: Words) -> Words:
    """The keys, which ascend, each once."""
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]]


def _repeated(keys: Words) -> Mask:
    """Which of the ascending keys are there more than once."""
    same = keys[1:] == keys[:-1]
    repeated = np.zeros(len(keys), bool)
    repeated[1:] |= same
    repeated[:-1] |= same
    return repeated


def _among(keys: Words, wanted: Words) -> Mask:
    """Which of the ascending keys are among others."""
    wanted = _distinct(np.sort(wanted))
    low = np.searchsorted(keys, wanted)
    among = np.zeros(len(keys), bool)
    among[ranges(low, np.searchsorted(keys, wanted, "right") - low)] = True
    return among


@dataclass(frozen=True)
class _Candidates:
    """Events that may be the same, numbered in the order of their coordinates.

    Attributes:
        entries: their entries.
        row: which of the step's rows each is; -1 for those of earlier steps.
        alike: how they compare. Some of earlier steps are not in it: they were duplicates before.
        original: the number of the lowest of each one's class.
    """

    entries: Entries
    row: Ints
    alike: Alike
    original: Ints

    @staticmethod
    def of(con: duckdb.DuckDBPyConnection, rows: _Rows, which: Ints, held: Entries) -> "_Candidates":
        """`which` rows of the step, and entries of the index."""
        entries = concat([rows.entries.take(which), held])
        order = np.lexsort((entries.offset, entries.place))
        entries = entries.take(order)
        row = np.concatenate([which, np.full(len(held), -1)])[order]
        new, old = np.flatnonzero(row >= 0), np.flatnonzero(row < 0)
        alike.read_held(con, entries.take(old), old)
        compared = alike.compare(con, rows.take(row[new], new))
        original = np.arange(len(entries))
        lowest = np.minimum.reduceat(compared.numbers, compared.classes[:-1])
        original[compared.numbers] = np.repeat(lowest, np.diff(compared.classes))
        return _Candidates(entries, row, compared, original)

    @property
    def is_new(self) -> Mask:
        return self.row >= 0

    @property
    def is_first(self) -> Mask:
        return self.original == np.arange(len(self.original))

    def contested(self) -> tuple[Ints, Ints]:
        """Ids of more than one class of which one is new: (the new originals, the id of each)."""
        numbers, classes, of_ids = self.alike.numbers, self.alike.classes, self.alike.of_ids
        id_of = np.repeat(np.arange(len(of_ids) - 1), np.diff(classes[of_ids]))
        found = (self.is_new & self.is_first)[numbers] & (np.diff(of_ids) > 1)[id_of]
        return numbers[found], id_of[found]


def _duplicates(con: duckdb.DuckDBPyConnection, candidates: _Candidates) -> pa.Table:
    """Rows for all whose original is new or changed, which are also remembered."""
    follow = ~candidates.is_first
    which = np.flatnonzero(follow)
    named = _coordinates(candidates.entries.take(which))
    of = _coordinates(candidates.entries.take(candidates.original[which]), "of_")
    changed = pa.table({**named, **of}, schema=DUPLICATES)
    if (follow & ~candidates.is_new).any():
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


def _gone(con: duckdb.DuckDBPyConnection, candidates: _Candidates) -> pa.Table:
    """The kept events that are no originals any more."""
    numbers = np.flatnonzero(~candidates.is_new & ~candidates.is_first)
    if len(numbers) == 0:
        return GONE.empty_table()
    con.register("gone_number", pa.table([numbers], ["number"]))
    names = ", ".join(f'"{name}"' for name in GONE.names if name != "stream")
    parts = [
        f"SELECT '{record.name}' AS stream, {names} FROM held_{record.name} "
        "SEMI JOIN gone_number USING (number)"
        for record in EVENTS.values()
    ]
    gone = con.sql(" UNION ALL ".join(parts)).to_arrow_table().cast(GONE)
    con.unregister("gone_number")
    return gone


_NO_SAME_ID = """
CREATE OR REPLACE TEMP TABLE scope_same_id (
  topic VARCHAR, "partition" INTEGER, "offset" BIGINT, source VARCHAR, event_id VARCHAR, t TIMESTAMP,
  party_id VARCHAR, allocation_id VARCHAR, apart_us BIGINT)
"""

_SAME_ID = f"""
INSERT INTO scope_same_id BY NAME
SELECT {_AT}, source, event_id, t,
  least(
    epoch_us(t) - lag(epoch_us(t)) OVER by_time, lead(epoch_us(t)) OVER by_time - epoch_us(t)
  ) AS apart_us
FROM (
  SELECT {_AT}, source, event_id, t FROM ({{held}}) SEMI JOIN contested USING (source, event_id)
    ANTI JOIN same_id_gone USING ({_AT})
  UNION ALL SELECT {_AT}, source, event_id, t FROM contested)
WINDOW by_time AS (PARTITION BY source, event_id ORDER BY t, {_AT});
INSERT INTO judged_id SELECT DISTINCT source, event_id FROM contested
"""


def _judge_ids(con: duckdb.DuckDBPyConnection, seen: Seen, candidates: _Candidates, gone: pa.Table) -> None:
    """Fills `judged_id` and `scope_same_id` for ids that stand for more than one content, one of them new;
    before the step's entries are in the index."""
    numbers, ids = candidates.contested()
    if len(numbers) == 0:
        return
    new = candidates.entries.take(numbers)
    held = seen.find(_distinct(np.sort(new.key)))
    alike.read_held(con, held, np.arange(len(held)))
    names = candidates.alike.ids.take(pa.array(ids))
    times = pa.array(new.t).cast(pa.timestamp("us"))
    contested = {**_coordinates(new), "source": names["source"], "event_id": names["event_id"], "t": times}
    con.register("contested", pa.table(contested))
    con.register("same_id_gone", gone)
    parts = [f"SELECT {_AT}, source, event_id, t FROM held_{record.name}" for record in EVENTS.values()]
    con.execute(_SAME_ID.format(held=" UNION ALL ".join(parts)))
    con.unregister("same_id_gone")
    con.unregister("contested")


def _coordinates(entries: Entries, prefix: str = "") -> dict[str, pa.Array]:
    topics = pa.array(TOPICS, pa.string())
    return {
        f"{prefix}topic": topics.take(pa.array(entries.place >> 32)),
        f"{prefix}partition": pa.array((entries.place & 0xFFFFFFFF).astype(np.int32)),
        f"{prefix}offset": pa.array(entries.offset),
    }

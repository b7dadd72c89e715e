"""The allocations that are open at the watermark, in memory, and a log of it from which it is read again.

Each has a *slot*, a small number; what is known of it is in arrays by slot. An update appends to the log only
what it has changed. When the log has grown much longer than what is open, it is written anew.
"""

from collections.abc import Callable, Mapping
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rules.asof import Ints, Runs
from rules.growing import Growing
from rules.keys import Keys
from rules.reconciler import coverage_log
from rules.reconciler.coverage_log import CHAIN, PIECE, TEXTS

LEAST = 10_000
"""Rows of the log, and slots, up to which nothing is written anew."""

AT_ONCE = 1 << 18
"""Records made at once: those of a million slots, with their columns, are 90 MB."""

_TEXTS = (*TEXTS, "site_id")

_UNKEPT = {"party": np.int32, "until": np.int64}
"""What is known only as long as it is in memory."""

_CREATE = """
CREATE TABLE IF NOT EXISTS coverage_placement (
  allocation_id VARCHAR, workload_id VARCHAR, site_id VARCHAR, t TIMESTAMP, source VARCHAR, event_id VARCHAR,
  "partition" INTEGER, "offset" BIGINT);
"""

_PLACED = """
SELECT allocation_id, site_id FROM coverage_placement
ORDER BY allocation_id, t, source, event_id, "partition", "offset"
"""

Values = npt.NDArray[Any]

Bits = npt.NDArray[np.uint8]
"""Links of pieces: sums of 2 ** position in `coverage_links.LINKS`."""


class Open:
    """The open allocations; times are int64 µs.

    By slot, of the `allocated` event in effect: `allocated_at`, TEXTS, `accelerators`, `requested`. Of the
    last piece: `from_at`, whether it is `written`, its `site_id` and its `links`. They, but for how, and its
    `party` (a row of `References`) hold for every piece that begins before `until`; 0: they must be judged.
    `how_at`: since when an access shows how, -1 if none does. `micros`: the time of the pieces before it at
    the same site with the same accelerators, `covered_micros` of it with all links. Texts are numbers in
    `texts`, -1 for null.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        """Reads the log."""
        self._clear()
        self._read(con)

    def _clear(self) -> None:
        self.texts = Keys()
        self.sites = Runs(1)
        """By slot the sites of the placements in effect, in the order of the placements."""
        self._ids = Keys()
        kept = {name: dtype[name] for dtype in (CHAIN, PIECE) for name in dtype.names or () if name != "slot"}
        self._columns = {name: Growing(dtype) for name, dtype in (kept | _UNKEPT).items()}
        self._logged = 0  # records
        self._logged_slots = self._logged_texts = 0

    def __getitem__(self, name: str) -> Values:
        """A column by slot; the view does not follow new slots."""
        return self._columns[name].values

    def ids(self, slots: Ints) -> pa.StringArray:
        """The ids of the allocations in some slots."""
        return self._ids.take(slots)

    def find(self, ids: pa.Array) -> Ints:
        """The slots of these allocations; -1 for those that are not open."""
        slots = self._ids.find(ids)
        if len(self._ids):
            slots[~self["is_open"][slots]] = -1
        return slots

    def text(self, name: str, slots: Ints) -> pa.DictionaryArray:
        """A column of texts, of some slots."""
        return numbered(self[name][slots], self.texts.take)

    def slots(self, ids: pa.Array) -> Ints:
        """The slots of these allocations, which get one where they have none."""
        slots = self._ids.intern(ids)
        missing = len(self._ids) - len(self["is_open"])
        for column in self._columns.values():
            column.append(np.zeros(missing, np.int64))
        return slots

    def set(self, slots: Ints, columns: Mapping[str, Values]) -> None:
        """Sets columns of some slots."""
        for name, values in columns.items():
            self[name][slots] = values

    def place(self, slots: Ints, owner: Ints, sites: Ints) -> None:
        """Sets the sites of the placements in effect of some slots: `slots[owner]` of each, ascending."""
        self.sites.set(slots, np.bincount(owner, minlength=len(slots)), sites)

    def keep(self, con: duckdb.DuckDBPyConnection, changed: Ints, chained: Ints) -> None:
        """Ends an update: logs the slots that have changed, and those whose `allocated` event has."""
        self._logged += len(changed) + len(chained)
        alive = np.flatnonzero(self["is_open"])
        most = LEAST + len(alive) * 3 // 2
        if len(self._ids) > most:
            coverage_log.clear(con, "coverage_slot", "coverage_text")
            self._renumber(alive)
            self._logged = 2 * len(alive)
            changed = chained = np.arange(len(alive))
        elif self._logged > 4 * most:
            coverage_log.clear(con)
            self._logged = 2 * len(alive)
            changed = chained = alive
        self._name(con)
        self._log(con, changed, chained)

    def _name(self, con: duckdb.DuckDBPyConnection) -> None:
        """Logs the slots and the texts that are new."""
        slots = np.arange(self._logged_slots, len(self._ids))
        coverage_log.name(con, "coverage_slot", self._logged_slots, self.ids(slots))
        texts = np.arange(self._logged_texts, len(self.texts))
        coverage_log.name(con, "coverage_text", self._logged_texts, self.texts.take(texts))
        self._logged_slots, self._logged_texts = len(self._ids), len(self.texts)

    def _log(self, con: duckdb.DuckDBPyConnection, changed: Ints, chained: Ints) -> None:
        for dtype, slots in ((PIECE, changed), (CHAIN, chained)):
            for some in np.array_split(slots, len(slots) // AT_ONCE + 1):
                columns = {name: self[name][some] for name in dtype.names or () if name != "slot"}
                coverage_log.append(con, coverage_log.records(dtype, columns | {"slot": some}))

    def _renumber(self, alive: Ints) -> None:
        """Lets all slots but these go, which get new numbers, and all texts that they do not have."""
        ids, columns = self._ids.only(alive), self._columns
        owner, (sites,) = self.sites.gather(alive)
        used = np.zeros(len(self.texts) + 1, bool)  # the last is for -1
        used[sites] = True
        for name in _TEXTS:
            used[columns[name].values[alive]] = True
        texts = np.flatnonzero(used[:-1])
        number = np.full(len(self.texts) + 1, -1)
        number[texts] = np.arange(len(texts))
        kept = self.texts.only(texts)
        self._clear()
        self._ids, self.texts = ids, kept
        for name, column in self._columns.items():  # each goes before the next comes: all twice are a lot
            values = columns.pop(name).values[alive]
            column.append(number[values] if name in _TEXTS else values)
        self.place(np.arange(len(alive)), owner, number[sites])

    def _read(self, con: duckdb.DuckDBPyConnection) -> None:
        self.texts.intern(coverage_log.names(con, "coverage_text"))
        self.slots(coverage_log.names(con, "coverage_slot"))
        self._logged_slots, self._logged_texts = len(self._ids), len(self.texts)
        for records in coverage_log.read(con):
            self._logged += len(records)
            names = (name for name in records.dtype.names or () if name != "slot")
            self.set(records["slot"], {name: records[name] for name in names})
        placed = con.sql(_PLACED).to_arrow_table()
        slots = self.find(placed["allocation_id"].combine_chunks())
        known = np.flatnonzero(slots >= 0)
        placed_slots, owner = np.unique(slots[known], return_inverse=True)
        order = np.argsort(owner, kind="stable")
        sites = self.texts.intern(placed["site_id"].combine_chunks())
        self.place(placed_slots, owner[order], sites[known][order])


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    coverage_log.create(con)
    con.execute(_CREATE)


def numbered(codes: Ints, texts: Callable[[Ints], pa.StringArray]) -> pa.DictionaryArray:
    """Texts by their numbers, with a dictionary of only those that occur; -1 is null."""
    occurs = np.zeros(int(codes.max(initial=-1)) + 2, bool)
    occurs[codes] = True
    occurs[-1] = False
    position = np.cumsum(occurs, dtype=np.int32) - 1
    indices = pa.array(position[codes], mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, texts(np.flatnonzero(occurs)))

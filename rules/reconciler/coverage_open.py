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

LEAST = 10_000
"""Rows of the log, and slots, up to which nothing is written anew."""

TEXTS = ("party_id_sent", "principal", "authorization_id", "model")
"""What is carried as text of the `allocated` event in effect."""

_CHAIN = {
    "allocated_at": "BIGINT",
    **dict.fromkeys(TEXTS, "VARCHAR"),
    "accelerators": "BIGINT",
    "requested": "BOOLEAN",
}
_PIECE = {
    "is_open": "BOOLEAN",
    "from_at": "BIGINT",
    "written": "BOOLEAN",
    "how_at": "BIGINT",
    "site_id": "VARCHAR",
    "links": "UTINYINT",
    "micros": "BIGINT",
    "covered_micros": "BIGINT",
}
_COLUMNS = _CHAIN | _PIECE
_DTYPES = {"BIGINT": np.int64, "VARCHAR": np.int32, "BOOLEAN": np.bool_, "UTINYINT": np.uint8}
_UNKEPT = {"party": np.int32, "until": np.int64}
"""What is known only as long as it is in memory."""


def _columns(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {type}" for name, type in types.items())


# number: of the update; what it says of a slot replaces what others before it said.
_CREATE = f"""
CREATE TABLE IF NOT EXISTS coverage_chain (
  number BIGINT, slot BIGINT, allocation_id VARCHAR, {_columns(_CHAIN)});
CREATE TABLE IF NOT EXISTS coverage_open (number BIGINT, slot BIGINT, {_columns(_PIECE)});
CREATE TABLE IF NOT EXISTS coverage_placement (
  allocation_id VARCHAR, workload_id VARCHAR, site_id VARCHAR, t TIMESTAMP, source VARCHAR, event_id VARCHAR,
  "partition" INTEGER, "offset" BIGINT);
CREATE TABLE IF NOT EXISTS coverage_number (number BIGINT);
"""

_LENGTH = "SELECT (SELECT count(*) FROM coverage_chain) + (SELECT count(*) FROM coverage_open)"
_IDS = "SELECT any_value(allocation_id) AS allocation_id FROM coverage_chain GROUP BY slot ORDER BY slot"
_LATEST = "QUALIFY row_number() OVER (PARTITION BY slot ORDER BY number DESC) = 1"
_STILL_OPEN = f"""
SELECT * FROM (FROM coverage_open {_LATEST}) JOIN (FROM coverage_chain {_LATEST}) USING (slot) WHERE is_open
"""
_PLACED = """
SELECT allocation_id, site_id FROM coverage_placement
ORDER BY allocation_id, t, source, event_id, "partition", "offset"
"""

Values = npt.NDArray[Any]


class Open:
    """The open allocations after update `number`; times are int64 µs.

    By slot, of the `allocated` event in effect: `allocated_at`, TEXTS, `accelerators`, `requested`. Of the
    last piece: `from_at`, whether it is `written`, its `site_id` and its `links` (as `coverage_links` adds
    them up). They, but for how, and its `party` (a row of `References`) hold for every piece that begins
    before `until`; 0: they must be judged. `how_at`: since when an access shows how, -1 if none does.
    `micros`: the time of the pieces before it at the same
    site with the same accelerators, `covered_micros` of it with all links. Texts are numbers in `texts`, -1
    for null.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        """Reads the log."""
        self.number = _number(con)
        self.texts = Keys()
        self.sites = Runs(1)
        """By slot the sites of the placements in effect, in the order of the placements."""
        self._ids = Keys()
        kept = {name: _DTYPES[type] for name, type in _COLUMNS.items()}
        self._columns = {name: Growing(dtype) for name, dtype in (kept | _UNKEPT).items()}
        self._logged = 0
        self._read(con)

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

    def keep(self, con: duckdb.DuckDBPyConnection, changed: Ints, chained: Ints) -> bool:
        """Ends an update: logs the slots that have changed, and those whose `allocated` event has.

        Returns whether this may be used on; where not, it is to be read anew.
        """
        self.number += 1
        con.execute("DELETE FROM coverage_number")
        con.execute("INSERT INTO coverage_number VALUES (?)", [self.number])
        self._logged += len(changed) + len(chained)
        alive = np.flatnonzero(self["is_open"])
        if max(self._logged // 4, len(self._ids)) <= LEAST + 2 * len(alive):
            self._log(con, changed, chained, changed, chained)
            return True
        con.execute("DELETE FROM coverage_chain")
        con.execute("DELETE FROM coverage_open")
        slots = np.arange(len(alive))
        self._log(con, alive, alive, slots, slots)
        return False

    def _log(
        self, con: duckdb.DuckDBPyConnection, changed: Ints, chained: Ints, changed_as: Ints, chained_as: Ints
    ) -> None:
        """Logs slots under the given numbers."""
        chain = {"slot": chained_as, "allocation_id": self.ids(chained)}
        for table, columns, slots, types in (
            ("coverage_open", {"slot": changed_as}, changed, _PIECE),
            ("coverage_chain", chain, chained, _CHAIN),
        ):
            if len(slots) == 0:
                continue
            columns |= {
                name: self.text(name, slots) if type == "VARCHAR" else self[name][slots]
                for name, type in types.items()
            }
            con.register("coverage_logged", pa.table(columns))
            con.execute(f"INSERT INTO {table} SELECT {self.number}, * FROM coverage_logged")
            con.unregister("coverage_logged")

    def _read(self, con: duckdb.DuckDBPyConnection) -> None:
        self._logged = con.execute(_LENGTH).fetchall()[0][0]
        if self._logged == 0:
            return
        self._ids.intern(con.sql(_IDS).to_arrow_table()["allocation_id"].combine_chunks())
        rows = con.sql(_STILL_OPEN).to_arrow_table()
        columns = {
            name: self.texts.intern(rows[name].combine_chunks())
            if type == "VARCHAR"
            else rows[name].to_numpy()
            for name, type in _COLUMNS.items()
        }
        slots = self.slots(rows["allocation_id"].combine_chunks())
        self.set(slots, columns)
        placed = con.sql(_PLACED).to_arrow_table()
        slots = self.find(placed["allocation_id"].combine_chunks())
        known = np.flatnonzero(slots >= 0)
        distinct, owner = np.unique(slots[known], return_inverse=True)
        order = np.argsort(owner, kind="stable")
        sites = self.texts.intern(placed["site_id"].combine_chunks())
        self.place(distinct, owner[order], sites[known][order])


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    con.execute(_CREATE)


def numbered(codes: Ints, texts: Callable[[Ints], pa.StringArray]) -> pa.DictionaryArray:
    """Texts by their numbers, with a dictionary of only those that occur; -1 is null."""
    occurs = np.zeros(int(codes.max(initial=-1)) + 2, bool)
    occurs[codes] = True
    occurs[-1] = False
    position = np.cumsum(occurs, dtype=np.int32) - 1
    indices = pa.array(position[codes], mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, texts(np.flatnonzero(occurs)))


def _number(con: duckdb.DuckDBPyConnection) -> int:
    rows = con.execute("SELECT number FROM coverage_number").fetchall()
    return int(rows[0][0]) if rows else 0

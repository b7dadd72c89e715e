"""What an event's allocation says: the `allocated` event in effect at its time (contract 3.2).

What allocations say is held in memory, of all that are open and of some that no longer are, and is read from
the kept allocation events. What an event names and is not held is looked up there.
"""

from collections.abc import Sequence

import duckdb
import numpy as np
import pyarrow as pa

from rules.asof import FOREVER, Intervals, Ints, Keys, Runs, Segments
from rules.growing import Growing, ascending
from rules.reconciler import state
from rules.reconciler.intervals import CHAIN_COLUMNS, LATEST
from rules.reconciler.pieces import keys
from rules.reconciler.store import allocation_events

LEAST = 10_000
"""Allocations up to which none is let go."""

_READ_AT_ONCE = 500_000
_TEXTS = ("party_id_sent", "principal", "authorization_id")
_NUMBERS = ("t", "released_at", "partition", "offset")
_COUNTER = "chain_number"  # which state of the kept allocation events is in memory

_CLOSED = "max(t) FILTER (action = 'allocated') <= max(t) FILTER (action = 'released')"
_OPEN = f"""
CREATE OR REPLACE TEMP TABLE chain_asked AS
SELECT allocation_id FROM allocation WHERE code % {{parts}} = {{part}}
GROUP BY allocation_id HAVING NOT coalesce({_CLOSED}, false)
"""
_KEPT = f"CREATE OR REPLACE TEMP TABLE chain_event AS SELECT {CHAIN_COLUMNS} FROM {{events}}"
_IDS = f"""
SELECT a.allocation_id, coalesce(is_closed, false) AS is_closed
FROM (SELECT DISTINCT allocation_id FROM {{asked}}) a
LEFT JOIN (SELECT allocation_id, {_CLOSED} AS is_closed FROM {{events}} GROUP BY ALL) USING (allocation_id)
"""
_RELEASED = """
SELECT DISTINCT slot, epoch_us(t) AS t FROM {events} JOIN chain_slot USING (allocation_id)
WHERE action = 'released' ORDER BY slot, t
"""
_ALLOCATED = """
SELECT slot, epoch_us(t) AS t, "partition", "offset", party_id_sent, principal, authorization_id
FROM (FROM {events} WHERE action = 'allocated' {latest}) JOIN chain_slot USING (allocation_id)
"""
_LATEST = f"QUALIFY row_number() OVER (PARTITION BY allocation_id, t ORDER BY {LATEST}) = 1"
_SERIALS = """
SELECT a.number, serials FROM allocation e JOIN chain_row a USING ("partition", "offset")
WHERE t BETWEEN {low} AND {high} ORDER BY a.number
"""


class Chains:
    """The allocations of a state by slot, a small number; and by row what their `allocated` events say, of
    several at one time the latest of the order. Times are int64 µs, FOREVER for none."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        """Reads what is open when it is first asked."""
        self._con = con
        self._number: int | None = None
        self._clear()

    def _clear(self) -> None:
        self._ids = Keys()
        self._texts = Keys()
        self._is_closed = Growing(np.bool_)  # by slot
        self._releases = Runs(1)  # by slot the times
        self._in_effect = Intervals()  # by slot the rows
        self._columns = {name: Growing(np.int64) for name in _NUMBERS}
        self._columns |= {name: Growing(np.int32) for name in _TEXTS}

    def follow(self) -> None:
        """Takes in the step's changes: `changed_chain` of the ids in `changed_allocation`."""
        self._refresh()
        self._take("changed_chain", "changed_allocation")
        assert self._number is not None
        self._number += 1
        state.put(self._con, _COUNTER, self._number)
        self._let_go()

    def find(self, ids: Sequence[pa.Array]) -> list[Ints]:
        """The slots of allocations, -1 where nothing is kept of one. Slots are good for one step."""
        if not any(map(len, ids)):
            return [np.empty(0, np.int64) for _ in ids]
        self._refresh()
        found = [self._ids.find(some) for some in ids]
        unknown = [some.filter(pa.array(slots < 0)) for some, slots in zip(ids, found, strict=True)]
        asked = pa.concat_arrays([pa.array([], pa.string()), *unknown]).drop_null().unique()
        if len(asked) and self._look_up(asked):
            found = [self._ids.find(some) for some in ids]
        return found

    def at(self, slots: Ints, t: Ints) -> Ints:
        """The rows in effect of these slots at these times (µs), -1 where there is none."""
        return self._in_effect.at(slots, t)

    def rows(self, rows: Ints) -> pa.Table:
        """What some rows say: `t`, `released_at`, _TEXTS."""
        columns: dict[str, pa.Array] = {}
        for name in ("t", "released_at"):
            times = self._columns[name].values[rows]
            columns[name] = pa.array(times, mask=times == FOREVER).cast(pa.timestamp("us"))
        columns |= {
            name: self._texts.take(self._columns[name].values[rows].astype(np.int64)) for name in _TEXTS
        }
        return pa.table(columns)

    def serials(self, rows: Ints) -> pa.Array:
        """The serials that some rows list. Expects the step's allocation events to be kept."""
        places = {name: self._columns[name].values[rows] for name in ("partition", "offset")}
        if len(rows) == 0:
            return pa.array([], pa.list_(pa.string()))
        t = self._columns["t"].values[rows]
        low, high = (f"make_timestamp({time})" for time in (t.min(), t.max()))
        self._con.register("chain_row", pa.table({"number": np.arange(len(rows)), **places}))
        found = self._con.sql(_SERIALS.format(low=low, high=high)).to_arrow_table()
        self._con.unregister("chain_row")
        return found["serials"].combine_chunks().cast(pa.list_(pa.string()))

    def releases(self, slots: Ints) -> pa.Table:
        """The releases of some slots: `allocation_id` and `t`, each time once."""
        owner, (times,) = self._releases.gather(slots)
        return pa.table(
            {"allocation_id": self._ids.take(slots[owner]), "t": pa.array(times).cast(pa.timestamp("us"))}
        )

    def _refresh(self) -> None:
        """Reads what is open, unless it is in memory: at first, and after a step that was taken back."""
        number = state.get(self._con, _COUNTER) or 0
        if number == self._number:
            return
        self._clear()
        self._number = number
        ((events,),) = self._con.execute("SELECT count(*) FROM allocation").fetchall()
        parts = events // _READ_AT_ONCE + 1
        for part in range(parts if events else 0):
            self._con.execute(_OPEN.format(parts=parts, part=part))
            self._con.execute(_KEPT.format(events=allocation_events(self._con, "chain_asked")))
            self._take("chain_event", "chain_asked")

    def _look_up(self, ids: pa.Array) -> bool:
        """Reads what is kept of some allocations that are not held; says if there is anything."""
        self._con.register("chain_unknown", pa.table([ids], ["allocation_id"]))
        self._con.execute(_KEPT.format(events=allocation_events(self._con, "chain_unknown")))
        self._con.unregister("chain_unknown")
        if not state.has_rows(self._con, "chain_event"):
            return False
        self._take("chain_event", "chain_event")
        return True

    def _take(self, events: str, asked: str) -> None:
        """Holds the allocations in `asked` as all of their `events` say."""
        con = self._con
        ids = con.sql(_IDS.format(events=events, asked=asked)).to_arrow_table().combine_chunks()
        slots = self._ids.intern(ids["allocation_id"].combine_chunks())
        self._is_closed.append(np.zeros(len(self._ids) - len(self._is_closed), bool))
        self._is_closed.values[slots] = ids["is_closed"].to_numpy()
        con.register("chain_slot", ids.select(["allocation_id"]).append_column("slot", pa.array(slots)))
        released = con.sql(_RELEASED.format(events=events)).to_arrow_table()
        allocated = self._allocated(events)
        con.unregister("chain_slot")
        slots = np.sort(slots)
        counts = np.bincount(np.searchsorted(slots, _ints(released, "slot")), minlength=len(slots))
        self._releases.set(slots, counts, _ints(released, "t"))
        owner = _ints(allocated, "slot")
        columns = {name: _ints(allocated, name) for name in ("t", "partition", "offset")}
        columns["released_at"] = _next(released, owner, columns["t"])
        columns |= {name: self._texts.intern(allocated[name].combine_chunks()) for name in _TEXTS}
        self._set(slots, owner, columns)

    def _allocated(self, events: str) -> pa.Table:
        """The `allocated` ones by slot and time, of several at one time the latest."""
        for latest in ("", _LATEST):  # nearly always there is one a time
            rows = self._con.sql(_ALLOCATED.format(events=events, latest=latest)).to_arrow_table()
            slot, t = _ints(rows, "slot"), _ints(rows, "t")
            order = ascending(keys(slot, t))
            slot, t = slot[order], t[order]
            if not ((slot[1:] == slot[:-1]) & (t[1:] == t[:-1])).any():
                break
        return rows.take(pa.array(order))

    def _set(self, slots: Ints, owner: Ints, columns: dict[str, Ints]) -> None:
        """Replaces the rows of some slots (ascending) by such of the slots `owner`, which are in order."""
        first = len(self._columns["t"])
        for name, values in columns.items():
            self._columns[name].append(values)
        ends = np.full(len(owner), FOREVER)
        followed = np.flatnonzero(owner[1:] == owner[:-1])
        ends[followed] = columns["t"][followed + 1]
        rows = np.arange(first, first + len(owner))
        self._in_effect.set(slots, Segments(owner, columns["t"], ends, rows))

    def _let_go(self) -> None:
        """Lets all that is closed go once it is half of what is open, and rows that have been replaced."""
        alive = np.flatnonzero(~self._is_closed.values)
        rows = len(self._columns["t"])
        if len(self._ids) <= LEAST + len(alive) * 3 // 2 and rows <= LEAST + self._in_effect.rows * 3 // 2:
            return
        ids, texts, columns = self._ids.only(alive), self._texts, self._columns
        released, (times,) = self._releases.gather(alive)
        held = self._in_effect.of(alive)
        self._clear()
        self._ids, self._texts, slots = ids, texts, np.arange(len(alive))
        self._is_closed.append(np.zeros(len(slots), bool))
        self._releases.set(slots, np.bincount(released, minlength=len(slots)), times)
        self._set(slots, held.groups, {name: column.values[held.values] for name, column in columns.items()})


def _next(released: pa.Table, slots: Ints, times: Ints) -> Ints:
    """The time of the first release, by slot and time, of each slot at a time or later; FOREVER for none."""
    at, owner = _ints(released, "t"), _ints(released, "slot")
    every = keys(np.concatenate([owner, slots]), np.concatenate([at, times]))
    found = np.searchsorted(every[: len(at)], every[len(at) :])
    return np.where(np.append(owner, -1)[found] == slots, np.append(at, FOREVER)[found], FOREVER)


def _ints(table: pa.Table, name: str) -> Ints:
    values: Ints = table[name].cast(pa.int64()).to_numpy()
    return values

"""Coverage: the time of every allocation in pieces, and which of the four links each piece has.

A piece is written when the watermark has passed its start, and again when it has passed its end only if no
other piece begins there, or if an access has shown how meanwhile. As long as events arrive before the
watermark reaches them, an allocation goes on from the piece that still runs. What an event behind the
watermark or a version that reaches back touches is cut again from all its events.

The state is a function of the events, the versions and the watermark, and holds nothing per piece: where the
watermark of an update is not that of a settled step, its rows must be settled, or they are lost.
"""

from collections.abc import Iterable

import duckdb
import numpy as np
import pyarrow as pa

from rules.asof import Ints
from rules.reconciler import (
    coverage_accesses,
    coverage_calls,
    coverage_carry,
    coverage_events,
    coverage_links,
    coverage_log,
    coverage_open,
    coverage_rows,
    coverage_scope,
    coverage_sums,
)
from rules.reconciler.coverage_accesses import Accesses
from rules.reconciler.coverage_carry import Carried
from rules.reconciler.coverage_events import Events, EventsOf
from rules.reconciler.coverage_open import Open
from rules.reconciler.coverage_rows import SCHEMA
from rules.reconciler.coverage_scope import BEGINNING, Scope, watermark
from rules.reconciler.links import COLUMNS
from rules.reconciler.pieces import cut
from rules.references import References

__all__ = ["COLUMNS", "SCHEMA", "Coverage", "EventsOf", "create"]


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    coverage_scope.create(con)
    coverage_open.create(con)
    coverage_sums.create(con)


class Coverage:
    """The coverage of one state, whose tables `create` has made."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        """Raises SekishoError where a file of the state is missing or damaged."""
        coverage_log.open_files(con)
        self._con = con
        self._held: Open | None = None

    def forget(self) -> None:
        """Lets what is in memory go, to be read again: to be called when a step is taken back."""
        self._held = None

    def note(self) -> None:
        """Notes what a step's events and versions reach back to, for the next update; once in every step.

        Reads the temp tables `new_event`, `gone_event` and `reach_allocation`.
        """
        coverage_log.tidy(self._con)
        before = watermark(self._con)
        if before != BEGINNING:
            coverage_scope.note(self._con, self._open(), before)

    def ratios(self) -> dict[str, float]:
        """Covered over all allocated accelerator-time for each site that has any, up to the last update."""
        return coverage_sums.ratios(self._con, self._open(), watermark(self._con))

    def update(self, references: References, now: int | None, step: int, events_of: EventsOf) -> pa.Table:
        """Cuts what the steps since the last update have changed; returns the rows to write (SCHEMA).

        Reads `allocation`, `recent_access` and `placement`: at least what is later than the watermark of the
        last update.

        Args:
            references: all versions known now, with COLUMNS.
            now: the watermark (µs) now, never less than before; None as long as there is none.
            step: the number under which the rows are settled.
            events_of: gives all events of some allocations, of whatever age.
        """
        if now is None:
            return SCHEMA.empty_table()
        con = self._con
        before = watermark(con)
        assert now >= before, "the watermark went back"
        con.execute("DELETE FROM coverage_clock")
        con.execute("INSERT INTO coverage_clock VALUES (make_timestamp(?))", [now])
        held, self._held = self._open(), None  # half changed if this fails
        scope = coverage_scope.select(con, held, before, now)
        accesses, calls = coverage_accesses.read(con, held, scope, before, now)
        ongoing = _go_on(held, scope, calls, references, now, step)
        events = coverage_events.read(con, held, scope, accesses, before, now, events_of)
        del accesses, calls
        again = _cut_again(held, events, references, now, step)
        parts = [*ongoing, *again]
        if parts:
            _place(con, [carried.placements for _, carried in again])
            coverage_sums.record(con, pa.concat_tables([carried.ended for _, carried in parts]))
            con.execute("DELETE FROM coverage_late")
        changed, chained = (
            np.concatenate([np.empty(0, np.int64), *slots])
            for slots in ([part.changed for _, part in parts], [part.chained for _, part in parts])
        )
        held.keep(con, changed, chained)
        self._held = held
        return pa.concat_tables([SCHEMA.empty_table(), *(rows for rows, _ in parts)])

    def _open(self) -> Open:
        """The open allocations."""
        if self._held is None:
            self._held = Open(self._con)
        return self._held


Part = tuple[pa.Table, Carried]
"""Rows to write, and what is carried."""


def _go_on(
    held: Open, scope: Scope, calls: Accesses, references: References, now: int, step: int
) -> list[Part]:
    """Cuts the allocations that only accesses name, or nothing since a piece began at the last watermark."""
    others = held["is_open"].copy()
    others[scope.slots[scope.slots >= 0]] = False
    parts = []
    for slots, mine in coverage_calls.parts(held, others, calls, now):
        part = _carried_scope(held, slots)
        ongoing = coverage_calls.cut(mine, held, slots, now)
        judged = coverage_links.go_on(held, slots, ongoing.pieces, references)
        rows = coverage_rows.rows(part, judged, held.texts, references, step)
        parts.append((rows, coverage_carry.go_on(held, part, judged, ongoing)))
    return parts


def _cut_again(
    held: Open, parts_of: Iterable[tuple[Scope, Events]], references: References, now: int, step: int
) -> list[Part]:
    """Cuts the allocations of a scope from events of all kinds."""
    parts = []
    for part, events in parts_of:
        pieces, running, last = cut(events.named, now)
        judged, until = coverage_links.judge(held, pieces, running, events, references)
        rows = coverage_rows.rows(part, judged, held.texts, references, step)
        parts.append((rows, coverage_carry.carry(held, part, events, judged, until, last)))
    return parts


def _carried_scope(held: Open, slots: Ints) -> Scope:
    never = np.zeros(len(slots), bool)
    limit, replaces, links = (held[name][slots] for name in ("from_at", "written", "links"))
    return Scope(held.ids(slots), slots, never, limit, replaces, links, never)


def _place(con: duckdb.DuckDBPyConnection, placements: list[pa.Table]) -> None:
    """Replaces the placements in effect of the allocations in scope."""
    if placements:
        con.execute(
            "DELETE FROM coverage_placement WHERE allocation_id IN (SELECT allocation_id FROM coverage_scope)"
        )
        con.register("coverage_rows", pa.concat_tables(placements))
        con.execute("INSERT INTO coverage_placement BY NAME SELECT * FROM coverage_rows")
        con.unregister("coverage_rows")

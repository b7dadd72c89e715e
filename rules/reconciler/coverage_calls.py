"""Cuts the open allocations that nothing but accesses has named: most of them, in most steps.

They go on from what is carried, with the same `allocated` event and the same placements; a piece begins at
each access. What else there is to them (versions, rows) is as for all others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import numpy as np

from rules.asof import Ints
from rules.reconciler.coverage_open import Open
from rules.reconciler.pieces import Mask, Pieces, keys

_READ = """
SELECT
  allocation_id, epoch_us(t) AS t,
  coalesce(action IN ('opened', 'call') AND method IS NOT NULL, false) AS shows_how
FROM recent_access
WHERE allocation_id IS NOT NULL AND t > make_timestamp({before}) AND t <= make_timestamp({now})
"""

CHUNK = 1_000_000
"""Accesses that are cut at once, so that memory does not grow with a step."""

_BATCH = 250_000
"""Rows of text in memory at once."""


@dataclass(frozen=True)
class Calls:
    """Accesses of open allocations, in the order of slot and time: `slot`, `at` (µs), and of each whether it
    shows how."""

    slot: Ints
    at: Ints
    shows_how: Mask


@dataclass(frozen=True)
class Ongoing:
    """Pieces of the allocations in `slots`, which are the groups and the chain; where each group's last piece
    begins, and since when an access shows how (-1: none does)."""

    slots: Ints
    pieces: Pieces
    from_at: Ints
    how_at: Ints


def read(
    con: duckdb.DuckDBPyConnection, held: Open, others: Mask, before: int, now: int
) -> Iterator[tuple[Calls, Ints]]:
    """The accesses later than `before`, up to `now`, that name one of the slots in `others`, some slots at a
    time; with the slots to cut: those named, and those whose last piece is not written yet."""
    slots, times, shows = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, bool)]
    for batch in con.sql(_READ.format(before=before, now=now)).to_arrow_reader(_BATCH):
        found = held.find(batch.column(0))
        rows = np.flatnonzero(np.append(others, False)[found])
        slots.append(found[rows])
        times.append(batch.column(1).to_numpy()[rows])
        shows.append(batch.column(2).to_numpy(zero_copy_only=False)[rows])
    slot, at, how = np.concatenate(slots), np.concatenate(times), np.concatenate(shows)
    order = np.argsort(keys(slot, at))
    slot, at, how = slot[order], at[order], how[order]
    touched = others & ~held["written"] & (held["from_at"] < now)
    touched[slot] = True
    chosen = np.flatnonzero(touched)
    parts = len(slot) // CHUNK + 1 if len(chosen) else 0
    for some in np.array_split(chosen, parts) if parts else ():
        low, high = np.searchsorted(slot, [some[0], some[-1] + 1])
        yield Calls(slot[low:high], at[low:high], how[low:high]), some


def cut(calls: Calls, held: Open, slots: Ints, now: int) -> Ongoing:
    """The pieces of the allocations in `slots` (ascending) up to `now`; `calls` names no others."""
    group = np.searchsorted(slots, calls.slot)
    new = np.ones(len(group), bool)
    new[1:] = (group[1:] != group[:-1]) | (calls.at[1:] != calls.at[:-1])
    counts = np.bincount(group[new], minlength=len(slots)) + 1
    pasts = np.cumsum(counts)
    start = np.empty(int(pasts[-1]), np.int64)
    begins = np.zeros(len(start), bool)
    begins[pasts - counts] = True
    start[begins] = held["from_at"][slots]
    start[~begins] = calls.at[new]
    end = np.append(start[1:], now)
    end[pasts - 1] = now
    owner = np.repeat(np.arange(len(slots)), counts)
    shown = np.full(len(slots), now + 1)
    np.minimum.at(shown, group[calls.shows_how], calls.at[calls.shows_how])
    before = held["how_at"][slots]
    shown = np.where(before >= 0, before, shown)
    how = held["requested"][slots][owner] | (shown[owner] <= end)
    runs = np.zeros(len(start), bool)
    runs[pasts - 1] = True
    kept = np.flatnonzero(end > start)
    pieces = Pieces(owner[kept], start[kept], end[kept], owner[kept], how[kept], runs[kept])
    return Ongoing(slots, pieces, start[pasts - 1], np.where(shown <= now, shown, -1))

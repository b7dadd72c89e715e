"""Cuts the open allocations that nothing but accesses has named: most of them, in most steps.

They go on from what is carried, with the same `allocated` event and the same placements; a piece begins at
each access. What else there is to them (versions, rows) is as for all others.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from rules.asof import Ints
from rules.reconciler.coverage_accesses import Accesses
from rules.reconciler.coverage_open import Open
from rules.reconciler.pieces import Mask, Pieces

CHUNK = 1_000_000
"""Accesses that are cut at once, so that memory does not grow with a step."""


@dataclass(frozen=True)
class Ongoing:
    """Pieces of the allocations in `slots`, which are the groups and the chain; where each group's last piece
    begins, and since when an access shows how (-1: none does)."""

    slots: Ints
    pieces: Pieces
    from_at: Ints
    how_at: Ints


def parts(held: Open, others: Mask, calls: Accesses, now: int) -> Iterator[tuple[Ints, Accesses]]:
    """The slots to cut, and the accesses of them, some at a time: those of `calls` (in the order of slot and
    time), and of `others`, among which these are, those whose last piece is not written yet."""
    touched = others & ~held["written"] & (held["from_at"] < now)
    touched[calls.owner] = True
    chosen = np.flatnonzero(touched)
    chunks = len(calls.at) // CHUNK + 1 if len(chosen) else 0
    for slots in np.array_split(chosen, chunks) if chunks else ():
        yield slots, calls[slice(*np.searchsorted(calls.owner, [slots[0], slots[-1] + 1]))]


def cut(calls: Accesses, held: Open, slots: Ints, now: int) -> Ongoing:
    """The pieces of the allocations in `slots` (ascending) up to `now`; `calls` names no others."""
    position = np.empty(len(held["is_open"]), np.int32)
    position[slots] = np.arange(len(slots))
    group = position[calls.owner].astype(np.int64)
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
    showing = np.flatnonzero(calls.shows_how)
    first = np.append(True, group[showing][1:] != group[showing][:-1])[: len(showing)]
    shown[group[showing[first]]] = calls.at[showing[first]]
    before = held["how_at"][slots]
    shown = np.where(before >= 0, before, shown)
    how = held["requested"][slots][owner] | (shown[owner] <= end)
    runs = np.zeros(len(start), bool)
    runs[pasts - 1] = True
    pieces = Pieces(owner, start, end, owner, how, runs)
    kept = end > start
    if not kept.all():
        pieces = pieces[np.flatnonzero(kept)]
    return Ongoing(slots, pieces, start[pasts - 1], np.where(shown <= now, shown, -1))

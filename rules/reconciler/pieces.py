"""Cuts the time of allocations at the events that name them (contract section 4, *Coverage*).

All in columns: an event is a row, its allocation a small number (its *group*), its time int64 µs. Nothing is
computed per piece in Python, and nothing but the versions in force (`links.py`) is missing from the result.
"""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from rules.asof import Ints
from rules.growing import ascending

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Named:
    """The events that name some allocations, as cutting needs them.

    `allocation` events stand in the order of group, t, source, event_id, partition, offset, and `placement`
    events too; `access` events in any. `since` has a time for each group: pieces that start before it are not
    asked for, and it is a cut itself; -1 asks for all.
    """

    since: Ints
    allocation_group: Ints
    allocation_at: Ints
    allocated: Mask  # not released
    requested: Mask  # it names who requested it
    access_group: Ints
    access_at: Ints
    shows_how: Mask  # opened or call, with a method
    placement_group: Ints
    placement_at: Ints
    workload: Ints  # a number for each workload
    running: Mask  # started or moved, not stopped
    site: Ints  # a number for each site, -1 for none


@dataclass(frozen=True)
class Pieces:
    """Pieces in the order of group and time.

    `chain` is the row of the `allocated` event in effect; `open` is true where the piece still runs.
    """

    group: Ints
    start: Ints
    end: Ints
    chain: Ints
    how: Mask
    open: Mask

    def __getitem__(self, rows: Ints) -> "Pieces":
        return Pieces(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Running:
    """Which sites' workloads are in effect: one row for each piece and site (-1: unknown) of one.

    `placement` is the row of the latest placement there.
    """

    piece: Ints
    site: Ints
    placement: Ints


@dataclass(frozen=True)
class Last:
    """How the groups stand at the end: those that are open, from when, by which row of allocation, and since
    when an access shows how (-1: none does); and the rows of the placements in effect."""

    group: Ints
    start: Ints
    chain: Ints
    how_at: Ints
    placement: Ints


def cut(named: Named, now: int) -> tuple[Pieces, Running, Last]:
    """The pieces of all groups up to `now`; no event may be later. A piece is never without length."""
    cuts = _Cuts(named)
    index = np.arange(cuts.count)
    allocated = cuts.allocation[named.allocated]
    opens, shuts = cuts.having(allocated), cuts.having(cuts.allocation[~named.allocated])
    last = cuts.latest(opens | shuts)
    is_open = (last >= 0) & opens[last] & ~shuts[last]
    at_cut = np.full(cuts.count, -1, np.int64)
    rows = np.flatnonzero(named.allocated)
    greatest = np.append(allocated[1:] != allocated[:-1], True) if len(rows) else np.empty(0, bool)
    at_cut[allocated[greatest]] = rows[greatest]
    in_effect = cuts.latest(opens)  # the cut of the allocated event in effect
    following = index + 1 < cuts.past
    end = np.where(following, np.append(cuts.at[1:], now)[: cuts.count], now)
    shown = cuts.next(cuts.having(cuts.access[named.shows_how]))[in_effect]
    ids = np.flatnonzero(is_open & (end > cuts.at) & (cuts.at >= named.since[cuts.group]))
    chain = at_cut[in_effect[ids]]
    pieces = Pieces(
        cuts.group[ids],
        cuts.at[ids],
        end[ids],
        chain,
        named.requested[chain] | ((shown[ids] <= ids + 1) & (shown[ids] < cuts.past[ids])),
        ~following[ids],
    )
    still = np.flatnonzero(is_open & ~following)
    how_at = np.append(cuts.at, -1)[np.where(shown[still] < cuts.past[still], shown[still], -1)]
    starts, ends, stays = _spans(named, cuts)
    last_state = Last(
        cuts.group[still],
        cuts.at[still],
        at_cut[in_effect[still]],
        how_at,
        np.flatnonzero(stays & named.running),
    )
    return pieces, _running(named, cuts, starts, ends, ids), last_state


class _Cuts:
    """The distinct (group, time) of all events, in order, and the cut at which each event stands."""

    def __init__(self, named: Named) -> None:
        marked = np.flatnonzero(named.since >= 0)
        groups = (named.allocation_group, named.access_group, named.placement_group, marked)
        times = (named.allocation_at, named.access_at, named.placement_at, named.since[marked])
        group, at = np.concatenate(groups), np.concatenate(times)
        key = keys(group, at)
        order = ascending(key)
        ordered = key[order]
        new = np.ones(len(key), bool)
        new[1:] = ordered[1:] != ordered[:-1]
        firsts = order[new]
        self.group, self.at = group[firsts], at[firsts]
        self.count = len(firsts)
        position = np.empty(len(key), np.int64)
        position[order] = np.cumsum(new) - 1
        bounds = np.cumsum([len(part) for part in groups])[:-1]
        self.allocation, self.access, self.placement, _ = np.split(position, bounds)
        counts = np.bincount(self.group, minlength=len(named.since))
        self.past = np.cumsum(counts)[self.group]  # of each cut, the first of the next group
        self.first = self.past - counts[self.group]

    def having(self, cuts: Ints) -> Mask:
        """Which cuts are among these."""
        mask = np.zeros(self.count, bool)
        mask[cuts] = True
        return mask

    def latest(self, which: Mask) -> Ints:
        """For each cut the latest of the given ones at or before it in its group, or -1."""
        found = np.maximum.accumulate(np.where(which, np.arange(self.count), -1))
        return np.where(found >= self.first, found, -1)

    def next(self, which: Mask) -> Ints:
        """For each cut the next of the given ones at or after it, of whatever group; `count` if none."""
        return np.minimum.accumulate(np.where(which, np.arange(self.count), self.count)[::-1])[::-1]


def keys(group: Ints, at: Ints) -> Ints:
    """Numbers that are ordered, and equal, as (group, at) are."""
    if len(at) == 0:
        return at
    low, groups = int(at.min()), int(group.max()) + 1
    span = int(at.max()) - low + 1
    if groups * span < 1 << 63:
        return group * span + (at - low)
    distinct, ranks = np.unique(at, return_inverse=True)
    return group * len(distinct) + ranks


def _spans(named: Named, cuts: _Cuts) -> tuple[Ints, Ints, Mask]:
    """From which cut to which (exclusive) each placement is its workload's latest; whether it stays that."""
    order = np.lexsort((named.workload, named.placement_group))
    group, workload = named.placement_group[order], named.workload[order]
    followed = np.zeros(len(order), bool)
    followed[:-1] = (group[1:] == group[:-1]) & (workload[1:] == workload[:-1])
    starts = cuts.placement
    ends = np.empty_like(starts)
    position = starts[order]
    ends[order] = np.where(followed, np.append(position[1:], -1)[: len(order)], cuts.past[position])
    stays = np.empty(len(order), bool)
    stays[order] = ~followed
    return starts, ends, stays


def _running(named: Named, cuts: _Cuts, starts: Ints, ends: Ints, ids: Ints) -> Running:
    """The sites in effect at the start of the pieces, which begin at the cuts `ids`.

    Each group and site has a line of slots, one a cut from its first placement there to the end of the last;
    a slot is to hold the latest of the placements in effect then.
    """
    rows = np.flatnonzero(named.running & (ends > starts))
    starts, ends = starts[rows], ends[rows]
    lines, line = np.unique(keys(named.placement_group[rows], named.site[rows]), return_inverse=True)
    low = np.full(len(lines), cuts.count)
    np.minimum.at(low, line, starts)
    high = np.zeros(len(lines), np.int64)
    np.maximum.at(high, line, ends)
    lengths = high - low
    offset = np.cumsum(lengths) - lengths
    shift = offset[line] - low[line]
    latest = _latest(starts + shift, ends + shift, rows, int(lengths.sum()))
    cut_of = np.arange(len(latest)) - np.repeat(offset - low, lengths)
    piece = np.full(cuts.count, -1)
    piece[ids] = np.arange(len(ids))
    kept = np.flatnonzero((latest >= 0) & (piece[cut_of] >= 0))
    placement = latest[kept]
    return Running(piece[cut_of[kept]], named.site[placement], placement)


def _latest(starts: Ints, ends: Ints, values: Ints, size: int) -> Ints:
    """For each of `size` slots the greatest value of the ranges [start, end) that cover it; -1 for none.

    A range is covered by two blocks of a power of two; blocks of one size are halved until they are slots.
    """
    found = np.full(size, -1, np.int64)
    level = np.frexp((ends - starts).astype(np.float64))[1] - 1  # of the largest block that fits
    for power in range(int(level.max(initial=-1)), -1, -1):
        if power < int(level.max()):
            half = 1 << power
            wider = found
            found = wider.copy()
            np.maximum(found[half:], wider[:-half], out=found[half:])
        mine = np.flatnonzero(level == power)
        np.maximum.at(found, starts[mine], values[mine])
        np.maximum.at(found, ends[mine] - (1 << power), values[mine])
    return found

"""As-of: which version of a key is in force at a time.

In force is the version with the *highest number* among those that cover the time (contract 3.1), not the one
that began last: when version 2 ends, version 1 may come back. So each key's versions are flattened into
disjoint intervals when they arrive, and a look-up is a binary search over the few intervals of its key.

Times are int64 µs since the epoch (UTC); `FOREVER` stands for an open end. Keys are dense ids (`Keys`).
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from rules.growing import Growing, distinct, ranges
from rules.keys import WORTH_LOADING, Keys
from schemas.loops import loops

__all__ = ["FOREVER", "Intervals", "Ints", "Keys", "Runs", "Segments", "concat", "flatten"]

Ints = npt.NDArray[np.int64]

FOREVER = int(np.iinfo(np.int64).max)


class Runs:
    """For every dense key a run of rows, each of a fixed number of int64 columns.

    A run is replaced as a whole: the new one goes to the end, the old one becomes garbage, and when more than
    half is garbage all runs are written anew. Cost is amortised over what is set, whatever is held. What a
    look-up needs lies side by side: among millions of keys each place it reads is a miss of the cache.
    """

    def __init__(self, columns: int) -> None:
        self._spans = Growing(np.int64, 2)  # of each key the first row and the count
        self._rows = Growing(np.int64, columns)
        self._live = 0

    def __len__(self) -> int:
        """How many keys there is room for: every key set so far is below."""
        return len(self._spans)

    @property
    def rows(self) -> int:
        """How many rows the runs hold, without garbage."""
        return self._live

    @property
    def whole(self) -> tuple[Ints, Ints]:
        """(first row and count of every key's run, the rows), garbage included."""
        return self._spans.values, self._rows.values

    def spans(self, keys: Ints) -> tuple[Ints, Ints]:
        """(first, count) of each key's run within `column`; count is 0 for -1 and for keys never set."""
        known = (keys >= 0) & (keys < len(self))
        if len(self) == 0:
            return np.zeros_like(keys), np.zeros_like(keys)
        every = known.all()
        spans = self._spans.values.take(keys if every else np.where(known, keys, 0), axis=0)
        return spans[:, 0].copy(), spans[:, 1].copy() if every else np.where(known, spans[:, 1], 0)

    def column(self, index: int) -> Ints:
        """A column whole, garbage included, as `spans` and `ranges` index it."""
        column: Ints = self._rows.values[:, index]
        return column

    def gather(self, keys: Ints) -> tuple[Ints, list[Ints]]:
        """(the position within `keys` each row belongs to, the columns of these rows), in the keys' order."""
        firsts, counts = self.spans(keys)
        rows = self._rows.values.take(ranges(firsts, counts), axis=0)
        return np.repeat(np.arange(len(keys)), counts), list(np.ascontiguousarray(rows.T))

    def set(self, keys: Ints, counts: Ints, *columns: Ints) -> None:
        """Replace the runs of the given keys (distinct) by rows that follow each other in the keys' order."""
        if len(keys) == 0:
            return
        missing = int(keys.max()) + 1 - len(self)
        if missing > 0:
            self._spans.extend(missing)[:] = 0
        total = int(counts.sum())
        assert all(len(column) == total for column in columns)
        spans = self._spans.values
        self._live += total - int(spans[keys, 1].sum())
        spans[keys, 0] = len(self._rows) + np.cumsum(counts) - counts
        spans[keys, 1] = counts
        added = self._rows.extend(total)
        for index, column in enumerate(columns):
            added[:, index] = column
        if len(self._rows) > max(1024, 2 * self._live):
            self._compact()

    def _compact(self) -> None:
        firsts, counts = self._spans.values.T
        self._rows.replace(self._rows.values.take(ranges(firsts, counts), axis=0))
        self._spans.values[:, 0] = np.cumsum(counts) - counts


class Intervals:
    """For every dense key disjoint intervals [start, end) in order of time, each with a value (>= 0)."""

    def __init__(self) -> None:
        self._runs = Runs(3)

    @property
    def rows(self) -> int:
        """How many intervals are held."""
        return self._runs.rows

    def set(self, keys: Ints, segments: "Segments") -> None:
        """Replace all intervals of `keys` (distinct, ascending) by `segments`, whose groups are such keys."""
        counts = np.bincount(np.searchsorted(keys, segments.groups), minlength=len(keys))
        self._runs.set(keys, counts, segments.starts, segments.ends, segments.values)

    def of(self, keys: Ints) -> "Segments":
        """All intervals of `keys`; a segment's group is the position of its key within `keys`."""
        groups, (starts, ends, values) = self._runs.gather(keys)
        return Segments(groups, starts, ends, values)

    def at(self, keys: Ints, times: Ints) -> Ints:
        """The value of each key at each time; -1 where the key has none (or is -1)."""
        probe = loops("rules.probe", len(keys) >= WORTH_LOADING)
        if probe is not None:
            return cast("Ints", probe.at(keys, times, *self._runs.whole))
        return self._plain_at(keys, times)

    def _plain_at(self, keys: Ints, times: Ints) -> Ints:
        rows, low, _ = self._last(keys, times)
        starts, ends, values = (self._runs.column(index) for index in range(3))
        found = np.full(len(keys), -1, np.int64)
        wanted = times[rows]
        hit = (starts[low] <= wanted) & (wanted < ends[low])
        found[rows[hit]] = values[low[hit]]
        return found

    def until(self, keys: Ints, times: Ints) -> Ints:
        """The time before which each key keeps the value that it has at the given time, or goes on having
        none; FOREVER where it always does."""
        probe = loops("rules.probe", len(keys) >= WORTH_LOADING)
        if probe is not None:
            return cast("Ints", probe.until(keys, times, *self._runs.whole))
        return self._plain_until(keys, times)

    def _plain_until(self, keys: Ints, times: Ints) -> Ints:
        rows, low, past = self._last(keys, times)
        starts, ends = self._runs.column(0), self._runs.column(1)
        found = np.full(len(keys), FOREVER)
        wanted = times[rows]
        following = np.minimum(low + 1, past - 1)
        next_start = np.where(low + 1 < past, starts[following], FOREVER)
        ended = np.where(wanted < ends[low], ends[low], next_start)
        found[rows] = np.where(wanted < starts[low], starts[low], ended)
        return found

    def _last(self, keys: Ints, times: Ints) -> tuple[Ints, Ints, Ints]:
        """(which of the keys have intervals; of these the row of the last that starts by the time, or else of
        the first; and the row after the key's last)."""
        low, count = self._runs.spans(keys)
        starts = self._runs.column(0)
        rows, wanted = np.flatnonzero(count), times
        if len(rows) < len(keys):
            low, count, wanted = low[rows], count[rows], times[rows]
        past = low + count
        many = np.flatnonzero(count > 1)
        while len(many):  # binary search, all keys in step, for the last interval that starts by then
            half = count[many] >> 1
            middle = low[many] + half
            later = starts[middle] <= wanted[many]
            low[many] = np.where(later, middle, low[many])
            count[many] = np.where(later, count[many] - half, half)
            many = many[count[many] > 1]
        return rows, low, past


@dataclass(frozen=True)
class Segments:
    """Intervals of several groups in columns, ordered by group, then by start."""

    groups: Ints
    starts: Ints
    ends: Ints
    values: Ints

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, rows: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> "Segments":
        return Segments(self.groups[rows], self.starts[rows], self.ends[rows], self.values[rows])

    def ordered(self) -> "Segments":
        """The same, by group and start."""
        return self[np.lexsort((self.starts, self.groups))]


def concat(parts: list[Segments]) -> Segments:
    """The parts as one, by group and start."""
    columns = zip(*((part.groups, part.starts, part.ends, part.values) for part in parts), strict=True)
    return Segments(*(np.concatenate(column) for column in columns)).ordered()


def flatten(versions: Segments) -> Segments:
    """Cut overlapping versions into the disjoint intervals during which each is in force.

    `versions` are ordered by group and then by *priority*, lowest first: at any time the last version that
    covers it is in force. Those with `end <= start` never are. The result is ordered by group and start.
    """
    versions = versions[versions.ends > versions.starts]
    if len(versions) < 2:
        return versions
    groups, starts, ends = versions.groups, versions.starts, versions.ends
    pair = groups[:-1] == groups[1:]
    # Most histories are plain: each version starts no earlier than the one before it and either follows its
    # end or outlasts it. Then none ever comes back, and each simply ends where the next one starts.
    plain = (starts[:-1] <= starts[1:]) & ((ends[:-1] <= starts[1:]) | (ends[1:] >= ends[:-1]))
    cut = ends.copy()
    cut[:-1] = np.where(pair, np.minimum(ends[:-1], starts[1:]), ends[:-1])
    tangled = distinct(groups[:-1][pair & ~plain])
    if len(tangled) == 0:
        kept = cut > starts
        return Segments(groups[kept], starts[kept], cut[kept], versions.values[kept])
    hard = np.isin(groups, tangled, kind="sort")
    easy = ~hard & (cut > starts)
    parts = [Segments(groups[easy], starts[easy], cut[easy], versions.values[easy])]
    bounds = np.flatnonzero(np.diff(groups[hard])) + 1
    parts += [_paint(versions[rows]) for rows in np.split(np.flatnonzero(hard), bounds)]
    return concat(parts)


def _paint(versions: Segments) -> Segments:
    """`flatten` for one group: from the highest priority down, each version gets what is not yet covered."""
    covered: list[tuple[int, int]] = []  # disjoint, in order, never touching
    pieces: list[tuple[int, int, int]] = []
    rows = zip(versions.starts.tolist(), versions.ends.tolist(), versions.values.tolist(), strict=True)
    for start, end, value in reversed(list(rows)):
        low = bisect_right(covered, start, key=lambda span: span[1])
        if low and covered[low - 1][1] == start:
            low -= 1  # it touches: grow together, so that `covered` stays short
        high = low
        at = start
        while high < len(covered) and covered[high][0] <= end:
            if at < covered[high][0]:
                pieces.append((at, covered[high][0], value))
            at = max(at, covered[high][1])
            high += 1
        if at < end:
            pieces.append((at, end, value))
        merged = covered[low:high]
        covered[low:high] = [(min([start, *(s for s, _ in merged)]), max([end, *(e for _, e in merged)]))]
    columns = np.array(pieces, np.int64).reshape(-1, 3).T
    return Segments(np.full(columns.shape[1], versions.groups[0]), *columns).ordered()

"""Which parties a principal stands for at a time (contract 3.2).

As-of comes first per binding: its version in force says which principal it binds to which party. Then a
principal's time is cut wherever one of its bindings begins or ends; each piece names one party or a set.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa

from rules.asof import Intervals, Ints, Keys, Runs, Segments, concat
from rules.growing import Growing, distinct
from rules.versions import Mask, Versions

_SETS = 1 << 40  # values from here on number a set of parties, lower ones are a party's key


class Bindings:
    """The principal records turned around: principal → parties, as dense keys of `parties`."""

    def __init__(self, versions: Versions, parties: Keys) -> None:
        """`versions` are those of the principal records; a party named here is interned in `parties`."""
        self._versions = versions
        self._parties = parties
        self._names = Keys()
        self._intervals = Intervals()
        self._principal, self._party = (
            Growing(np.int64),
            Growing(np.int64),
        )  # by version row; -1 for tombstones
        self._bindings = Runs(1)  # the bindings that any version of which names the principal
        self._numbers: dict[tuple[int, ...], int] = {}
        self._members = Runs(1)  # the parties of each numbered set

    def follow(self, batch: pa.RecordBatch, changed: Ints, added: Mask) -> None:
        """Take in what `Versions.add(batch)` returned: the changed bindings, the mask of the rows added."""
        new = batch.filter(pa.array(added))
        first = len(self._principal)
        self._principal.append(self._names.intern(new["principal"]))
        self._party.append(self._parties.intern(new["party_id"]))
        groups, rows = self._versions.rows_of(changed)
        principals = self._principal.values[rows]
        affected = distinct(principals[principals >= 0])
        fresh = (rows >= first) & (principals >= 0)
        self._list(principals[fresh], changed[groups[fresh]])
        self._intervals.set(affected, self._pieces(affected))

    def candidates(self, principals: pa.Array, at: Ints) -> tuple[Ints, Ints]:
        """(position, party key) of every party that a principal's bindings in force name at its time."""
        values = self._intervals.at(self._names.find(principals), at)
        single = np.flatnonzero((values >= 0) & (values < _SETS))
        several = np.flatnonzero(values >= _SETS)
        if len(several) == 0:
            return single, values[single]
        owners, (members,) = self._members.gather(values[several] - _SETS)
        return np.concatenate((single, several[owners])), np.concatenate((values[single], members))

    def until(self, principals: pa.Array, at: Ints) -> Ints:
        """The time before which each principal has the same candidates as at the given time."""
        return self._intervals.until(self._names.find(principals), at)

    def _list(self, principals: Ints, bindings: Ints) -> None:
        """Remember that these bindings name these principals."""
        changed = distinct(principals)
        groups, (held,) = self._bindings.gather(changed)
        owners = np.append(groups, np.searchsorted(changed, principals))
        pairs = distinct((owners << 32) + np.append(held, bindings))  # ids have at most 31 bits
        owners, members = pairs >> 32, pairs & ((1 << 32) - 1)
        self._bindings.set(changed, np.bincount(owners, minlength=len(changed)), members)

    def _pieces(self, principals: Ints) -> Segments:
        """The time of these principals in disjoint pieces, each with a party or a set of parties."""
        groups, (bindings,) = self._bindings.gather(principals)
        spans = self._versions.intervals.of(bindings)
        owners = principals[groups[spans.groups]]
        mine = self._principal.values[spans.values] == owners  # a binding may have moved between principals
        spans = Segments(owners, spans.starts, spans.ends, self._party.values[spans.values])[mine].ordered()
        crossing = (spans.groups[1:] == spans.groups[:-1]) & (spans.starts[1:] < spans.ends[:-1])
        shared = distinct(spans.groups[1:][crossing])
        if len(shared) == 0:
            return spans
        hard = np.isin(spans.groups, shared, kind="sort")
        bounds = np.flatnonzero(np.diff(spans.groups[hard])) + 1
        parts = [self._unite(spans[rows]) for rows in np.split(np.flatnonzero(hard), bounds)]
        return concat([spans[~hard], *parts])

    def _unite(self, spans: Segments) -> Segments:
        """One principal's overlapping spans as disjoint pieces."""
        pieces = [
            (start, end, parties[0] if len(parties) == 1 else _SETS + self._number(parties))
            for start, end, parties in _sweep(spans)
        ]
        columns = np.array(pieces, np.int64).reshape(-1, 3).T
        return Segments(np.full(columns.shape[1], spans.groups[0]), *columns)

    def _number(self, parties: tuple[int, ...]) -> int:
        number = self._numbers.setdefault(parties, len(self._numbers))
        if number >= len(self._members):
            self._members.set(np.array([number]), np.array([len(parties)]), np.array(parties, np.int64))
        return number


def _sweep(spans: Segments) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(start, end, the distinct parties named, ascending) of every piece between two edges."""
    edges: dict[int, list[tuple[int, int]]] = {}
    for start, end, party in zip(
        spans.starts.tolist(), spans.ends.tolist(), spans.values.tolist(), strict=True
    ):
        edges.setdefault(start, []).append((party, 1))
        edges.setdefault(end, []).append((party, -1))
    active: dict[int, int] = {}
    for at, until in pairwise(sorted(edges)):
        for party, change in edges[at]:
            active[party] = active.get(party, 0) + change
            if active[party] == 0:
                del active[party]
        if active:
            yield at, until, tuple(sorted(active))

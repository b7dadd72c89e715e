"""The links of pieces: judged by the versions in force, or those of the piece before as long as these are the
same. So an allocation that nothing but accesses cuts is judged once.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from rules.asof import Ints
from rules.growing import ranges
from rules.reconciler import links
from rules.reconciler.coverage_events import Events
from rules.reconciler.coverage_log import TEXTS
from rules.reconciler.coverage_open import Bits, Open, numbered
from rules.reconciler.links import Links
from rules.reconciler.pieces import Mask, Pieces, Running
from rules.references import References

LINKS = ("who", "how", "where", "under_what")
HOW = np.uint8(1 << LINKS.index("how"))
ALL = np.uint8((1 << len(LINKS)) - 1)


@dataclass(frozen=True)
class Judged:
    """Pieces with everything that is known of them.

    Of each piece: the `party` it resolves to (its row in `References`, -1 for none), the number in
    `Open.texts` of its `site`, and its `links`. Of what `pieces.chain` numbers: the number in `Open.texts` of
    the `model`, and the `accelerators`.
    """

    pieces: Pieces
    party: Ints
    site: Ints
    links: Bits
    model: Ints
    accelerators: Ints

    @property
    def covered(self) -> Mask:
        return self.links == ALL


def judge(
    held: Open, pieces: Pieces, running: Running, events: Events, references: References
) -> tuple[Judged, Ints]:
    """Judges pieces that were cut from events of all kinds; (what is known of them, until when the links of
    those that still run hold: 0 for the others)."""
    of = (events.allocations, events.sites, references)
    found = links.judge(pieces, running, *of)
    judged = Judged(
        pieces,
        found.party,
        np.append(held.texts.intern(events.sites), -1)[found.site],
        _bits(found, pieces.how),
        held.texts.intern(events.allocations["model"]),
        events.allocations["accelerators"].to_numpy(),
    )
    runs = np.flatnonzero(pieces.open)
    position = np.full(len(pieces.open), -1, np.int64)
    position[runs] = np.arange(len(runs))
    there = np.flatnonzero(pieces.open[running.piece])
    still = Running(position[running.piece[there]], running.site[there], running.placement[there])
    until = np.zeros(len(pieces.open), np.int64)
    until[runs] = links.until(pieces[runs], still, *of)
    return judged, until


def go_on(held: Open, slots: Ints, pieces: Pieces, references: References) -> Judged:
    """Judges pieces of open allocations, `slots` by group and chain, with the same `allocated` event and the
    same placements as what is carried of them. How long the links hold is carried at once."""
    mine = slots[pieces.group]
    party, site = held["party"][mine], held["site_id"][mine]
    found = held["links"][mine] & (ALL - HOW) | pieces.how * HOW
    fresh = np.flatnonzero(pieces.start >= held["until"][mine])
    if len(fresh):
        some = _Fresh(held, slots, pieces[fresh], references)
        party[fresh], site[fresh], found[fresh] = some.judge()
        last = some.last()
        held.set(some.slots[last], {"party": party[fresh[last]], "until": some.until(last)})
    return Judged(pieces, party, site, found, held["model"][slots], held["accelerators"][slots])


class _Fresh:
    """Pieces of open allocations that must be judged; `slots` has that of each."""

    def __init__(self, held: Open, slots: Ints, pieces: Pieces, references: References) -> None:
        self.slots = slots[pieces.group]
        distinct, chain = np.unique(self.slots, return_inverse=True)
        self._pieces = replace(pieces, chain=chain)
        self._allocations = pa.RecordBatch.from_pydict({name: held.text(name, distinct) for name in TEXTS})
        self._held = held
        self._references = references

    def judge(self) -> tuple[Ints, Ints, Bits]:
        """(party, site, links) as `Judged` has them."""
        running, sites = self._running(self.slots)
        found = links.judge(self._pieces, running, self._allocations, sites, self._references)
        site = np.append(self._held.texts.intern(sites), -1)[found.site]
        return found.party, site, _bits(found, self._pieces.how)

    def last(self) -> Ints:
        """The last piece of each allocation."""
        return np.flatnonzero(np.append(self.slots[1:] != self.slots[:-1], True))

    def until(self, some: Ints) -> Ints:
        """Until when the links of some of the pieces hold."""
        running, sites = self._running(self.slots[some])
        return links.until(self._pieces[some], running, self._allocations, sites, self._references)

    def _running(self, slots: Ints) -> tuple[Running, pa.StringArray]:
        """(the sites in effect at pieces of the given slots, the sites' ids)."""
        firsts, counts = self._held.sites.spans(slots)
        rows = ranges(firsts, counts)
        codes = numbered(self._held.sites.column(0)[rows], self._held.texts.take)
        site = codes.indices.fill_null(-1).to_numpy().astype(np.int64)
        return Running(np.repeat(np.arange(len(slots)), counts), site, np.arange(len(rows))), codes.dictionary


def _bits(found: Links, how: Mask) -> Bits:
    sums = np.zeros(len(how), np.uint8)
    for bit, flag in enumerate((found.who, how, found.where, found.under_what)):
        sums |= flag.astype(np.uint8) << np.uint8(bit)
    return sums

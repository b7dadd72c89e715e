"""What an update carries to the next one, and the time that has ended with it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rules.asof import Ints
from rules.growing import distinct
from rules.reconciler.coverage_calls import Ongoing
from rules.reconciler.coverage_events import Events
from rules.reconciler.coverage_links import Judged
from rules.reconciler.coverage_log import TEXTS
from rules.reconciler.coverage_open import Open, Values
from rules.reconciler.coverage_scope import Scope
from rules.reconciler.coverage_sums import ENDED
from rules.reconciler.pieces import Last

_MOMENT = pa.timestamp("us")


@dataclass(frozen=True)
class Carried:
    """What has become of some allocations: the slots that have changed, those of another `allocated` event,
    the time to sum (ENDED), and rows of `coverage_placement`."""

    changed: Ints
    chained: Ints
    ended: pa.Table
    placements: pa.Table | None = None


def carry(held: Open, scope: Scope, events: Events, judged: Judged, until: Ints, last: Last) -> Carried:
    """Carries allocations that were cut from events of all kinds; all their time goes into the sums, of
    a late one all there ever was. `until`: how long the links of each piece hold."""
    pieces = judged.pieces
    goes_on = scope.slots[~scope.late & (scope.slots >= 0)]
    before = _summed(held, goes_on)
    was_open = scope.slots[scope.slots >= 0]
    held.set(was_open, {"is_open": np.zeros(len(was_open), bool)})
    runs = np.flatnonzero(pieces.open)
    piece = np.full(len(scope.late), -1, np.int64)
    piece[pieces.group[runs]] = runs
    piece = piece[last.group]
    named, chain = events.named, pa.array(last.chain)
    slots = held.slots(scope.ids.take(pa.array(last.group)))
    columns: dict[str, Values] = {
        "is_open": np.ones(len(slots), bool),
        "from_at": last.start,
        "written": piece >= 0,
        "how_at": last.how_at,
        "site_id": np.append(judged.site, -1)[piece],
        "links": np.append(judged.links, 0)[piece],
        "party": np.append(judged.party, -1)[piece],
        "until": np.append(until, 0)[piece],
        "micros": np.zeros(len(slots), np.int64),
        "covered_micros": np.zeros(len(slots), np.int64),
        "allocated_at": named.allocation_at[last.chain],
        "requested": named.requested[last.chain],
        "accelerators": events.allocations["accelerators"].take(chain).to_numpy(),
        **{name: held.texts.intern(events.allocations[name].take(chain)) for name in TEXTS},
    }
    held.set(slots, columns)
    _place(held, slots, last, events)
    ended = _ended(held, scope.ids, judged, np.flatnonzero(~pieces.open))
    return Carried(
        distinct(np.append(was_open, slots)),
        slots,
        pa.concat_tables([before, ended]),
        _placements(scope, events, last),
    )


def go_on(held: Open, scope: Scope, judged: Judged, ongoing: Ongoing) -> Carried:
    """Carries allocations that only accesses have named."""
    pieces, slots, site = judged.pieces, scope.slots, judged.site
    last = np.append(np.flatnonzero(pieces.group[1:] != pieces.group[:-1]), len(site) - 1)
    stays = pieces.open | (site == site[last][pieces.group])
    moved = held["site_id"][slots] != site[last]
    ended = _ended(held, scope.ids, judged, np.flatnonzero(~stays))
    left = pa.concat_tables([_summed(held, slots[moved]), ended])
    micros, covered_micros = (np.where(moved, 0, held[name][slots]) for name in ("micros", "covered_micros"))
    first = np.append(0, last[:-1] + 1)
    times = np.where(stays & ~pieces.open, pieces.end - pieces.start, 0)
    micros += np.add.reduceat(times, first)
    covered_micros += np.add.reduceat(times * judged.covered, first)
    columns: dict[str, Values] = {
        "from_at": ongoing.from_at,
        "written": pieces.open[last],
        "how_at": ongoing.how_at,
        "site_id": site[last],
        "links": judged.links[last],
        "micros": micros,
        "covered_micros": covered_micros,
    }
    held.set(slots, columns)
    return Carried(slots, slots[:0], left)


def _place(held: Open, slots: Ints, last: Last, events: Events) -> None:
    position = np.full(int(events.named.placement_group.max(initial=-1)) + 1, -1, np.int64)
    within = last.group < len(position)
    position[last.group[within]] = np.flatnonzero(within)
    owner = position[events.named.placement_group[last.placement]]
    mine = owner >= 0
    sites = np.append(held.texts.intern(events.sites), -1)
    held.place(slots, owner[mine], sites[events.named.site[last.placement[mine]]])


def _placements(scope: Scope, events: Events, last: Last) -> pa.Table:
    """Rows of `coverage_placement`."""
    at = pa.array(last.placement)
    names = ("workload_id", "site_id", "source", "event_id", "partition", "offset")
    return pa.table(
        {
            "allocation_id": scope.ids.take(pa.array(events.named.placement_group[last.placement])),
            "t": pa.array(events.named.placement_at[last.placement], _MOMENT),
            **{name: events.placements[name].take(at) for name in names},
        }
    )


def _ended(held: Open, ids: pa.StringArray, judged: Judged, rows: Ints) -> pa.Table:
    """Pieces that have ended, as ENDED."""
    pieces = judged.pieces
    columns = [
        ids.take(pa.array(pieces.group[rows])),
        held.texts.take(judged.site[rows]),
        pa.array(judged.accelerators[pieces.chain[rows]]),
        pa.array(pieces.end[rows] - pieces.start[rows]),
        pa.array(judged.covered[rows]),
    ]
    return pa.Table.from_arrays(columns, schema=ENDED)


def _summed(held: Open, slots: Ints) -> pa.Table:
    """The time summed of some slots, as ENDED."""
    covered = held["covered_micros"][slots]
    micros = np.append(held["micros"][slots] - covered, covered)
    both = np.append(slots, slots)
    columns = [
        held.ids(both),
        held.texts.take(held["site_id"][both]),
        pa.array(held["accelerators"][both]),
        pa.array(micros),
        pa.array(np.arange(len(both)) >= len(slots)),
    ]
    return pa.Table.from_arrays(columns, schema=ENDED).filter(pa.array(micros > 0))

"""Cuts some allocations and makes the rows of it: those to write, and those to carry to the next update."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rules.asof import Ints
from rules.reconciler import links
from rules.reconciler.coverage_scope import Events, Scope
from rules.reconciler.coverage_sums import ENDED
from rules.reconciler.links import Links
from rules.reconciler.pieces import Last, Mask, Pieces, cut
from rules.references import References
from schemas.record import TIME
from schemas.tables import COVERAGE

SCHEMA = pa.schema([field for field in COVERAGE if field.name != "ingested_at"])
"""The rows to write: `coverage` before landing."""

LINKS = ("who", "how", "where", "under_what")

_REASONS = pa.array(
    [[name for bit, name in enumerate(LINKS) if not code >> bit & 1] for code in range(16)],
    pa.list_(pa.string()),
)
"""The links that are missing, by the sum of 2 ** position of those that are there."""

_MOMENT = pa.timestamp("us")


@dataclass(frozen=True)
class Cut:
    """What becomes of some allocations: `rows` to write (SCHEMA), `still_open` and `placements` to carry, and
    the pieces that have ended (ENDED), of a late allocation all there ever were."""

    rows: pa.Table
    still_open: pa.Table
    placements: pa.Table
    ended: pa.Table


@dataclass(frozen=True)
class _Judged:
    """The pieces with everything that is known of them: arrays of one value per piece."""

    pieces: Pieces
    links: Links
    codes: Ints  # of _REASONS
    accelerators: pa.Array
    model: pa.Array

    @property
    def covered(self) -> Mask:
        return self.codes == len(_REASONS) - 1


def cut_scope(scope: Scope, events: Events, references: References, now: int, step: int) -> Cut:
    """Cuts the allocations of a scope up to `now` (µs)."""
    pieces, running, last = cut(events.named, now)
    found = links.judge(pieces, running, events.allocations, events.sites, references)
    flags = (found.who, pieces.how, found.where, found.under_what)
    chain = pa.array(pieces.chain)
    judged = _Judged(
        pieces,
        found,
        sum((flag.astype(np.int64) << bit for bit, flag in enumerate(flags)), np.zeros(len(chain), np.int64)),
        events.allocations["accelerators"].take(chain),
        events.allocations["model"].take(chain).dictionary_decode(),
    )
    return Cut(
        pa.concat_tables([_rows(scope, judged, step), _voids(scope, pieces, step)]),
        _still_open(scope, events, judged, last),
        _placements(scope, events, last),
        _ended(scope, judged),
    )


def _kept(scope: Scope, pieces: Pieces) -> Mask:
    """Which pieces are to be written: of a late allocation what it reaches back to."""
    return ~scope.late[pieces.group] | (pieces.end >= scope.limit[pieces.group])


def _rows(scope: Scope, judged: _Judged, step: int) -> pa.Table:
    pieces = judged.pieces
    kept = np.flatnonzero(_kept(scope, pieces))
    group, start, codes = pieces.group[kept], pieces.start[kept], judged.codes[kept]
    at = pa.array(kept)
    first = np.ones(len(kept), bool)
    first[1:] = group[1:] != group[:-1]
    replaces = first & scope.replaces[group]
    columns = {
        "allocation_id": scope.ids.take(pa.array(group)),
        "party_id": judged.links.party_id.take(at),
        "site_id": judged.links.site_id.take(at),
        "model": judged.model.take(at),
        "accelerators": judged.accelerators.take(at),
        "from_at": pa.array(start, TIME),
        "to_at": pa.array(pieces.end[kept], TIME),
        **{name: pa.array((codes >> bit & 1).astype(bool)) for bit, name in enumerate(LINKS)},
        "reasons": _REASONS.take(pa.array(codes)),
        "open": pa.array(pieces.open[kept]),
        "replaces_from": pa.array(np.minimum(start, scope.limit[group]), TIME, mask=~replaces),
        "step": pa.array(np.full(len(kept), step)),
    }
    return pa.table(columns, SCHEMA)


def _voids(scope: Scope, pieces: Pieces, step: int) -> pa.Table:
    """Rows that only make void: of allocations of which nothing is left to write."""
    written = np.zeros(len(scope.late), bool)
    written[pieces.group[_kept(scope, pieces)]] = True
    groups = np.flatnonzero(scope.voids & ~written)
    columns = {
        "allocation_id": scope.ids.take(pa.array(groups)),
        "replaces_from": pa.array(scope.limit[groups], TIME),
        "step": pa.array(np.full(len(groups), step)),
    }
    nothing = {field.name: pa.nulls(len(groups), field.type) for field in SCHEMA}
    return pa.table(nothing | columns, SCHEMA)


def _still_open(scope: Scope, events: Events, judged: _Judged, last: Last) -> pa.Table:
    """Rows of `coverage_open`. A piece that starts at the watermark is still without length: not written."""
    runs = np.flatnonzero(judged.pieces.open)
    piece = np.full(len(scope.late), -1, np.int64)
    piece[judged.pieces.group[runs]] = runs
    piece = piece[last.group]
    chain = pa.array(last.chain)
    names = ("party_id_sent", "principal", "authorization_id", "model")
    return pa.table(
        {
            "allocation_id": scope.ids.take(pa.array(last.group)),
            "from_at": pa.array(last.start, _MOMENT),
            "written": pa.array(piece >= 0),
            "site_id": judged.links.site_id.take(pa.array(piece, mask=piece < 0)),
            "covered": pa.array(np.append(judged.covered, False)[piece]),
            "how_at": pa.array(last.how_at, _MOMENT, mask=last.how_at < 0),
            "allocated_at": pa.array(events.named.allocation_at[last.chain], _MOMENT),
            **{name: events.allocations[name].take(chain).dictionary_decode() for name in names},
            "accelerators": events.allocations["accelerators"].take(chain),
            "requested": pa.array(events.named.requested[last.chain]),
        }
    )


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


def _ended(scope: Scope, judged: _Judged) -> pa.Table:
    ended = np.flatnonzero(~judged.pieces.open)
    at = pa.array(ended)
    columns = [
        pa.array(judged.pieces.group[ended] + scope.first),
        judged.links.site_id.take(at),
        judged.accelerators.take(at),
        pa.array(judged.pieces.end[ended] - judged.pieces.start[ended]),
        pa.array(judged.covered[ended]),
    ]
    return pa.Table.from_arrays(columns, schema=ENDED)

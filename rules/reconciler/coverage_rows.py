"""Judges pieces and makes the rows of them that are to be written."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rules.asof import Ints
from rules.reconciler import links
from rules.reconciler.coverage_scope import Scope
from rules.reconciler.links import Links
from rules.reconciler.pieces import Mask, Pieces, Running
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


@dataclass(frozen=True)
class Judged:
    """Pieces with everything that is known of them.

    `codes` numbers, of each piece, `_REASONS`; `allocations` has the rows that `pieces.chain` numbers;
    `sites` the ids that `links.site` numbers.
    """

    pieces: Pieces
    links: Links
    codes: Ints
    allocations: pa.RecordBatch
    sites: pa.StringArray

    @property
    def covered(self) -> Mask:
        return self.codes == len(_REASONS) - 1


def judge(
    pieces: Pieces,
    running: Running,
    allocations: pa.RecordBatch,
    sites: pa.StringArray,
    references: References,
) -> Judged:
    """Judges the pieces; for the arguments see `links.judge`, of `allocations` also `accelerators`."""
    found = links.judge(pieces, running, allocations, sites, references)
    codes = np.zeros(len(pieces.start), np.int64)
    for bit, flag in enumerate((found.who, pieces.how, found.where, found.under_what)):
        codes |= flag.astype(np.int64) << bit
    return Judged(pieces, found, codes, allocations, sites)


def rows(scope: Scope, judged: Judged, step: int) -> pa.Table:
    """What to write (SCHEMA) of the allocations of a scope."""
    kept = _kept(scope, judged.pieces)
    if not scope.voids.any():
        return _written(scope, judged, kept, step)
    return pa.concat_tables(
        [_written(scope, judged, kept, step), _voids(scope, judged.pieces.group[kept], step)]
    )


def _kept(scope: Scope, pieces: Pieces) -> Ints:
    """Which pieces are to be written: of a late allocation what it reaches back to."""
    if not scope.late.any():
        return np.arange(len(pieces.group))
    return np.flatnonzero(~scope.late[pieces.group] | (pieces.end >= scope.limit[pieces.group]))


def _written(scope: Scope, judged: Judged, kept: Ints, step: int) -> pa.Table:
    pieces = judged.pieces
    group, start, codes, site = (
        values[kept] for values in (pieces.group, pieces.start, judged.codes, judged.links.site)
    )
    chain = pa.array(pieces.chain[kept])
    first = np.ones(len(kept), bool)
    first[1:] = group[1:] != group[:-1]
    replaces = first & scope.replaces[group]
    columns = {
        "allocation_id": scope.ids.take(pa.array(group)),
        "party_id": judged.links.party_id.take(pa.array(kept)).dictionary_decode(),
        "site_id": judged.sites.take(pa.array(site, mask=site < 0)),
        "model": judged.allocations["model"].take(chain).dictionary_decode(),
        "accelerators": judged.allocations["accelerators"].take(chain),
        "from_at": pa.array(start, TIME),
        "to_at": pa.array(pieces.end[kept], TIME),
        **{name: pa.array((codes >> bit & 1).astype(bool)) for bit, name in enumerate(LINKS)},
        "reasons": _REASONS.take(pa.array(codes)),
        "open": pa.array(pieces.open[kept]),
        "replaces_from": pa.array(np.minimum(start, scope.limit[group]), TIME, mask=~replaces),
        "step": pa.array(np.full(len(kept), step)),
    }
    return pa.table(columns, SCHEMA)


def _voids(scope: Scope, written: Ints, step: int) -> pa.Table:
    """Rows that only make void: of allocations of which nothing is left to write."""
    left = scope.voids.copy()
    left[written] = False
    groups = np.flatnonzero(left)
    columns = {
        "allocation_id": scope.ids.take(pa.array(groups)),
        "replaces_from": pa.array(scope.limit[groups], TIME),
        "step": pa.array(np.full(len(groups), step)),
    }
    nothing = {field.name: pa.nulls(len(groups), field.type) for field in SCHEMA}
    return pa.table(nothing | columns, SCHEMA)

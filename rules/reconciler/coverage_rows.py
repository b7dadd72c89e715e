"""The rows of pieces that are to be written."""

from functools import partial

import numpy as np
import pyarrow as pa

from rules.asof import Ints
from rules.keys import Keys
from rules.reconciler.coverage_links import LINKS, Judged
from rules.reconciler.coverage_open import numbered
from rules.reconciler.coverage_scope import Scope
from rules.reconciler.pieces import Mask, Pieces
from rules.references import References
from schemas.record import TIME
from schemas.reference import PARTY
from schemas.tables import COVERAGE

SCHEMA = pa.schema([field for field in COVERAGE if field.name != "ingested_at"])
"""The rows to write: `coverage` before landing."""

_REASONS = pa.array(
    [[name for bit, name in enumerate(LINKS) if not code >> bit & 1] for code in range(16)],
    pa.list_(pa.string()),
)
"""The links that are missing, by the sum of 2 ** position of those that are there."""


def rows(scope: Scope, judged: Judged, texts: Keys, references: References, step: int) -> pa.Table:
    """What to write (SCHEMA) of the allocations of a scope."""
    touched = _touched(scope, judged.pieces)
    replaces, known = _replaces(scope, judged, touched)
    kept = touched[~known]
    written = _written(scope, judged, kept, replaces[~known], texts, references, step)
    if not scope.voids.any():
        return written
    return pa.concat_tables([written, _voids(scope, judged.pieces.group[kept], step)])


def _touched(scope: Scope, pieces: Pieces) -> Ints:
    """Which pieces may be to write: of a late allocation what it reaches back to."""
    if not scope.late.any():
        return np.arange(len(pieces.group))
    return np.flatnonzero(~scope.late[pieces.group] | (pieces.end >= scope.limit[pieces.group]))


def _replaces(scope: Scope, judged: Judged, rows: Ints) -> tuple[Mask, Mask]:
    """Which of the pieces `rows` make void what was written; which were written as they are now.

    The latter ran when they were written, and end where the next one begins, as readers take it.
    """
    group, start, end = (
        column[rows] for column in (judged.pieces.group, judged.pieces.start, judged.pieces.end)
    )
    same = group[1:] == group[:-1]
    replaces = scope.replaces[group]
    replaces[1:] &= ~same
    known = replaces & ~scope.late[group] & (judged.links[rows] == scope.links[group])
    known[:-1] &= same & (end[:-1] == start[1:])
    known[-1:] = False
    return replaces, known


def _written(
    scope: Scope,
    judged: Judged,
    kept: Ints,
    replaces: Mask,
    texts: Keys,
    references: References,
    step: int,
) -> pa.Table:
    pieces = judged.pieces[kept]
    links = judged.links[kept]
    limit = np.minimum(pieces.start, scope.limit[pieces.group])
    columns = {
        "allocation_id": scope.ids.take(pa.array(pieces.group)),
        "party_id": numbered(judged.party[kept], partial(references.ids, PARTY)).dictionary_decode(),
        "site_id": numbered(judged.site[kept], texts.take).dictionary_decode(),
        "model": numbered(judged.model[pieces.chain], texts.take).dictionary_decode(),
        "accelerators": pa.array(judged.accelerators[pieces.chain]),
        "from_at": pa.array(pieces.start, TIME),
        "to_at": pa.array(pieces.end, TIME),
        **{name: pa.array((links & 1 << bit).astype(bool)) for bit, name in enumerate(LINKS)},
        "reasons": _REASONS.take(pa.array(links)),
        "open": pa.array(pieces.open),
        "replaces_from": pa.array(limit, TIME, mask=~replaces),
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

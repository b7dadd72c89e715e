"""The accesses that the watermark has passed, read once for all that is to be cut."""

from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.asof import Ints
from rules.growing import ascending
from rules.reconciler.coverage_open import Open
from rules.reconciler.coverage_scope import PASSED, Scope
from rules.reconciler.pieces import Mask, keys

SHOWS_HOW = "coalesce(action IN ('opened', 'call') AND method IS NOT NULL, false)"

_READ = f"""
SELECT allocation_id, epoch_us(t) AS t, {SHOWS_HOW} AS shows_how FROM recent_access
WHERE allocation_id IS NOT NULL AND {PASSED}
"""

_BATCH = 250_000
"""Rows of text in memory at once."""


@dataclass(frozen=True)
class Accesses:
    """Of each access its allocation's number (whose, the user says), `at` (µs), and whether it shows how."""

    owner: Ints
    at: Ints
    shows_how: Mask

    def __getitem__(self, rows: Ints | Mask | slice) -> "Accesses":
        return Accesses(self.owner[rows], self.at[rows], self.shows_how[rows])

    def ordered(self) -> "Accesses":
        """In the order of owner and time."""
        return self[ascending(keys(self.owner, self.at))]


def read(
    con: duckdb.DuckDBPyConnection, held: Open, scope: Scope, before: int, now: int
) -> tuple[Accesses, Accesses]:
    """The accesses later than `before`, up to `now`, of the allocations in a scope, by their position in it;
    and of the other open ones, by slot, in the order of slot and time."""
    position = np.full(len(held["is_open"]) + 1, -1)
    position[scope.slots] = np.arange(len(scope.slots))
    position[-1] = -1
    scoped, others = [_NONE], [_NONE]
    for batch in con.sql(_READ.format(before=before, now=now)).to_arrow_reader(_BATCH):
        ids = batch.column(0)
        slots = held.find(ids)
        inside = position[slots]
        unknown = np.flatnonzero(slots < 0)
        found = pc.index_in(ids.take(pa.array(unknown)), value_set=scope.ids)
        inside[unknown] = found.fill_null(-1).to_numpy()
        times = batch.column(1).to_numpy()
        shows_how = batch.column(2).to_numpy(zero_copy_only=False)
        scoped.append(Accesses(inside, times, shows_how)[inside >= 0])
        others.append(Accesses(slots, times, shows_how)[(slots >= 0) & (inside < 0)])
    return concat(scoped), concat(others).ordered()


def concat(parts: list[Accesses]) -> Accesses:
    """The parts as one; at least one."""
    return Accesses(
        np.concatenate([part.owner for part in parts]),
        np.concatenate([part.at for part in parts]),
        np.concatenate([part.shows_how for part in parts]),
    )


_NONE = Accesses(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, bool))

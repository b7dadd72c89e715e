"""Findings: their life from the first firing on, as rows of finding_event and finding_history.

A finding is `provisional` until the watermark is at or past the time of one of its events, then `confirmed`;
where nothing of it holds any more it is `withdrawn` or, once confirmed, `superseded` (contract 3.7). What is
put out is the difference to what the lake says, so that a step done twice puts out nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from rules.reconciler import firings, revisions, suppressed, tally
from rules.reconciler.absorbed import absorb_lake
from rules.reconciler.firings import AT, absorb_workers, replace
from rules.reconciler.given import before_landing
from rules.reconciler.revisions import TEXTS, WITH_TEXTS, open_counts
from rules.reconciler.state import has_rows
from rules.rule import Rule
from rules.suppressions import Suppression
from schemas.tables import FINDING_EVENT, FINDING_HISTORY

__all__ = ["Emission", "absorb_lake", "absorb_workers", "create", "open_counts", "replace", "settle"]

EVENT, HISTORY = before_landing(FINDING_EVENT), before_landing(FINDING_HISTORY)


@dataclass(frozen=True)
class Emission:
    """What is to be written: rows without `step` and `ingested_at`.

    `published` says of each row of `history` whether it goes to `custody.findings`: suppressed ones and those
    of experimental rules do not.
    """

    events: pa.Table
    history: pa.Table
    published: pa.BooleanArray


def create(con: duckdb.DuckDBPyConnection, rules: Iterable[Rule]) -> None:
    """Makes the tables where they are missing, and notes the rules of this process."""
    firings.create(con, rules)
    tally.create(con)
    suppressed.create(con)
    revisions.create(con)


def settle(
    con: duckdb.DuckDBPyConnection,
    watermark: int | None,
    at: int,
    final: bool,
    known: Mapping[tuple[str, int], int],
    suppressions: Sequence[Suppression] = (),
) -> Emission:
    """Decides what is due, and puts out every change since the last time.

    Args:
        watermark: µs since the epoch (UTC); None: nothing is decided but what is at once.
        at: wall time, µs since the epoch (UTC).
        final: put out also what would wait for its minute.
        known: next offset read of each reference partition.
        suppressions: all there are; those in force at `at` count.
    """
    con.execute(_DECIDED, {"watermark": watermark})
    suppressed.note(con, suppressions, at)
    if not has_rows(con, "firing_moved") and not has_rows(con, "finding_pending"):
        return Emission(EVENT.empty_table(), HISTORY.empty_table(), pa.array([], pa.bool_()))
    events: pa.Table = con.sql(_EVENTS).to_arrow_table()
    firings.move(con)
    tally.update(con)
    revisions.decide(con, at, final)
    history: pa.Table = con.sql(_HISTORY).to_arrow_table()
    revisions.keep(con)
    con.execute(_WRITTEN_OFF)
    return Emission(
        events.select(EVENT.names).cast(EVENT),
        _with_known(history, known),
        history["published"].combine_chunks(),
    )


_DECIDED = """
CREATE OR REPLACE TEMP TABLE firing_moved AS
SELECT * REPLACE (party_id AS told_party_id, allocation_id AS told_allocation_id), false AS stale
FROM (
  SELECT rowid AS place, *, recorded IS NOT NULL AND (party_id IS DISTINCT FROM told_party_id
      OR allocation_id IS DISTINCT FROM told_allocation_id) AS altered,
    CASE WHEN holds AND (due IS NULL OR due <= make_timestamp($watermark::BIGINT))
      THEN CASE WHEN recorded = 'confirmed' OR at_once OR t <= make_timestamp($watermark::BIGINT)
        THEN 'confirmed' ELSE 'provisional' END END AS target
  FROM firing)
WHERE NOT holds OR altered OR target = 'confirmed' OR target IS DISTINCT FROM counted
  OR target IS DISTINCT FROM recorded
"""

_HEX = "replace(p.finding_id::VARCHAR, '-', '') AS finding_id"

_EVENTS = f"""
SELECT {_HEX}, p.rule_id, {TEXTS}, p.subject, party_id, allocation_id, source, event_id, {AT},
  t AS occurred_at,
  coalesce(target, CASE recorded WHEN 'confirmed' THEN 'superseded' ELSE 'withdrawn' END) AS state
FROM firing_moved p {WITH_TEXTS}
WHERE topic <> '' AND (target IS DISTINCT FROM recorded OR (altered AND target IS NOT NULL))
ORDER BY p.rule_id, p.subject, {AT}
"""

_HISTORY = f"""
SELECT {_HEX}, * EXCLUDE (finding_id, published), split_part(rule_id, '.', 1) AS kind,
  split_part(rule_id, '.', 2) AS link, CASE WHEN revision > 1 THEN revision - 1 END AS supersedes,
  published AND NOT suppressed AS published
FROM finding_written p ORDER BY rule_id, subject
"""

_WRITTEN_OFF = """
DELETE FROM finding_pending WHERE finding_id NOT IN (SELECT finding_id FROM finding_next WHERE waits)
"""


def _with_known(history: pa.Table, known: Mapping[tuple[str, int], int]) -> pa.Table:
    """The rows with what was known of the references, the same in each."""
    places = [
        {"topic": topic, "partition": partition, "offset": offset}
        for (topic, partition), offset in sorted(known.items())
    ]
    every = pa.array([places], HISTORY.field("known").type).take(
        pa.array(np.zeros(history.num_rows, np.int64))
    )
    return history.append_column("known", every).select(HISTORY.names).cast(HISTORY)

"""What the lake says of findings, taken as what was put out so far: after a restart, or by another."""

import duckdb
import pyarrow as pa

from rules.reconciler import firings, revisions, tally
from rules.reconciler.firings import AT, ID, KEY, NAMES, naive


def absorb_lake(con: duckdb.DuckDBPyConnection, events: pa.Table, history: pa.Table) -> None:
    """Takes what the lake says as recorded; `settle` then puts out the differences to it, none if none are.

    The steps that cover what the lake's rows are about come before this. What the engine has not found itself
    does not hold, unless by a rule that it does not judge.

    Args:
        events: rows of finding_event, the latest of each event and finding, without duplicates.
        history: rows of finding_history, the latest of each finding; with `ingested_at`, if known.
    """
    if not events.num_rows and not history.num_rows:
        return
    written = "ingested_at" if "ingested_at" in history.column_names else "NULL::TIMESTAMP"
    con.register("lake_events", naive(events))
    con.register("lake_history", naive(history))
    con.execute(_WRITTEN.format(written=written))
    con.execute(_FIRINGS)
    con.execute(_TEXTS)
    con.unregister("lake_events")
    con.unregister("lake_history")
    firings.recall(con, f"SELECT {AT} FROM firing_lake")
    con.execute(_MOVED)
    firings.move(con)
    con.execute(_TALLIES)
    tally.update(con)
    tally.look_up(con, "SELECT finding_id FROM finding_written")
    revisions.keep(con)
    tally.look_up(con, "SELECT finding_id FROM finding_written")
    revisions.compare(con, 0, final=False)
    con.execute(_SAME)


_WRITTEN = f"""
CREATE OR REPLACE TEMP TABLE finding_written AS
SELECT {ID} AS finding_id, rule_id, subject, rule_sha256, severity, message, revision, state, events,
  first_at, last_at, party_id, allocation_id, detected_at, {{written}} AS written_at,
  coalesce(suppressed, false) AS suppressed, evidence, true AS published
FROM lake_history
"""

_FIRINGS = f"""
CREATE OR REPLACE TEMP TABLE firing_lake AS
SELECT {ID} AS finding_id, rule_id, subject, topic, "partition", "offset", source, event_id, occurred_at AS t,
  party_id, allocation_id, CASE WHEN state IN ('provisional', 'confirmed') THEN state END AS target
FROM lake_events
UNION ALL BY NAME
SELECT finding_id, rule_id, subject, '' AS topic, -1 AS "partition", -1 AS "offset",
  regexp_extract(subject, '^source:(.*)\\|since:', 1, 's') AS source,
  CASE WHEN state IN ('provisional', 'confirmed') THEN state END AS target
FROM finding_written WHERE events = 0
"""
"""A finding without events is one of a source that never spoke: finding_event has no row for it."""

_TEXTS = """
INSERT INTO finding_text
SELECT finding_id, any_value(rule_sha256), any_value(severity), any_value(message) FROM (
  SELECT {ID} AS finding_id, rule_id, rule_sha256, severity, message FROM lake_events
  UNION ALL SELECT finding_id, rule_id, rule_sha256, severity, message FROM finding_written)
ANTI JOIN finding_rule USING (rule_id) ANTI JOIN finding_text USING (finding_id)
GROUP BY finding_id
""".replace("{ID}", ID)

_OURS = ", ".join(
    f"CASE WHEN f.place IS NULL THEN l.{name} ELSE f.{name} END AS {name}" for name in NAMES.split(", ")
)

_MOVED = f"""
CREATE OR REPLACE TEMP TABLE firing_moved AS
SELECT *,
  party_id IS DISTINCT FROM told_party_id OR allocation_id IS DISTINCT FROM told_allocation_id AS stale
FROM (
  SELECT f.place, {_OURS},
    f.due, coalesce(f.at_once, false) AS at_once, coalesce(f.holds, r.judged IS NULL) AS holds,
    f.recorded, f.counted, l.target, l.party_id AS told_party_id, l.allocation_id AS told_allocation_id,
    f.told_party_id IS DISTINCT FROM l.party_id
      OR f.told_allocation_id IS DISTINCT FROM l.allocation_id AS altered
  FROM firing_lake l
  LEFT JOIN (SELECT rowid AS place, * FROM firing) f USING ({KEY})
  LEFT JOIN finding_rule r ON r.rule_id = l.rule_id
  WHERE f.place IS NOT NULL OR l.target IS NOT NULL)
"""

_TALLIES = """
INSERT INTO finding_pending BY NAME
SELECT w.finding_id, w.rule_id, w.subject, f.state = 'confirmed' AS confirmed,
  coalesce(f.events, 0) AS events, f.first_at, f.last_at, f.party_id, f.allocation_id,
  coalesce(f.evidence, []) AS evidence
FROM finding_written w
LEFT JOIN (FROM finding WHERE state IN ('provisional', 'confirmed')) f USING (finding_id)
ANTI JOIN finding_pending p ON p.finding_id = w.finding_id
"""
"""What counted so far, as the row said that another takes the place of: that row is the lake's word, and may
count what the engine has not counted yet."""

_SAME = """
DELETE FROM finding_pending WHERE finding_id NOT IN (
  SELECT finding_id FROM finding_next WHERE written OR waits)
"""

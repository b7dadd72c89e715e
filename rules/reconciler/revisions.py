"""Revisions: when what is known of a finding becomes its next row of finding_history.

At once when it opens or its state changes; where only its events have changed, once a minute. The row that
ends a finding says what the row before it said: it tells what holds no longer.
"""

import duckdb

from rules.reconciler import suppressed, tally

QUIET_SECONDS = 60

TEXTS = """coalesce(r.rule_sha256, x.rule_sha256) AS rule_sha256,
  coalesce(r.severity, x.severity) AS severity,
  coalesce(replace(r.template, '{subject}', p.subject), x.message) AS message"""
"""Texts of a row `p` with `rule_id` and `subject`, from `WITH_TEXTS` after it."""

WITH_TEXTS = """LEFT JOIN finding_rule r ON r.rule_id = p.rule_id
  LEFT JOIN finding_text x ON x.finding_id = p.finding_id"""


def decide(con: duckdb.DuckDBPyConnection, at: int, final: bool) -> None:
    """Makes `finding_written`: the next rows of `finding`, and whether each is `published`.

    Reads `finding_then`. `at`: wall time, µs; `final`: nothing waits for its minute.
    """
    compare(con, at, final)
    con.execute(_WRITTEN, {"at": at})


def compare(con: duckdb.DuckDBPyConnection, at: int, final: bool) -> None:
    """Makes `finding_next`: each tally beside the row it follows, and whether it is `written` now or `waits`;
    it does neither where the row says the same."""
    con.execute(_NEXT, {"at": at, "final": final, "quiet": QUIET_SECONDS})


def keep(con: duckdb.DuckDBPyConnection) -> None:
    """`finding_written` becomes the latest rows of its findings; `finding_then` has those they replace."""
    for statement in (_COUNT, "DELETE FROM finding_open", _COUNTED, _REPLACED, _LATEST):
        con.execute(statement)


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the table where it is missing: open findings that are not suppressed, by rule and severity."""
    con.execute(
        "CREATE TABLE IF NOT EXISTS finding_open (rule_id VARCHAR, severity VARCHAR, findings BIGINT)"
    )


def open_counts(con: duckdb.DuckDBPyConnection) -> list[tuple[str, str, int]]:
    """(rule id, severity, findings provisional or confirmed and not suppressed); 0 where all have ended."""
    return con.execute("FROM finding_open ORDER BY ALL").fetchall()


_NEXT = f"""
CREATE OR REPLACE TEMP TABLE finding_next AS
SELECT *, coalesce(differs AND NOT written, false) AS waits FROM (
  SELECT *, state IS NOT NULL AND (
    state IS DISTINCT FROM before OR (open AND suppressed <> suppressed_before)
    OR (differs AND ($final OR written_at IS NULL
      OR written_at <= make_timestamp($at::BIGINT) - to_seconds($quiet)))) AS written
  FROM (
    SELECT p.*, f.place, f.state AS before, f.written_at, f.suppressed AS suppressed_before,
      p.confirmed IS NOT NULL AS open, p.confirmed IS NOT NULL AND NOT ({tally.SAME}) AS differs,
      {suppressed.MATCHES} AS suppressed,
      CASE WHEN p.confirmed THEN 'confirmed' WHEN NOT p.confirmed THEN 'provisional'
        WHEN f.state = 'provisional' THEN 'withdrawn' WHEN f.state = 'confirmed' THEN 'superseded'
        ELSE f.state END AS state
    FROM finding_pending p LEFT JOIN finding_then f USING (finding_id)))
"""

_WRITTEN = f"""
CREATE OR REPLACE TEMP TABLE finding_written AS
SELECT p.finding_id, p.rule_id, p.subject, {TEXTS}, coalesce(f.revision, 0) + 1 AS revision, p.state,
  {", ".join(f"CASE WHEN p.open THEN p.{name} ELSE f.{name} END AS {name}" for name in tally.SAID)},
  coalesce(f.detected_at, make_timestamp($at::BIGINT)) AS detected_at,
  make_timestamp($at::BIGINT) AS written_at, p.suppressed, coalesce(r.published, true) AS published
FROM finding_next p LEFT JOIN finding_then f USING (finding_id) {WITH_TEXTS}
WHERE p.written
"""

_OPEN = "state IN ('provisional', 'confirmed') AND NOT suppressed"

_COUNT = f"""
CREATE OR REPLACE TEMP TABLE finding_open_now AS
SELECT rule_id, severity, sum(findings)::BIGINT AS findings FROM (
  FROM finding_open
  UNION ALL SELECT rule_id, severity, 1 FROM finding_written WHERE {_OPEN}
  UNION ALL SELECT rule_id, severity, -1 FROM finding_then SEMI JOIN finding_written USING (finding_id)
    WHERE {_OPEN})
GROUP BY ALL
"""

_COUNTED = "INSERT INTO finding_open FROM finding_open_now"

_REPLACED = """
DELETE FROM finding WHERE rowid IN (
  SELECT place FROM finding_then SEMI JOIN finding_written USING (finding_id))
"""

_LATEST = "INSERT INTO finding BY NAME SELECT * EXCLUDE (published) FROM finding_written"

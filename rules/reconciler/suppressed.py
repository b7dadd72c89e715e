"""Which findings are suppressed now: the suppressions in force, and what follows when they change."""

from collections.abc import Sequence

import duckdb

from rules.suppressions import Suppression, in_force

MATCHES = """EXISTS (SELECT 1 FROM finding_suppression s WHERE s.rule_id = p.rule_id
  AND (p.subject = s.subject OR (s.beginning AND starts_with(p.subject, s.subject))))"""
"""Whether the finding `p` (any row with `rule_id` and `subject`) is suppressed."""

_CHANGED = f"""
INSERT INTO finding_pending BY NAME
SELECT finding_id, rule_id, subject, state = 'confirmed' AS confirmed, events, first_at, last_at, party_id,
  allocation_id, evidence
FROM finding p ANTI JOIN finding_pending USING (finding_id)
WHERE state IN ('provisional', 'confirmed') AND suppressed <> {MATCHES}
"""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the table where it is missing. `beginning`: the subject is only the beginning of one."""
    con.execute(
        "CREATE TABLE IF NOT EXISTS finding_suppression (rule_id VARCHAR, subject VARCHAR, beginning BOOLEAN)"
    )


def note(con: duckdb.DuckDBPyConnection, suppressions: Sequence[Suppression], at: int) -> None:
    """Keeps the suppressions in force at wall time `at` (µs). Only where they are others than before are the
    open findings looked through: those that begin or cease to be suppressed get a tally, so that it is
    written."""
    now = in_force(suppressions, at)
    if now == con.execute("FROM finding_suppression ORDER BY ALL").fetchall():
        return
    con.execute("DELETE FROM finding_suppression")
    if now:
        con.executemany("INSERT INTO finding_suppression VALUES (?, ?, ?)", now)
    con.execute(_CHANGED)

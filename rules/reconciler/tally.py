"""Tallies: what the firings that count add up to, finding by finding.

`finding` has the latest row of finding_history of every finding ever recorded. `finding_pending` has the
tally of each finding for which that row does not say the same, because it is not written yet or waits for its
minute; where a finding has no tally there, its row, if it is open, is the tally.

A tally grows by what is added; only where a firing ceased or changed are the finding's firings read again.
"""

import duckdb

from rules.reconciler.state import has_rows

EVIDENCE = 100  # events a row names; all are in finding_event

_TALLY = """
  finding_id UUID, rule_id VARCHAR, subject VARCHAR, confirmed BOOLEAN, events BIGINT, first_at TIMESTAMP,
  last_at TIMESTAMP, party_id VARCHAR, allocation_id VARCHAR,
  evidence STRUCT(topic VARCHAR, "partition" INTEGER, "offset" BIGINT, event_id VARCHAR)[]"""

_TABLES = f"""
CREATE TABLE IF NOT EXISTS finding (
  finding_id UUID, rule_id VARCHAR, subject VARCHAR, rule_sha256 VARCHAR, severity VARCHAR, message VARCHAR,
  revision BIGINT, state VARCHAR, events BIGINT, first_at TIMESTAMP, last_at TIMESTAMP, party_id VARCHAR,
  allocation_id VARCHAR, detected_at TIMESTAMP, written_at TIMESTAMP, suppressed BOOLEAN,
  evidence STRUCT(topic VARCHAR, "partition" INTEGER, "offset" BIGINT, event_id VARCHAR)[]);
CREATE TABLE IF NOT EXISTS finding_pending ({_TALLY});
"""

SAID = ("events", "first_at", "last_at", "party_id", "allocation_id", "evidence")
"""What a tally and a row both have, apart from the state."""

SAME = " AND ".join(f"p.{name} IS NOT DISTINCT FROM f.{name}" for name in SAID)
"""Whether a tally `p` has what the row `f` says, apart from the state."""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    con.execute(_TABLES)


def look_up(con: duckdb.DuckDBPyConnection, findings: str) -> None:
    """Makes `finding_then`: the rows of the findings that have a tally or that the query `findings` names.

    `place` is the row's number. Numbers are looked up first, so that of the findings of all time only a
    narrow column is read.
    """
    con.execute(
        "CREATE OR REPLACE TEMP TABLE finding_place AS SELECT rowid AS place FROM finding SEMI JOIN "
        f"({findings} UNION SELECT finding_id FROM finding_pending) USING (finding_id)"
    )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE finding_then AS SELECT rowid AS place, * FROM finding "
        "WHERE rowid IN (SELECT place FROM finding_place)"
    )


def update(con: duckdb.DuckDBPyConnection) -> None:
    """Brings the tallies up to what has moved.

    Reads `firing_moved`: firings with the state they are now counted in (`target`) beside the one they were
    counted in, and `altered` where what is told of them has changed; `firing` and `firing_confirmed` hold
    them as they are now. Leaves `finding_then`.
    """
    con.execute(_TOUCHED)
    look_up(con, "SELECT finding_id FROM finding_touched")
    if not has_rows(con, "finding_touched"):
        return
    con.execute(_ADDED)
    if has_rows(con, "finding_touched WHERE shrunk"):
        con.execute(_ALL)
    con.execute(_NOW)
    con.execute("DELETE FROM finding_pending WHERE finding_id IN (SELECT finding_id FROM finding_touched)")
    con.execute("INSERT INTO finding_pending BY NAME FROM finding_now")


_TOUCHED = """
CREATE OR REPLACE TEMP TABLE finding_touched AS
SELECT finding_id, any_value(rule_id) AS rule_id, any_value(subject) AS subject,
  bool_or(counted IS NOT NULL AND (target IS NULL OR altered)) AS shrunk
FROM firing_moved WHERE target IS DISTINCT FROM counted OR (altered AND counted IS NOT NULL)
GROUP BY finding_id
"""

_ADDED = """
CREATE OR REPLACE TEMP TABLE firing_tallied AS
SELECT finding_id, target = 'confirmed' AS confirmed, counted IS NULL AND topic <> '' AS fresh,
  t, told_party_id AS party_id, told_allocation_id AS allocation_id, topic, "partition", "offset", event_id
FROM firing_moved SEMI JOIN (FROM finding_touched WHERE NOT shrunk) USING (finding_id)
WHERE target IS NOT NULL AND target IS DISTINCT FROM counted
"""

_ALL = """
INSERT INTO firing_tallied
SELECT finding_id, confirmed, topic <> '', t, party_id, allocation_id, topic, "partition", "offset", event_id
FROM (
  SELECT *, true AS confirmed FROM firing_confirmed
  UNION ALL BY NAME
  SELECT * EXCLUDE (party_id, allocation_id, due, at_once, holds, recorded, counted)
    RENAME (told_party_id AS party_id, told_allocation_id AS allocation_id),
    counted = 'confirmed' AS confirmed
  FROM firing WHERE counted IS NOT NULL)
SEMI JOIN (FROM finding_touched WHERE shrunk) USING (finding_id)
"""


def _agreed(name: str, which: str) -> str:
    """The value that all rows which count have, else null."""
    return (
        f"CASE WHEN count({name}) FILTER ({which}) = count(*) FILTER ({which}) "
        f"AND min({name}) FILTER ({which}) = max({name}) FILTER ({which}) "
        f"THEN min({name}) FILTER ({which}) END AS {name}"
    )


_EVENT = '{topic: topic, "partition": "partition", "offset": "offset", event_id: event_id}'

_NOW = f"""
CREATE OR REPLACE TEMP TABLE finding_now AS
WITH added AS (
  SELECT finding_id, bool_or(confirmed) AS confirmed, count(*) FILTER (fresh) AS events,
    min(t) FILTER (fresh) AS first_at, max(t) FILTER (fresh) AS last_at,
    {_agreed("party_id", "fresh")}, {_agreed("allocation_id", "fresh")},
    coalesce(min({_EVENT}, {EVIDENCE}) FILTER (fresh), []) AS evidence
  FROM firing_tallied GROUP BY finding_id
), base AS (
  SELECT * FROM finding_pending SEMI JOIN (FROM finding_touched WHERE NOT shrunk) USING (finding_id)
  UNION ALL BY NAME
  SELECT finding_id, state = 'confirmed' AS confirmed, events, first_at, last_at, party_id, allocation_id,
    evidence
  FROM finding_then SEMI JOIN (FROM finding_touched WHERE NOT shrunk) USING (finding_id)
    ANTI JOIN finding_pending USING (finding_id)
  WHERE state IN ('provisional', 'confirmed')
), part AS (
  SELECT * EXCLUDE (rule_id, subject) FROM base UNION ALL BY NAME FROM added
)
SELECT t.finding_id, any_value(t.rule_id) AS rule_id, any_value(t.subject) AS subject,
  bool_or(confirmed) AS confirmed, coalesce(sum(events), 0)::BIGINT AS events,
  min(first_at) AS first_at, max(last_at) AS last_at,
  {_agreed("party_id", "events > 0")}, {_agreed("allocation_id", "events > 0")},
  list_sort(coalesce(flatten(list(evidence) FILTER (events > 0)), []))[:{EVIDENCE}] AS evidence
FROM finding_touched t LEFT JOIN part USING (finding_id)
GROUP BY t.finding_id
"""

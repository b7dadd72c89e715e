"""Firings: which rule fires on which event, whether it still does, and what the lake says of it.

A *firing* is one rule, one subject and one event (contract section 4); all firings of a rule with one subject
are one finding. `holds` says that the rule fires as far as is known now; a firing with a later `due` is
*undecided* and no part of its finding before the watermark reaches it. `recorded` is the state that
finding_event last gave it (null: none that counts), `counted` the state in which the finding's tally has it.

What may still change when the watermark moves is in `firing`, what is confirmed in `firing_confirmed`: the
first stays small, the second grows for ever. What a step touches is brought back from the second (`recall`).

When a firing is due depends on its rule and event alone. One without an event (a source that never spoke) has
the empty topic and offset -1.
"""

from collections.abc import Iterable

import duckdb
import pyarrow as pa

from rules.public_views import CONFLICT, HOLE, REJECTED, SILENT
from rules.reconciler.state import has_rows
from rules.rule import Kind, Rule, Status

KEY = 'finding_id, topic, "partition", "offset"'
AT = 'topic, "partition", "offset"'
ID = "sha256(rule_id || chr(10) || subject)[:32]::UUID"
"""`rules.pipeline.finding_id` over columns `rule_id` and `subject`; kept as 16 bytes."""

NAMES = (
    'finding_id, rule_id, subject, topic, "partition", "offset", source, event_id, t, party_id, allocation_id'
)

_COLUMNS = """
  finding_id UUID, rule_id VARCHAR, subject VARCHAR, topic VARCHAR, "partition" INTEGER, "offset" BIGINT,
  source VARCHAR, event_id VARCHAR, t TIMESTAMP, party_id VARCHAR, allocation_id VARCHAR"""

_TABLES = f"""
CREATE TABLE IF NOT EXISTS firing ({_COLUMNS}, due TIMESTAMP, at_once BOOLEAN, holds BOOLEAN,
  recorded VARCHAR, counted VARCHAR, told_party_id VARCHAR, told_allocation_id VARCHAR);
CREATE TABLE IF NOT EXISTS firing_confirmed ({_COLUMNS});
CREATE TABLE IF NOT EXISTS finding_rule (rule_id VARCHAR, rule_sha256 VARCHAR, severity VARCHAR,
  template VARCHAR, published BOOLEAN, judged VARCHAR);
CREATE TABLE IF NOT EXISTS finding_text (finding_id UUID, rule_sha256 VARCHAR, severity VARCHAR,
  message VARCHAR);
CREATE TEMP TABLE IF NOT EXISTS firing_subject (finding_id UUID);
"""
"""`told_…`: party and allocation as they were recorded and counted. `finding_rule` has the rules, and by what
they are judged (null: not any more); `finding_text` what others said of findings of other rules."""


def create(con: duckdb.DuckDBPyConnection, rules: Iterable[Rule]) -> None:
    """Makes the tables where they are missing, and notes the rules of this process.

    Firings of a rule that is not judged any more stay if they are recorded; an undecided one is dropped.
    """
    con.execute(_TABLES)
    rows = [
        (
            rule.id,
            rule.sha256,
            str(rule.severity),
            rule.render("{subject}"),
            rule.status is not Status.EXPERIMENTAL,
            _judged(rule),
        )
        for rule in rules
    ]
    con.execute("UPDATE finding_rule SET judged = NULL")
    if rows:
        con.executemany("DELETE FROM finding_rule WHERE rule_id = ?", [row[:1] for row in rows])
        con.executemany("INSERT INTO finding_rule VALUES (?, ?, ?, ?, ?, ?)", rows)
    con.execute(
        "DELETE FROM firing WHERE recorded IS NULL AND counted IS NULL "
        "AND rule_id NOT IN (SELECT rule_id FROM finding_rule WHERE judged IS NOT NULL)"
    )


def _judged(rule: Rule) -> str | None:
    """What says that a rule was judged again: its event's `row` or `chain`, its `subject`, its event `id`.

    `never`: nothing takes a rejection back. None: nobody judges it, and what it found goes on holding.
    """
    if rule.status is Status.DEPRECATED:
        return None
    if rule.id == REJECTED:
        return "never"
    if rule.kind is Kind.ROW:
        return "row"
    return {SILENT: "subject", HOLE: "subject", CONFLICT: "id"}.get(rule.id, "chain")


def absorb_workers(con: duckdb.DuckDBPyConnection, firings: pa.Table, duplicates: pa.Table) -> None:
    """Takes what workers wrote at landing: it is recorded as provisional, and holds until it is judged again.

    Args:
        con: the state.
        firings: FINDING_EVENT rows of the step's commits.
        duplicates: the step's DUPLICATE rows, whose firings are left out.
    """
    if not firings.num_rows:
        return
    con.register("worker_rows", naive(firings.select(_WORKER_COLUMNS)))
    con.register("worker_duplicate", duplicates)
    con.execute(_WORKER)
    con.unregister("worker_rows")
    con.unregister("worker_duplicate")
    recall(con, f"SELECT {AT} FROM firing_worker")
    con.execute(_WORKER_KNOWN)
    con.execute(_WORKER_NEW)
    con.execute(_WORKER_TEXTS)


_WORKER_COLUMNS = [
    *("rule_id", "rule_sha256", "severity", "subject", "message", "party_id", "allocation_id"),
    *("source", "event_id", "topic", "partition", "offset", "occurred_at"),
]

_WORKER = f"""
CREATE OR REPLACE TEMP TABLE firing_worker AS
SELECT {ID} AS finding_id, w.*, w.occurred_at AS t FROM worker_rows w ANTI JOIN worker_duplicate USING ({AT})
QUALIFY row_number() OVER (PARTITION BY {KEY}) = 1
"""

_WORKER_KNOWN = """
UPDATE firing SET recorded = 'provisional', told_party_id = w.party_id, told_allocation_id = w.allocation_id
FROM firing_worker w
WHERE firing.recorded IS NULL AND firing.finding_id = w.finding_id AND firing.topic = w.topic
  AND firing."partition" = w."partition" AND firing."offset" = w."offset"
"""

_WORKER_NEW = f"""
INSERT INTO firing BY NAME
SELECT {NAMES}, false AS at_once, true AS holds, 'provisional' AS recorded,
  party_id AS told_party_id, allocation_id AS told_allocation_id
FROM firing_worker ANTI JOIN firing USING ({KEY})
"""

_WORKER_TEXTS = """
INSERT INTO finding_text
SELECT finding_id, any_value(rule_sha256), any_value(severity), any_value(message)
FROM firing_worker ANTI JOIN finding_rule USING (rule_id) ANTI JOIN finding_text USING (finding_id)
GROUP BY finding_id
"""


def replace(con: duckdb.DuckDBPyConnection) -> None:
    """Replaces the firings of what was judged in this step by those found: `desired`.

    Reads `desired`, what was judged (`judged_row`, `judged_chain`, `judged_subject`, `judged_id`), the
    parties that events are judged with (`judged_party`: those of the scope whose firings may be there), and
    `gone_event`: accepted events that turned out to be duplicates, whose firings end without a row in
    finding_event.
    """
    con.execute(_DESIRED)
    con.execute("DELETE FROM firing_subject")
    if has_rows(con, "judged_subject") or has_rows(con, "judged_id"):
        con.execute(_SUBJECTS)
    by_subject = has_rows(con, "firing_subject")
    recall(con, _TOUCHED, "SELECT finding_id FROM firing_subject" if by_subject else None)
    if has_rows(con, "gone_event"):
        con.execute(_FORGET)
        con.execute(_GONE)
    if has_rows(con, "firing"):
        for judged in ("row", "chain"):
            if has_rows(con, f"judged_{judged}"):
                con.execute(_CEASE.format(judged=judged))
        if has_rows(con, "judged_subject"):
            con.execute(_CEASE_SUBJECTS)
        if has_rows(con, "judged_id"):
            con.execute(_CEASE_IDS)
        con.execute(_RENEW)
        if has_rows(con, "judged_party"):
            con.execute(_PARTIES)
    con.execute(_ADD)


_DESIRED = f"""
CREATE OR REPLACE TEMP TABLE firing_desired AS
SELECT {ID} AS finding_id, rule_id, subject, coalesce(topic, '') AS topic,
  coalesce("partition", -1) AS "partition", coalesce("offset", -1) AS "offset",
  any_value(source) AS source, any_value(event_id) AS event_id, any_value(t) AS t,
  max(party_id) AS party_id, max(allocation_id) AS allocation_id,
  CASE WHEN count(due) = count(*) THEN min(due) END AS due, coalesce(bool_or(confirmed), false) AS at_once
FROM desired GROUP BY ALL
"""

_SUBJECTS = f"""
INSERT INTO firing_subject
SELECT {ID} AS finding_id FROM (
  SELECT rule_id, subject FROM judged_subject SEMI JOIN
    (FROM finding_rule WHERE judged = 'subject') USING (rule_id)
  UNION
  SELECT rule_id, 'source:' || source || '|event:' || event_id AS subject
  FROM judged_id CROSS JOIN (SELECT rule_id FROM finding_rule WHERE judged = 'id'))
"""

_TOUCHED = f"""
SELECT {AT} FROM judged_row UNION SELECT {AT} FROM judged_chain UNION SELECT {AT} FROM older_event
UNION SELECT {AT} FROM gone_event UNION SELECT {AT} FROM firing_desired
"""

_FORGET = f"DELETE FROM firing WHERE counted IS NULL AND ({AT}) IN (SELECT ({AT}) FROM gone_event)"

_GONE = f"""
UPDATE firing SET holds = false, recorded = NULL WHERE ({AT}) IN (SELECT ({AT}) FROM gone_event)
"""

_CEASE = f"""
UPDATE firing SET holds = false
WHERE holds AND rowid IN (
  SELECT f.rowid FROM firing f SEMI JOIN judged_{{judged}} USING ({AT})
    SEMI JOIN (FROM finding_rule WHERE judged = '{{judged}}') USING (rule_id))
"""

_CEASE_SUBJECTS = f"""
UPDATE firing SET holds = false WHERE holds AND finding_id IN (
  SELECT {ID} FROM judged_subject SEMI JOIN (FROM finding_rule WHERE judged = 'subject') USING (rule_id))
"""

_CEASE_IDS = """
UPDATE firing SET holds = false
WHERE holds AND rowid IN (
  SELECT f.rowid FROM firing f SEMI JOIN judged_id USING (source, event_id)
    SEMI JOIN (FROM finding_rule WHERE judged = 'id') USING (rule_id))
"""
"""By the ids of the events: nothing is escaped in a subject, so that several ids can have one."""

_RENEW = """
UPDATE firing SET holds = true, due = d.due, at_once = d.at_once, source = d.source, event_id = d.event_id,
  party_id = d.party_id, allocation_id = d.allocation_id
FROM firing_desired d
WHERE firing.finding_id = d.finding_id AND firing.topic = d.topic AND firing."partition" = d."partition"
  AND firing."offset" = d."offset"
"""

_ADD = f"""
INSERT INTO firing BY NAME
SELECT {NAMES}, due, at_once, true AS holds
FROM firing_desired ANTI JOIN firing USING ({KEY})
"""

_PARTIES = f"""
UPDATE firing f SET party_id = p.party_id, allocation_id = p.allocation_id FROM judged_party p
WHERE f.topic = p.topic AND f."partition" = p."partition" AND f."offset" = p."offset"
  AND f.rule_id NOT IN ('{SILENT}', '{HOLE}')
  AND (f.party_id IS DISTINCT FROM p.party_id OR f.allocation_id IS DISTINCT FROM p.allocation_id)
"""


def recall(con: duckdb.DuckDBPyConnection, places: str, findings: str | None = None) -> None:
    """Brings confirmed firings back into `firing`: those at the places, and those of the findings.

    `places` is a query for coordinates, `findings` one for finding ids. Row numbers are looked up first:
    then only the row groups that hold them are read in full.
    """
    if not has_rows(con, "firing_confirmed"):
        return
    select = "SELECT c.rowid AS place FROM firing_confirmed c SEMI JOIN"
    found = f"{select} ({places}) USING ({AT})"
    if findings is not None:
        found += f" UNION {select} ({findings}) USING (finding_id)"
    con.execute(f"CREATE OR REPLACE TEMP TABLE firing_recalled AS {found}")
    con.execute(_RECALL)
    con.execute("DELETE FROM firing_confirmed WHERE rowid IN (SELECT place FROM firing_recalled)")


_RECALL = f"""
INSERT INTO firing BY NAME
SELECT {NAMES}, false AS at_once, true AS holds, 'confirmed' AS recorded,
  'confirmed' AS counted, party_id AS told_party_id, allocation_id AS told_allocation_id
FROM firing_confirmed WHERE rowid IN (SELECT place FROM firing_recalled)
"""


def move(con: duckdb.DuckDBPyConnection) -> None:
    """Puts the firings of `firing_moved` where they belong by now: recorded and counted as `target`.

    Its `place` is the row number in `firing` (null: not there yet); `told_…` is told by now, `stale` where
    that is not what is known. What neither holds nor counts is dropped.
    """
    con.execute("DELETE FROM firing WHERE rowid IN (SELECT place FROM firing_moved)")
    con.execute(f"INSERT INTO firing_confirmed BY NAME SELECT {NAMES} FROM firing_moved WHERE {_FINAL}")
    con.execute(_STILL_MOVING)


_FINAL = "coalesce(target = 'confirmed' AND holds AND NOT stale, false)"

_STILL_MOVING = f"""
INSERT INTO firing BY NAME
SELECT {NAMES}, due, at_once, holds, target AS recorded, target AS counted,
  told_party_id, told_allocation_id
FROM firing_moved WHERE (holds OR target IS NOT NULL) AND NOT {_FINAL}
"""


def naive(table: pa.Table) -> pa.Table:
    """The table with its zoned times as naive UTC; no value is touched."""
    fields = [
        field.with_type(pa.timestamp("us")) if pa.types.is_timestamp(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields))

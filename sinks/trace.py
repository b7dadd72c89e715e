"""The custody timeline of one thing: every event that is about it, with its four links and its findings.

Values are bound, never put into SQL text. Nothing of the onboarding papers but ids and versions is read.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from schemas.errors import SekishoError, UsageError

Row = dict[str, Any]


@dataclass(frozen=True)
class _Kind:
    """How a kind of thing is known, and which events belong to it.

    `own` picks events for themselves, `around` those of the allocations that they touch, or only those of
    them that `touching` picks. An allocation is touched from its `allocated` event to the next of its id.
    """

    known: str
    own: str
    around: str
    touching: str = "true"


_KINDS = {
    "serial": _Kind(
        known="""
            SELECT 1 FROM asset WHERE serial = $id
            UNION ALL SELECT 1 FROM allocation WHERE list_contains(serials, $id)
            UNION ALL SELECT 1 FROM placement WHERE list_contains(serials, $id)""",
        own="list_contains(serials, $id)",
        around="stream <> 'placement' OR len(coalesce(serials, [])) = 0",
    ),
    "party": _Kind(
        known="""
            SELECT 1 FROM party WHERE party_id = $id
            UNION ALL SELECT 1 FROM allocation WHERE $id IN (party_id, party_id_sent)
            UNION ALL SELECT 1 FROM access WHERE $id IN (party_id, party_id_sent)
            UNION ALL SELECT 1 FROM placement WHERE $id IN (party_id, party_id_sent)""",
        own="""
            $id IN (party_id, party_id_sent) OR (topic, "partition", "offset") IN
            (SELECT (topic, "partition", "offset") FROM through WHERE party_id = $id)""",
        around="true",
        touching="action = 'allocated'",
    ),
    "allocation": _Kind(
        known="""
            SELECT 1 FROM allocation WHERE allocation_id = $id
            UNION ALL SELECT 1 FROM access WHERE allocation_id = $id
            UNION ALL SELECT 1 FROM placement WHERE allocation_id = $id""",
        own="allocation_id = $id",
        around="true",
    ),
    "workload": _Kind(
        known="SELECT 1 FROM placement WHERE workload_id = $id",
        own="workload_id = $id",
        around="stream <> 'placement'",
    ),
    "session": _Kind(
        known="SELECT 1 FROM access WHERE session_id = $id",
        own="session_id = $id",
        around="stream <> 'access'",
    ),
    "finding": _Kind(
        known="SELECT 1 FROM finding WHERE finding_id = $id",
        own="""
            (topic, "partition", "offset") IN
            (SELECT (topic, "partition", "offset") FROM finding_event WHERE finding_id = $id)""",
        around="stream <> 'access'",
    ),
}
KINDS = tuple(_KINDS)
"""What can be traced, by name."""

_EVENT = """
CREATE OR REPLACE TEMP VIEW event AS
SELECT 'allocation' AS stream, * RENAME (occurred_at AS "at") FROM allocation
UNION ALL BY NAME SELECT 'access' AS stream, * RENAME (occurred_at AS "at") FROM access
UNION ALL BY NAME SELECT 'placement' AS stream, * RENAME (occurred_at AS "at") FROM placement
"""

_OWN = """
CREATE OR REPLACE TEMP TABLE own AS
SELECT topic, "partition", "offset", allocation_id, ({touching}) AS touching FROM event WHERE {own}
"""

# What comes before the first `allocated` event of an id is taken for part of what that one began.
_TRACED = """
CREATE OR REPLACE TEMP TABLE traced AS
WITH near AS (
    FROM event SEMI JOIN own USING (allocation_id)
    UNION ALL
    FROM (FROM event WHERE allocation_id IS NULL) SEMI JOIN own USING (topic, "partition", "offset")),
  turned AS (
    SELECT near.*, own.topic IS NOT NULL AS is_own, own.touching,
      greatest(1, count(*) FILTER (WHERE stream = 'allocation' AND action = 'allocated')
        OVER (PARTITION BY allocation_id ORDER BY "at")) AS turn
    FROM near LEFT JOIN (SELECT * EXCLUDE (allocation_id) FROM own) own USING (topic, "partition", "offset")),
  picked AS (
    SELECT *, is_own OR (({around}) AND bool_or(touching) OVER (PARTITION BY allocation_id, turn)) AS picked
    FROM turned)
SELECT {columns} FROM picked
QUALIFY picked OR (stream = 'allocation' AND bool_or(picked) OVER (PARTITION BY allocation_id, turn))
"""

_MADE_BY_ITS_PRINCIPALS = """
SELECT * FROM event WHERE allocation_id IN (
  SELECT allocation_id FROM allocation SEMI JOIN (FROM principal WHERE party_id = $id) USING (principal)
  WHERE action = 'allocated')
"""

# Contract section 3.2: who an event that names nobody is of, by its allocation, with what was in force then.
_THROUGH = """
CREATE OR REPLACE TEMP TABLE through AS
WITH event AS ({events}),
  pointing AS (
    SELECT e.topic, e."partition", e."offset", e."at", a.party_id_sent, a.principal
    FROM event e JOIN event a ON a.allocation_id = e.allocation_id AND a."at" <= e."at"
    WHERE e.party_id_sent IS NULL AND e.principal IS NULL AND e.action <> 'allocated'
      AND a.stream = 'allocation' AND a.action = 'allocated'
    QUALIFY row_number() OVER (
      PARTITION BY e.topic, e."partition", e."offset"
      ORDER BY a."at" DESC, a.source DESC, a.event_id DESC, a."partition" DESC, a."offset" DESC) = 1),
  binding AS (
    SELECT e.* EXCLUDE (party_id_sent), b.party_id, b.principal = e.principal AS is_of_it
    FROM (FROM pointing WHERE party_id_sent IS NULL) e
    JOIN (SELECT DISTINCT principal, binding_id FROM principal) named USING (principal)
    JOIN principal b ON b.binding_id = named.binding_id AND b.version IS NOT NULL
      AND b.valid_from <= e."at" AND e."at" < coalesce(least(b.valid_to, b.ended_at), 'infinity')
    QUALIFY row_number() OVER (
      PARTITION BY e.topic, e."partition", e."offset", b.binding_id
      ORDER BY b.version DESC, b."partition", b."offset") = 1),
  named AS (
    SELECT topic, "partition", "offset", "at", party_id FROM binding WHERE is_of_it
    UNION
    SELECT topic, "partition", "offset", "at", party_id_sent FROM pointing WHERE party_id_sent IS NOT NULL)
SELECT topic, "partition", "offset", min(party_id) AS party_id
FROM named SEMI JOIN party p ON p.party_id = named.party_id AND p.version IS NOT NULL
  AND p.valid_from <= named."at" AND named."at" < coalesce(least(p.valid_to, p.ended_at), 'infinity')
GROUP BY ALL HAVING count(*) = 1
"""

_COLUMNS = """
stream, "at", action, source, event_id, topic, "partition", "offset", allocation_id,
workload_id, party_id, party_version, party_id_sent, principal, model, accelerators, serials,
requested_by, approved_by,
method, session_id, source_ip, source_country, mfa, operation, bytes_out, broker_id,
site_id, site_version, node, from_site_id, reason, reverification_id, authorization_id, authorization_version,
future"""

_REJECTED = """
SELECT 'rejected' AS stream, broker_time AS "at", reason, topic, "partition", "offset"
FROM dead_letter SEMI JOIN (FROM finding_event WHERE finding_id = $id) USING (topic, "partition", "offset")
"""

_ASSET = """
SELECT valid_from AS "at", version, model, lot_id, supplier_party_id, received_at, site_id, status,
  least(valid_to, ended_at) AS until
FROM asset WHERE serial = $id AND version IS NOT NULL ORDER BY valid_from, version
"""

_FOUND = """
SELECT f.finding_id, f.rule_id, f.state, f.topic, f."partition", f."offset"
FROM finding_event f SEMI JOIN (
  SELECT topic, "partition", "offset" FROM traced
  UNION ALL SELECT topic, "partition", "offset" FROM finding_event WHERE finding_id = $id
) USING (topic, "partition", "offset")
ORDER BY f.rule_id, f.finding_id
"""

_FINDINGS = """
SELECT finding_id, rule_id, severity, state, subject, first_at, last_at, events, message
FROM finding WHERE list_contains($ids, finding_id) ORDER BY first_at NULLS FIRST, rule_id, subject
"""

_COVERAGE = """
SELECT from_at, to_at, accelerators, model, party_id, site_id, who, how, "where", under_what, reasons
FROM coverage WHERE allocation_id = $id ORDER BY from_at
"""

_STATES = """
SELECT revision, state, supersedes, events, detected_at, message
FROM finding_history WHERE finding_id = $id ORDER BY revision, detected_at
"""

_TRIAGE = 'SELECT "at", state, actor, reason FROM triage WHERE finding_id = $id ORDER BY "at"'


@dataclass(frozen=True)
class Trace:
    """What is known of one thing, each list in order of time; times are aware datetimes.

    An event has its four links: `who`, `how`, `where`, `under_what`. `papers` are the asset's versions (of a
    serial), `coverage` the pieces (of an allocation), `states` and `triage` the finding's own.
    """

    kind: str
    id: str
    events: list[Row]
    findings: list[Row]
    papers: list[Row] = field(default_factory=list)
    coverage: list[Row] = field(default_factory=list)
    states: list[Row] = field(default_factory=list)
    triage: list[Row] = field(default_factory=list)


def trace(connection: duckdb.DuckDBPyConnection, name: str, kind: str | None = None) -> Trace:
    """The timeline of `name` in a lake opened with `sinks.views.connect`; `kind` is one of KINDS.

    Raises:
        SekishoError: nothing of that name is in the lake.
        UsageError: more than one kind of thing has that name and `kind` does not say which.
    """
    kind = _kind(connection, name, kind)
    events = _events(connection, kind, name)
    found = _by_coordinates(_rows(connection, _FOUND, id=name))
    for event in events:
        event["findings"] = found.get(_coordinates(event), [])
    ids = {one["finding_id"] for event in events for one in event["findings"]}
    if kind == "finding":
        ids.add(name)
    return Trace(
        kind,
        name,
        events,
        _rows(connection, _FINDINGS, ids=sorted(ids)),
        papers=_rows(connection, _ASSET, id=name) if kind == "serial" else [],
        coverage=_rows(connection, _COVERAGE, id=name) if kind == "allocation" else [],
        states=_rows(connection, _STATES, id=name) if kind == "finding" else [],
        triage=_rows(connection, _TRIAGE, id=name) if kind == "finding" else [],
    )


def _kind(connection: duckdb.DuckDBPyConnection, name: str, wanted: str | None) -> str:
    """The kind of thing that `name` names."""
    kinds = [
        kind
        for kind in ([wanted] if wanted else KINDS)
        if _rows(connection, f"{_KINDS[kind].known} LIMIT 1", id=name)
    ]
    if not kinds:
        what = wanted or "serial, party, allocation, workload, session or finding"
        raise SekishoError(f"no {what} in this lake is named {name!r}; ids are compared letter by letter")
    if len(kinds) > 1:
        raise UsageError(f"{name!r} is a {' and a '.join(kinds)}: say which with --as {kinds[0]}")
    return kinds[0]


def _events(connection: duckdb.DuckDBPyConnection, kind: str, name: str) -> list[Row]:
    """The events of the thing, and the allocation events that those point to, shaped."""
    how = _KINDS[kind]
    _rows(connection, _EVENT)
    if kind == "party":
        _rows(connection, _THROUGH.format(events=_MADE_BY_ITS_PRINCIPALS), id=name)
    _rows(connection, _OWN.format(own=how.own, touching=how.touching), id=name)
    _rows(connection, _TRACED.format(columns=_COLUMNS, around=how.around))
    _rows(connection, _THROUGH.format(events="FROM traced"))
    parties = {_coordinates(row): row["party_id"] for row in _rows(connection, "FROM through")}
    rows = _rows(connection, 'FROM traced ORDER BY "at", source, event_id, topic, "partition", "offset"')
    shaped = list(_shaped(rows, parties))
    if kind == "finding":
        shaped += _rows(connection, _REJECTED, id=name)
    return shaped


def _shaped(rows: Sequence[Row], parties: Mapping[tuple[Any, ...], str]) -> Iterator[Row]:
    """Each event with its links apart, and what it has through its allocation (contract section 3.2).

    `parties` are those that events have through it, by coordinates.
    """
    allocated: dict[str, list[Row]] = {}
    for row in rows:
        if row["stream"] == "allocation" and row["action"] == "allocated":
            allocated.setdefault(row["allocation_id"], []).append(row)
    for row in rows:
        before = allocated.get(row["allocation_id"], [])
        last = bisect_right(before, row["at"], key=lambda earlier: earlier["at"])
        yield _links(row, before[last - 1] if last else None, parties.get(_coordinates(row)))


_WHO = ("party_id", "party_version", "party_id_sent", "principal")
_HOW = (
    "method", "session_id", "source_ip", "source_country", "mfa", "operation", "bytes_out", "broker_id",
    "requested_by", "approved_by",
)  # fmt: skip
_WHERE = ("site_id", "site_version", "node", "from_site_id")
_UNDER = ("authorization_id", "authorization_version")


def _links(row: Row, allocated: Row | None, party: str | None) -> Row:
    links = {"who": _WHO, "how": _HOW, "where": _WHERE, "under_what": _UNDER}
    apart = {name for names in links.values() for name in names}
    shaped: Row = {name: value for name, value in row.items() if name not in apart}
    shaped |= {link: {name: row[name] for name in names} for link, names in links.items()}
    if allocated is not None and row["action"] != "allocated":
        if row["party_id_sent"] is None and row["principal"] is None:
            shaped["who"]["through_allocation"] = party
        if row["authorization_id"] is None:
            shaped["under_what"]["through_allocation"] = allocated["authorization_id"]
    return shaped


def _coordinates(row: Row) -> tuple[Any, ...]:
    return row["topic"], row["partition"], row["offset"]


def _by_coordinates(found: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    by: dict[tuple[Any, ...], list[Row]] = {}
    for row in found:
        about = {name: row[name] for name in ("finding_id", "rule_id", "state")}
        by.setdefault(_coordinates(row), []).append(about)
    return by


def _rows(connection: duckdb.DuckDBPyConnection, query: str, **values: object) -> list[Row]:
    cursor = connection.execute(query, values)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

"""Holds the findings, duplicates and coverage of a lake against the plain implementation's."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lake_rows import PARTITION, place, rows, view_rows
from tests.plain.coverage import Piece
from tests.plain.findings import Finding
from tests.plain.history import History, judge_all
from tests.plain.landed import At
from tests.plain.tables import EVENTS
from tests.plain.values import time

Row = dict[str, Any]
EVIDENCE = 100
COLUMNS = [
    *("finding_id", "rule_id", "rule_sha256", "kind", "severity", "link", "subject", "party_id"),
    *("allocation_id", "first_at", "last_at", "events", "detected_at", "revision", "state", "supersedes"),
    *("message", "evidence", "known"),
]
"""Of `finding_history`, as the contract names them."""
UNDONE = ("withdrawn", "superseded")
"""States of what held before more was read: how much of that there is depends on how the input was cut."""


def history_differences(directory: Path, lake: Path, until: str | None = None) -> Iterator[str]:
    """Readable differences between a scan's lake and the plain implementation, none when they agree."""
    yield from differences_of(judge_all(directory, None if until is None else time(until)), lake)


def differences_of(history: History, lake: Path) -> Iterator[str]:
    views = ("finding", "finding_event", "coverage", "duplicate")
    finding, finding_event, coverage, duplicate = view_rows(lake, *views)
    yield from watermark_differences(history, lake)
    yield from duplicate_differences(history, duplicate)
    yield from left_out(history, lake)
    yield from finding_differences(history, finding)
    yield from table_differences(finding, lake)
    yield from event_differences(history, finding_event)
    yield from coverage_differences(history, coverage)


def unlike(what: str, row: Row, due: Row) -> Iterator[str]:
    """A text for every column that is not as it should be."""
    for name, value in due.items():
        if name not in row:
            yield f"{what}: no column {name}"
        elif row[name] != value or type(row[name]) is not type(value):
            yield f"{what}: {name} is {row[name]!r}, expected {value!r}"


def matched(what: str, found: list[tuple[Any, Row]], expected: dict[Any, Row]) -> Iterator[str]:
    """Rows by key, against the columns that each must have."""
    by_key: dict[Any, Row] = {}
    for key, row in found:
        if key in by_key:
            yield f"{what} {key}: there twice"
        by_key[key] = row
    for key in sorted(expected.keys() - by_key.keys(), key=repr):
        yield f"{what} {key}: lacks, expected {expected[key]}"
    for key in sorted(by_key.keys() - expected.keys(), key=repr):
        yield f"{what} {key}: should not be there: {by_key[key]}"
    for key in sorted(by_key.keys() & expected.keys(), key=repr):
        yield from unlike(f"{what} {key}", by_key[key], expected[key])


def watermark_differences(history: History, lake: Path) -> Iterator[str]:
    """The last step's watermark."""
    last = max(rows(lake, "watermark"), key=lambda row: row["step"], default=None)
    found = None if last is None else last["watermark"]
    if found != history.watermark:
        yield f"watermark: {found}, expected {history.watermark}"


def duplicate_differences(history: History, found: list[Row]) -> Iterator[str]:
    expected = {at: {"of": of} for at, of in history.duplicates.items()}
    keyed = [(place(row), {"of": place(row, "of_")}) for row in found]
    yield from matched("duplicate", keyed, expected)


def left_out(history: History, lake: Path) -> Iterator[str]:
    """The views of events have every accepted event but the duplicates."""
    for stream, found in zip(EVENTS, view_rows(lake, *EVENTS), strict=True):
        expected = {
            at: {"event_id": fields["event_id"]}
            for at, (fields, _) in history.scanned.events.items()
            if at[0] == f"custody.{stream}" and at not in history.duplicates
        }
        keyed = [(place(row), row) for row in found]
        yield from matched(f"view {stream}", keyed, expected)


def finding_id(rule_id: str, subject: str) -> str:
    return hashlib.sha256(f"{rule_id}\n{subject}".encode()).hexdigest()[:32]


def finding_differences(history: History, found: list[Row]) -> Iterator[str]:
    expected = {key: finding_row(history, *key, finding) for key, finding in history.findings.items()}
    keyed = [((row["rule_id"], row["subject"]), row) for row in found if row["state"] not in UNDONE]
    yield from matched("finding", keyed, expected)


def finding_row(history: History, rule_id: str, subject: str, finding: Finding) -> Row:
    kind, link, _ = rule_id.split(".", 2)
    return {
        "finding_id": finding_id(rule_id, subject),
        "kind": kind,
        "link": link,
        "state": finding.state,
        "events": len(finding.events),
        "first_at": finding.first_at,
        "last_at": finding.last_at,
        "party_id": finding.party_id,
        "allocation_id": finding.allocation_id,
        "evidence": [
            {
                "topic": at[0],
                "partition": at[1] // PARTITION,
                "offset": at[1] % PARTITION,
                "event_id": named(history, at)["event_id"],
            }
            for at in sorted(finding.events)[:EVIDENCE]
        ],
    }


def named(history: History, at: At) -> Row:
    """What a finding's row says of an event; all null of a rejected record."""
    fields = history.scanned.events[at][0] if at in history.scanned.events else {}
    return {name: fields.get(name) for name in ("source", "event_id", "occurred_at")}


def table_differences(found: list[Row], lake: Path) -> Iterator[str]:
    """What a Delta reader takes for the latest revision of each finding is what the view shows."""
    latest: dict[str, Row] = {}
    for row in rows(lake, "finding_history"):
        held = latest.get(row["finding_id"])
        if held is not None and held["revision"] == row["revision"]:
            yield f"finding_history: revision {row['revision']} of {row['finding_id']} is there twice"
        if held is None or held["revision"] < row["revision"]:
            latest[row["finding_id"]] = {name: row[name] for name in COLUMNS}
    keyed = [(row["finding_id"], row) for row in found]
    yield from matched("view finding", keyed, latest)


def event_differences(history: History, found: list[Row]) -> Iterator[str]:
    expected = {
        (rule_id, subject, at): {
            "finding_id": finding_id(rule_id, subject),
            "state": state,
            **named(history, at),
        }
        for (rule_id, subject), finding in history.findings.items()
        for at, state in finding.events.items()
    }
    keyed = [
        ((row["rule_id"], row["subject"], place(row)), row) for row in found if row["state"] not in UNDONE
    ]
    yield from matched("finding_event", keyed, expected)


def coverage_differences(history: History, found: list[Row]) -> Iterator[str]:
    keyed = [((row["allocation_id"], row["from_at"]), row) for row in found]
    expected = {(piece.allocation_id, piece.from_at): piece_row(piece) for piece in history.pieces}
    yield from matched("coverage", keyed, expected)


def piece_row(piece: Piece) -> Row:
    return {
        "to_at": piece.to_at,
        "party_id": piece.party_id,
        "site_id": piece.site_id,
        "model": piece.model,
        "accelerators": piece.accelerators,
        "who": piece.who,
        "how": piece.how,
        "where": piece.where,
        "under_what": piece.under_what,
        "reasons": piece.reasons,
    }

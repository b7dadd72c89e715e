"""Made-up steps of the reconciler, whose every row can be told from its step."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from schemas.events import ACCESS
from schemas.tables import COVERAGE, DUPLICATE, FINDING_EVENT, FINDING_HISTORY
from sinks.lake import Lake, Settled
from tests.landings import AT, RULE, START

Row = dict[str, Any]
_SCHEMAS = {
    "finding_history": FINDING_HISTORY,
    "finding_event": FINDING_EVENT,
    "duplicate": DUPLICATE,
    "coverage": COVERAGE,
}


def micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def settled(step: int, watermark: datetime | None = START, **changes: Any) -> Settled:
    at = None if watermark is None else micros(watermark)
    return Settled(
        **{"step": step, "raw_version": step, "watermark": at, "latest_broker_time": at, **changes}
    )


def table(name: str, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows as the reconciler hands them over: without `step` and `ingested_at`."""
    schema = pa.schema([field for field in _SCHEMAS[name] if field.name not in ("step", "ingested_at")])
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema)


def settle(
    lake: Lake,
    step: int,
    rows: Mapping[str, Iterable[Row]] | None = None,
    watermark: datetime | None = START,
    at: datetime = AT,
) -> None:
    """Commits a step with these rows by table."""
    tables = {name: table(name, given) for name, given in (rows or {}).items()}
    lake.settle(settled(step, watermark), tables, at)


def place(offset: int, partition: int = 0) -> Row:
    return {"topic": ACCESS.topic, "partition": partition, "offset": offset}


def duplicate(offset: int, of: int, partition: int = 0) -> Row:
    return place(offset, partition) | {f"of_{name}": value for name, value in place(of).items()}


def event(finding_id: str, offset: int, **changes: Any) -> Row:
    return {
        "finding_id": finding_id,
        "rule_id": RULE,
        "rule_sha256": "0" * 64,
        "severity": "high",
        "subject": f"party:{finding_id}",
        "message": "message",
        "source": "s",
        "event_id": f"e{offset}",
        **place(offset),
        "occurred_at": START + timedelta(seconds=offset),
        "state": "provisional",
        **changes,
    }


def history(finding_id: str, revision: int, **changes: Any) -> Row:
    return {
        "finding_id": finding_id,
        "rule_id": RULE,
        "rule_sha256": "0" * 64,
        "kind": "gap",
        "severity": "high",
        "link": "identity",
        "subject": f"party:{finding_id}",
        "party_id": None,
        "allocation_id": None,
        "first_at": START,
        "last_at": START,
        "events": 1,
        "detected_at": AT,
        "revision": revision,
        "state": "provisional",
        "supersedes": revision - 1 or None,
        "message": f"revision {revision}",
        "evidence": [{**place(0), "event_id": "e0"}],
        "known": [{"topic": "custody.party", "partition": 0, "offset": 7}],
        "suppressed": False,
        **changes,
    }


def piece(allocation: str, start: int, end: int | None, replaces: int | None = None, **changes: Any) -> Row:
    """A piece in minutes from START; without an end it is open."""
    minute = timedelta(minutes=1)
    return {
        "allocation_id": allocation,
        "accelerators": 8,
        "from_at": START + start * minute,
        "to_at": START + (start if end is None else end) * minute,
        "who": True,
        "how": True,
        "where": True,
        "under_what": True,
        "reasons": [],
        "open": end is None,
        "replaces_from": None if replaces is None else START + replaces * minute,
        **changes,
    }


def full(step: int) -> dict[str, list[Row]]:
    """A step with a row for every table, that can be told by its number."""
    return {
        "finding_history": [history("f", step)],
        "finding_event": [event("f", step)],
        "duplicate": [duplicate(1000 + step, step)],
        "coverage": [piece("A", step, step + 1)],
    }

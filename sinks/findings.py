"""What is published on `custody.findings`: a finding that first fires at landing, and each later state.

In a JSON value that would be over MOST_BYTES each text over MOST_CHARACTERS is cut, and says so behind the
cut; what the lake has under the same `finding_id` is whole.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from schemas.tables import FINDING_HISTORY

TOPIC = "custody.findings"
EVIDENCE = 100  # events a row names; all are in finding_event
MOST_BYTES = 1 << 19  # of a value: brokers and consumers take 1 MiB unless told otherwise
MOST_CHARACTERS = 500

Row = dict[str, Any]
Message = tuple[bytes, bytes]
"""Key and value of a record."""

_PUBLISHED = pa.schema([field for field in FINDING_HISTORY if field.name not in ("step", "ingested_at")])

_NEEDED = [
    *("occurred_at", "finding_id", "rule_id", "rule_sha256", "severity", "subject", "message", "party_id"),
    *("allocation_id", "topic", "partition", "offset", "event_id"),
]


def messages(findings: pa.RecordBatch, known: Mapping[tuple[str, int], int], at: datetime) -> list[Message]:
    """Key and JSON value of one message for each finding in a batch of FINDING_EVENT rows.

    The value has the shape of a `finding_history` row with revision 0, and counts the events of this batch.
    `known` is the next offset read of each reference partition, `at` the time of detection (with a zone).
    """
    assert at.tzinfo is not None, "detection time without a zone"
    shared = {
        "detected_at": _time(at),
        "known": [
            {"topic": topic, "partition": partition, "offset": offset}
            for (topic, partition), offset in sorted(known.items())
        ],
    }
    return [
        (finding_id.encode(), _bounded(_row(events) | shared)) for finding_id, events in _by_finding(findings)
    ]


def history_messages(history: pa.Table) -> list[Message]:
    """Key and JSON value of one message for each row of FINDING_HISTORY, in their order.

    The value is the row without the columns that tell of its landing (`step`, `ingested_at`).
    """
    rows: list[Row] = history.select(_PUBLISHED.names).cast(_PUBLISHED).to_pylist()
    return [(row["finding_id"].encode(), _bounded(_plain(row))) for row in rows]


def smallest(value: bytes) -> bytes:
    """A published value without `evidence` and `known`, with short texts: for a topic that takes no more."""
    return orjson.dumps(_cut(orjson.loads(value) | {"evidence": [], "known": None}, 100))


def _bounded(row: Row) -> bytes:
    value = orjson.dumps(row)
    return value if len(value) <= MOST_BYTES else orjson.dumps(_cut(row, MOST_CHARACTERS))


def _cut(value: Any, most: int) -> Any:
    """The same with each text in it cut that has more than so many characters."""
    if isinstance(value, dict):
        return {name: _cut(each, most) for name, each in value.items()}
    if isinstance(value, list):
        return [_cut(each, most) for each in value]
    if isinstance(value, str) and len(value) > most:
        return value[:most] + "… (cut; whole in the lake)"
    return value


def _plain(row: Row) -> Row:
    return {name: _time(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _by_finding(findings: pa.RecordBatch) -> Iterator[tuple[str, list[Row]]]:
    names = ("finding_id", "topic", "partition", "offset")
    order = pc.sort_indices(findings, sort_keys=[(name, "ascending") for name in names])
    needed = findings.select(_NEEDED).take(order)
    # as texts they keep their order, and a datetime takes ten times as long
    rows: list[Row] = needed.set_column(0, "occurred_at", _texts(needed["occurred_at"])).to_pylist()
    for finding_id, group in groupby(rows, key=lambda row: row["finding_id"]):
        yield finding_id, list({(r["topic"], r["partition"], r["offset"]): r for r in group}.values())


def _row(events: list[Row]) -> Row:
    last = events[-1]
    kind, link, _ = last["rule_id"].split(".", 2)
    times = [event["occurred_at"] for event in events if event["occurred_at"] is not None]
    return {
        "finding_id": last["finding_id"],
        "rule_id": last["rule_id"],
        "rule_sha256": last["rule_sha256"],
        "kind": kind,
        "severity": last["severity"],
        "link": link,
        "subject": last["subject"],
        "party_id": _agreed({event["party_id"] for event in events}),
        "allocation_id": _agreed({event["allocation_id"] for event in events}),
        "first_at": min(times, default=None),
        "last_at": max(times, default=None),
        "events": len(events),
        "revision": 0,
        "state": "provisional",
        "supersedes": None,
        "message": last["message"],
        "evidence": [
            {name: event[name] for name in ("topic", "partition", "offset", "event_id")}
            for event in events[:EVIDENCE]
        ],
        "suppressed": False,  # or it would not be published
    }


def _agreed(distinct: set[str | None]) -> str | None:
    return distinct.pop() if len(distinct) == 1 else None


def _texts(times: pa.TimestampArray) -> pa.StringArray:
    """As `_time`, of a column."""
    return pc.utf8_replace_slice(times.cast(pa.string()), 10, 11, "T")


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"

"""Made-up landings whose every row can be told from its coordinates, and what a lake holds of them."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from rules.pipeline import Landing
from schemas.errors import SekishoError
from schemas.events import ACCESS, ALLOCATION
from schemas.record import Record
from schemas.reference import PARTY
from schemas.tables import FINDING_EVENT, RAW, typed
from sinks.lake import Lake
from sinks.views import connect

AT = datetime(2026, 3, 1, 23, 59, 58, 123456, tzinfo=UTC)
START = datetime(2026, 3, 1, tzinfo=UTC)
RULE = "gap.identity.unknown"
TABLES = ("raw", "access", "allocation", "party", "finding_event")
"""What `mixed` fills."""

Partition = tuple[str, int]
Row = dict[str, Any]


def before_landing(schema: pa.Schema) -> pa.Schema:
    return schema.remove(schema.get_field_index("ingested_at"))


def batch(rows: Iterable[Row], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist(list(rows), schema=before_landing(schema))


def landing(record: Record, offsets: Mapping[int, Iterable[int]]) -> Landing:
    """Rows of `record` at `offsets` by partition: every 7th is rejected, every 5th event fires a rule."""
    places = [(partition, offset) for partition, these in offsets.items() for offset in these]
    raw = [_raw(record, *place) for place in places]
    accepted = [place for place in places if not is_rejected(*place)]
    firing = [place for place in accepted if record.is_event and fires(*place)]
    return Landing(
        batch(raw, RAW),
        batch([_typed(record, *place) for place in accepted], typed(record)),
        batch([_finding(record, *place) for place in firing], FINDING_EVENT),
        record,
    )


def is_rejected(partition: int, offset: int) -> bool:
    return offset % 7 == 3


def fires(partition: int, offset: int) -> bool:
    return offset % 5 == 0


def _at(offset: int) -> datetime:
    return START + timedelta(seconds=offset)


def _place(record: Record, partition: int, offset: int) -> Row:
    return {
        "topic": record.topic,
        "partition": partition,
        "offset": offset,
        "broker_time": _at(offset) + timedelta(seconds=1),
    }


def _raw(record: Record, partition: int, offset: int) -> Row:
    rejected = is_rejected(partition, offset)
    return {
        **_place(record, partition, offset),
        "topic_id": "an-id",
        "key": b"k",
        "headers": [{"key": "h", "value": b"\x00\xff"}] if offset % 2 else None,
        "value": json.dumps({"event_id": f"{partition}-{offset}"}).encode(),
        "disposition": "rejected" if rejected else "accepted",
        "reason": "missing:source" if rejected else None,
    }


def _typed(record: Record, partition: int, offset: int) -> Row:
    place = _place(record, partition, offset)
    if record.is_event:
        named = {
            "event_id": f"{partition}-{offset}",
            "occurred_at": _at(offset),
            "source": "s",
            "action": "x",
        }
        return {**named, "verdicts": [RULE] if fires(partition, offset) else [], **place}
    tombstone = offset % 11 == 5
    return {
        "party_id": f"P-{offset % 3}",
        "version": None if tombstone else offset,
        "valid_from": None if tombstone else _at(offset),
        "documents": None if tombstone else [{"kind": "id", "sha256": "ab", "expires_at": _at(offset)}],
        "incorporated_on": None if tombstone else _at(offset).date(),
        "tombstone_at": place["broker_time"] if tombstone else None,
        "sha256": None if tombstone else bytes(32),
        **place,
    }


def _finding(record: Record, partition: int, offset: int) -> Row:
    place = _place(record, partition, offset)
    del place["broker_time"]
    return {
        "finding_id": f"{offset % 3:032x}",
        "rule_id": RULE,
        "rule_sha256": "0" * 64,
        "severity": "high",
        "subject": f"party:{offset % 3}",
        "message": f"message {offset}",
        "party_id": f"P-{offset % 3}",
        "source": "s",
        "event_id": f"{partition}-{offset}",
        "occurred_at": _at(offset),
        "state": "provisional",
        **place,
    }


def land(lake: Lake, *landings: Landing, at: datetime = AT) -> None:
    """Lands all in one batch, as a worker does; the ranges are those of the rows."""
    transaction = lake.begin(at)
    ranges: dict[Partition, tuple[int, int]] = {}
    for one in landings:
        transaction.append(one)
        for row in one.raw.select(["topic", "partition", "offset"]).to_pylist():
            partition = (row["topic"], row["partition"])
            start, end = ranges.get(partition, (row["offset"], row["offset"]))
            ranges[partition] = (min(start, row["offset"]), max(end, row["offset"] + 1))
    try:
        transaction.commit(ranges, {})
    except SekishoError:
        transaction.abort()
        raise


def mixed(start: int, end: int) -> tuple[Landing, Landing, Landing]:
    """Access on two partitions, allocation and party on one each, offsets `start` to `end`."""
    span = range(start, end)
    return landing(ACCESS, {0: span, 1: span}), landing(ALLOCATION, {0: span}), landing(PARTY, {0: span})


def scan(lake: Path, table: str) -> pa.Table:
    """The table as the deltalake library reads it by itself."""
    reader = pa.RecordBatchReader.from_stream(DeltaTable((lake / table).as_uri()).scan())
    return reader.read_all()


def places(rows: pa.Table) -> list[tuple[str, int, int]]:
    """The coordinates of the rows, sorted, repeats included."""
    columns = [rows[name].to_pylist() for name in ("topic", "partition", "offset")]
    return sorted(zip(*columns, strict=True))


def expected(table: str, end: int, start: int = 0) -> list[tuple[str, int, int]]:
    """What `mixed` rows from `start` to `end` must have put into a table."""
    wanted = []
    for record, partitions in ((ACCESS, 2), (ALLOCATION, 1), (PARTY, 1)):
        for partition in range(partitions):
            for offset in range(start, end):
                accepted = not is_rejected(partition, offset)
                if (
                    table == "raw"
                    or (table == record.name and accepted)
                    or (
                        table == "finding_event" and record.is_event and accepted and fires(partition, offset)
                    )
                ):
                    wanted.append((record.topic, partition, offset))
    return sorted(wanted)


def check_whole(folder: Path, end: int) -> None:
    """Every offset exactly once in every table, for deltalake and for the views alike."""
    views = connect(folder)
    for table in TABLES:
        wanted = expected(table, end)
        assert places(scan(folder, table)) == wanted, table
        seen = views.execute(f'SELECT topic, "partition", "offset" FROM "{table}" ORDER BY ALL').fetchall()
        assert seen == wanted, table

"""Arrow schemas of the lake's tables (contract section 5).

Typed tables are their record's fields plus what landing adds. `dt` (the ingest date, UTC) is the
partition column of every table and lives in the path, not in the files.
"""

import pyarrow as pa

from schemas.events import EVENTS
from schemas.record import TIME, Record
from schemas.reference import REFERENCES

HEADERS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.binary())]))

FETCHED = pa.schema(
    [
        ("topic", pa.string()),
        ("topic_id", pa.string()),
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("broker_time", TIME),
        ("key", pa.binary()),
        ("headers", HEADERS),
        ("value", pa.binary()),
    ]
)
"""Records as read from Kafka, before anything is known of them."""

RAW = pa.schema([*FETCHED, ("disposition", pa.string()), ("reason", pa.string()), ("ingested_at", TIME)])

COORDINATES = pa.schema([("topic", pa.string()), ("partition", pa.int32()), ("offset", pa.int64())])

FINDING_EVENT = pa.schema(
    [
        ("finding_id", pa.string()),
        ("rule_id", pa.string()),
        ("rule_sha256", pa.string()),
        ("severity", pa.string()),
        ("subject", pa.string()),
        ("message", pa.string()),
        ("party_id", pa.string()),
        ("allocation_id", pa.string()),
        ("source", pa.string()),
        ("event_id", pa.string()),
        *COORDINATES,
        ("occurred_at", TIME),
        ("state", pa.string()),
        ("step", pa.int64()),
        ("ingested_at", TIME),
    ]
)
"""One event of one finding. `party_id` is the party the event was judged with, `step` the reconciler's step
that says so, null in what a worker wrote at landing."""

PLACE = pa.struct([*COORDINATES])
EVIDENCE = pa.struct([*COORDINATES, ("event_id", pa.string())])

FINDING_HISTORY = pa.schema(
    [
        ("finding_id", pa.string()),
        ("rule_id", pa.string()),
        ("rule_sha256", pa.string()),
        ("kind", pa.string()),
        ("severity", pa.string()),
        ("link", pa.string()),
        ("subject", pa.string()),
        ("party_id", pa.string()),
        ("allocation_id", pa.string()),
        ("first_at", TIME),
        ("last_at", TIME),
        ("events", pa.int64()),
        ("detected_at", TIME),
        ("revision", pa.int64()),
        ("state", pa.string()),
        ("supersedes", pa.int64()),
        ("message", pa.string()),
        ("evidence", pa.list_(EVIDENCE)),
        ("known", pa.list_(PLACE)),
        ("suppressed", pa.bool_()),
        ("step", pa.int64()),
        ("ingested_at", TIME),
    ]
)
"""One state of one finding; `events` counts, `known` is the next offset read of each reference partition."""

DUPLICATE = pa.schema(
    [
        *COORDINATES,
        *((f"of_{field.name}", field.type) for field in COORDINATES),
        ("step", pa.int64()),
        ("ingested_at", TIME),
    ]
)
"""One duplicate and its original; the latest step counts, since a lower original may arrive later."""

COVERAGE = pa.schema(
    [
        ("allocation_id", pa.string()),
        ("party_id", pa.string()),
        ("site_id", pa.string()),
        ("model", pa.string()),
        ("accelerators", pa.int64()),
        ("from_at", TIME),
        ("to_at", TIME),
        ("who", pa.bool_()),
        ("how", pa.bool_()),
        ("where", pa.bool_()),
        ("under_what", pa.bool_()),
        ("reasons", pa.list_(pa.string())),
        ("open", pa.bool_()),
        ("replaces_from", TIME),
        ("step", pa.int64()),
        ("ingested_at", TIME),
    ]
)
"""One piece of one allocation, from `from_at` up to `to_at`.

An `open` piece still ran when it was written, with the watermark then as its `to_at`: it runs until the
earliest `from_at` that a later step wrote of the allocation, else to the watermark. `replaces_from` makes
void every piece of the allocation that starts at or after it and was written by an earlier step. A row
whose `from_at` is null is no piece and only makes void.
"""

WATERMARK = pa.schema(
    [
        ("step", pa.int64()),
        ("raw_version", pa.int64()),
        ("watermark", TIME),
        ("latest_broker_time", TIME),
        ("late_events", pa.int64()),
        ("ingested_at", TIME),
    ]
)
"""One step of the reconciler: the last commit of `raw` it has read, the watermark and the latest broker time
it has come to (null before there is one), and how many of the step's events came behind the watermark."""

TRIAGE = pa.schema(
    [
        ("finding_id", pa.string()),
        ("state", pa.string()),
        ("reason", pa.string()),
        ("actor", pa.string()),
        ("at", TIME),
        ("ingested_at", TIME),
    ]
)
"""What a person has decided about a finding; the latest counts."""


def typed(record: Record) -> pa.Schema:
    """The lake table of one stream or reference thing.

    Of an event, `party_id` is the resolved party and `party_id_sent` what the source said. Of a reference
    record, a row with `version` null is a tombstone, and `sha256` digests the decoded fields.
    """
    if record.is_event:
        extra = [
            ("party_id_sent", pa.string()),
            ("party_version", pa.int64()),
            ("authorization_version", pa.int64()),
            ("site_version", pa.int64()),
            ("sku_unknown", pa.bool_()),
            ("future", pa.bool_()),
            ("verdicts", pa.list_(pa.string())),
        ]
    else:
        extra = [("tombstone_at", TIME), ("sha256", pa.binary(32))]
    broker = [("broker_time", TIME)]
    return pa.schema([*record.schema, *extra, *COORDINATES, *broker, ("ingested_at", TIME)])


TABLES: dict[str, pa.Schema] = {
    "raw": RAW,
    **{record.name: typed(record) for record in (*EVENTS.values(), *REFERENCES.values())},
    "finding_event": FINDING_EVENT,
    "finding_history": FINDING_HISTORY,
    "duplicate": DUPLICATE,
    "coverage": COVERAGE,
    "watermark": WATERMARK,
    "triage": TRIAGE,
}
"""Every table of the lake by name."""

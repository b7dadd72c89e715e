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
        ("ingested_at", TIME),
    ]
)
"""One event of one finding. `party_id` is the party the event was judged with."""


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
}
"""Every table of the lake by name."""

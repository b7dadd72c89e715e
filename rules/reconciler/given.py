"""What the engine is given in one step, and what it gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from schemas.events import EVENTS
from schemas.record import TIME, Record
from schemas.tables import COORDINATES, COVERAGE, DUPLICATE, FINDING_EVENT, FINDING_HISTORY, typed

Partition = tuple[str, int]

REJECTED = pa.schema([*COORDINATES, ("broker_time", TIME), ("reason", pa.string())])


REPEATED = frozenset(
    ("topic", "source", "action", "method", "source_country", "operation", "source_ip", "node", "broker_id")
)
"""Columns of events with few distinct texts, as dictionaries from the file on: a third of the time to read
and to write them."""

_UNASKED = frozenset(("party_version", "authorization_version", "site_version", "sku_unknown"))
"""What landed events say of the versions that workers knew; the reconciler judges with its own."""

_REPEATED_TEXT = pa.dictionary(pa.int32(), pa.string())


def before_landing(schema: pa.Schema) -> pa.Schema:
    """The columns that are known before a row lands."""
    return pa.schema([field for field in schema if field.name not in ("step", "ingested_at")])


def landed_schema(record: Record) -> pa.Schema:
    """Landed events of a stream without what is not asked for, REPEATED as dictionaries."""
    return pa.schema(
        [
            field.with_type(_REPEATED_TEXT) if field.name in REPEATED else field
            for field in before_landing(typed(record))
            if field.name not in _UNASKED
        ]
    )


def event_schema(record: Record) -> pa.Schema:
    """Landed events, and which of the step's commits brought each (an index into `known`)."""
    return landed_schema(record).append(pa.field("commit", pa.int32()))


def _no_events() -> dict[str, pa.Table]:
    return {record.name: event_schema(record).empty_table() for record in EVENTS.values()}


@dataclass(frozen=True)
class Clock:
    """Watermark and latest broker time (µs) as somebody else has worked them out; None: there is none."""

    watermark: int | None
    latest_broker_time: int | None


@dataclass(frozen=True)
class StepInput:
    """What some consecutive commits of `raw` have landed.

    Attributes:
        raw_version: the last of the commits.
        events: by stream, rows of `event_schema`; every stream is there.
        firings: what workers wrote to finding_event, without `step` and `ingested_at`.
        rejected: REJECTED rows, of every topic.
        references: admitted versions and tombstones in the order of landing, `typed(record)` without
            `ingested_at`.
        read: next offset read of each reference partition in these commits.
        known: by commit, the next offset of each reference partition that its events were judged with.
        broker_first: earliest broker time of any record, µs; accepted ticks count with their `at`, records of
            files with what stands in for it. None where nothing has one.
        broker_last: the latest such time.
        tick: the greatest `at` of the ticks, µs.
        unread: partitions of event topics of which Kafka holds records that none of the commits so far has.
        clock: goes before what the records say of the time.
    """

    raw_version: int
    events: Mapping[str, pa.Table] = field(default_factory=_no_events)
    firings: pa.Table = field(default_factory=lambda: before_landing(FINDING_EVENT).empty_table())
    rejected: pa.Table = field(default_factory=lambda: REJECTED.empty_table())
    references: Sequence[tuple[Record, pa.RecordBatch]] = ()
    read: Mapping[Partition, int] = field(default_factory=dict)
    known: Sequence[Mapping[Partition, int]] = ()
    broker_first: int | None = None
    broker_last: int | None = None
    tick: int | None = None
    unread: frozenset[Partition] = frozenset()
    clock: Clock | None = None


@dataclass(frozen=True)
class StepOutput:
    """What is to be settled: rows without `step` and `ingested_at`, times in µs, and what is worth measuring.

    `published` says of each row of `history` whether it goes to `custody.findings`: suppressed and
    experimental ones do not. `duplicates` are for whoever has kept what the steps returned as they were taken
    in. `open_findings` counts findings that are provisional or confirmed, by rule id
    and severity.
    """

    events: pa.Table = field(default_factory=lambda: before_landing(FINDING_EVENT).empty_table())
    history: pa.Table = field(default_factory=lambda: before_landing(FINDING_HISTORY).empty_table())
    published: pa.BooleanArray = field(default_factory=lambda: pa.array([], pa.bool_()))
    duplicates: pa.Table = field(default_factory=lambda: before_landing(DUPLICATE).empty_table())
    coverage: pa.Table = field(default_factory=lambda: before_landing(COVERAGE).empty_table())
    watermark: int | None = None
    latest_broker_time: int | None = None
    late: int = 0
    open_findings: Mapping[tuple[str, str], int] = field(default_factory=dict)
    coverage_by_site: Mapping[str, float] = field(default_factory=dict)
    live_sources: int = 0
    silent_sources: int = 0

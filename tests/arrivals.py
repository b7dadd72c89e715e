"""The records of a scan's directory as Kafka would hold them: on partitions, with keys and broker times, and
an order in which they arrive; and what the plain implementation makes of exactly these.

Broker times are a scan's stand-ins for them: an event has the lesser of its own time and the last tick, a
tombstone its `tombstone_at`. What has none in a scan gets the earliest of all. Nothing arrives before its
broker time; versions also arrive long after the events that they are about.
"""

import random
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from stream.ticks import tick
from stream.topics import TICK
from tests.chain_writer import MINUTE
from tests.lake_rows import PARTITION
from tests.plain.history import History, judge_records
from tests.plain.references import Things, Tombstone
from tests.plain.scan import Scanned, lines, read_event, read_version
from tests.plain.scan import broker_time as stand_in
from tests.plain.tables import EVENTS, IDS, REFERENCES
from tests.plain.values import Reason, decode

LATENESS = 10 * MINUTE
REFERENCE_TOPICS = tuple(f"custody.{name}" for name in REFERENCES)
EVENT_TOPICS = tuple(f"custody.{name}" for name in EVENTS)


@dataclass(frozen=True)
class Arrival:
    """One record; a tombstone has no payload. Times in µs since 1970."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    payload: bytes | None
    broker_time: int
    arrives: int


@dataclass
class Plan:
    """How the records of a directory arrive.

    `partitions` of each topic; `grain` of broker times in µs (Kafka's is 1000); `lateness`: how much later
    than their times events arrive at most, in µs.
    """

    rng: random.Random
    until: int
    partitions: int = 1
    grain: int = 1
    lateness: int = LATENESS
    most_bytes: int = 1 << 30  # larger records are left out

    def broker_time(self, t: int) -> int:
        return stand_in(t, self.until) // self.grain * self.grain


def arrivals(directory: Path, plan: Plan) -> list[Arrival]:
    """All records in the order of arrival, and a last tick at `plan.until`, after which versions may come."""
    events = list(_events(directory, plan))
    versions = [arrival for name in REFERENCES for arrival in _versions(directory, name, plan)]
    earliest = min(event.broker_time for event in (*events, *versions) if event.broker_time >= 0)
    records = sorted((*events, *versions), key=lambda record: record.arrives)
    end = max([plan.until, *(event.arrives for event in events)])
    before = [record for record in records if record.arrives <= end]
    after = [record for record in records if record.arrives > end]
    last = Arrival(TICK, 0, 0, None, _tick(plan.until), plan.until, end)
    stamped = [
        replace(record, broker_time=earliest) if record.broker_time < 0 else record
        for record in (*_ticked(before, earliest, plan), last, *after)
    ]
    return list(_numbered(stamped))


def _events(directory: Path, plan: Plan) -> Iterator[Arrival]:
    for name, columns in EVENTS.items():
        at = plan.until
        for _, payload in lines(directory / f"{name}.ndjson"):
            fields = decode(columns, payload)
            accepted = not isinstance(fields, Reason)
            if not isinstance(fields, Reason):
                at = fields["occurred_at"]
            if len(payload) > plan.most_bytes:
                continue
            late = plan.rng.randint(0, plan.lateness)
            broker_time = plan.broker_time(at) if accepted else -1
            place = plan.rng.randrange(plan.partitions)
            yield Arrival(f"custody.{name}", place, -1, None, payload, broker_time, at + late)


def _versions(directory: Path, name: str, plan: Plan) -> Iterator[Arrival]:
    """Those of one key in the order of the file; before, among and after the events."""
    rng, arrived = plan.rng, dict[bytes | None, int]()
    for offset, payload in lines(directory / f"{name}.ndjson"):
        alone = Things(name)  # what it is, not whether it is held
        if len(payload) > plan.most_bytes or isinstance(alone._tombstone(offset, payload), Reason):
            continue  # a line that looks like a tombstone is something else in Kafka
        taken = alone.read(offset, payload)
        broker_time = -1
        key: bytes | None = None
        value: bytes | None = payload
        if isinstance(taken, Tombstone):
            broker_time = taken.at // plan.grain * plan.grain
            key, value = "|".join(taken.key).encode(), None
        elif not isinstance(taken, Reason):
            assert taken is not None
            key = "|".join(taken.fields[one] for one in IDS[name]).encode()
        arrives = max(broker_time, arrived.get(key, 0), _some_time(plan))
        arrived[key] = arrives if key is not None else 0
        place = zlib.crc32(key) % plan.partitions if key is not None else rng.randrange(plan.partitions)
        yield Arrival(f"custody.{name}", place, -1, key, value, broker_time, arrives)


def _some_time(plan: Plan) -> int:
    """When a version arrives: mostly before the events."""
    dice = plan.rng.random()
    if dice < 0.6:
        return 0
    return plan.until - plan.rng.randint(-1, 20) * plan.rng.randint(1, 24 * 60) * MINUTE


def _ticked(records: Sequence[Arrival], earliest: int, plan: Plan) -> Iterator[Arrival]:
    """With a tick now and then, at the time it is, but none before all others' broker times."""
    for record in records:
        at = record.arrives // plan.grain * plan.grain
        if earliest <= at <= plan.until and plan.rng.random() < 0.03:
            yield Arrival(TICK, 0, 0, None, _tick(at), at, at)
        yield record


def _tick(at: int) -> bytes:
    return tick(datetime.fromtimestamp(at // 10**6, UTC).replace(microsecond=at % 10**6))


def _numbered(records: Sequence[Arrival]) -> Iterator[Arrival]:
    ends: defaultdict[tuple[str, int], int] = defaultdict(int)
    for record in records:
        place = record.topic, record.partition
        yield replace(record, offset=ends[place])
        ends[place] += 1


def expected(records: Sequence[Arrival], until: int, reached: int | None = None) -> History:
    """What the plain implementation makes of the records, whatever the order of arrival.

    Coordinates are as `tests.lake_rows.place` has them; `reached`: see `judge_records`.
    """
    scanned = Scanned(things={name: Things(name) for name in REFERENCES})
    ordered = sorted(records, key=lambda record: (record.topic, record.partition, record.offset))
    for record in ordered:
        if record.topic in REFERENCE_TOPICS:
            _take_version(scanned, record)
    for record in ordered:
        if record.topic in EVENT_TOPICS:
            assert record.payload is not None
            name = record.topic.removeprefix("custody.")
            read_event(scanned, name, _place(record), record.payload, _always(record.broker_time))
    return judge_records(scanned, until, reached)


def _always(at: int) -> Callable[[int], int]:
    return lambda _: at


def _place(record: Arrival) -> int:
    return record.partition * PARTITION + record.offset


def _take_version(scanned: Scanned, record: Arrival) -> None:
    name, place = record.topic.removeprefix("custody."), _place(record)
    if record.payload is not None:
        read_version(scanned, name, place, record.payload)
        return
    assert record.key is not None
    key = tuple(record.key.decode().split("|", len(IDS[name]) - 1))
    stone = Tombstone(place, key, record.broker_time)
    scanned.things[name].tombstones.setdefault(key, []).append(stone)
    scanned.raw[record.topic, place] = (b"", None)
    scanned.versions[record.topic, place] = stone

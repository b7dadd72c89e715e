"""Events that are shipped live: whole record batches, as a broker takes them."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from aiokafka.record.memory_records import MemoryRecords

from benchmarks.live_events import LiveEvents, bench_of_today
from stream.partitioner import partitions_of
from stream.simulation.messages import Encoded

PARTITIONS = 2
EVENTS = 700
RATE = 1000.0
START = datetime(2026, 11, 28, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def blocks() -> list[list[Encoded]]:
    return [list(block) for block in bench_of_today().blocks(EVENTS)]


def shipped(live: LiveEvents, first: int, last: int) -> list[tuple[str, int, bytes, dict[str, Any]]]:
    """(topic, partition, key, value) of each record, as aiokafka reads them."""
    found = []
    for batches in live.sent(first, last, START.timestamp(), RATE):
        for (topic, partition), data in batches.items():
            records = MemoryRecords(data)
            batch: Any = records.next_batch()
            assert batch.validate_crc()
            assert not records.has_next()
            read = list(batch)
            assert [record.offset for record in read] == list(range(len(read)))
            assert read
            found += [(topic, partition, record.key, orjson.loads(record.value)) for record in read]
    return found


def test_each_event_is_sent_once_in_its_place_and_has_happened_when_it_is_due(
    blocks: Sequence[Sequence[Encoded]],
) -> None:
    live = LiveEvents(blocks, PARTITIONS)
    size = len(live)
    rounds = [
        shipped(live, first, min(first + 250, 2 * size + 100)) for first in range(0, 2 * size + 100, 250)
    ]
    records = [record for part in rounds for record in part]
    assert len(records) == 2 * size + 100
    assert len({value["event_id"] for *_, value in records}) == len(records)
    for _, partition, key, _ in records:
        assert partitions_of([key], PARTITIONS) == [partition]
    latest: dict[str, datetime] = {}
    for part, group in enumerate(rounds):
        for *_, value in group:
            happened = datetime.fromisoformat(value["occurred_at"])
            assert happened <= START + timedelta(seconds=(part + 1) * 250 / RATE)
            latest[value["event_id"]] = happened
    assert max(latest.values()) > START + timedelta(seconds=(2 * size - 100) / RATE)


def test_what_is_not_filled_in_is_what_the_profile_made(blocks: Sequence[Sequence[Encoded]]) -> None:
    wanted = sorted(
        (f"custody.{stream.record}", key, settled(value))
        for block in blocks
        for stream in block
        for key, value in zip(stream.keys, stream.values, strict=True)
    )
    live = LiveEvents(blocks, PARTITIONS)
    sent = shipped(live, 0, len(live))
    assert sorted((topic, key, settled(orjson.dumps(value))) for topic, _, key, value in sent) == wanted


def test_no_batch_is_larger_than_a_broker_takes(
    blocks: Sequence[Sequence[Encoded]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer that had fallen behind sent too much at one time (error 10)."""
    monkeypatch.setattr("benchmarks.live_events.BATCH_RECORDS", 100)
    live = LiveEvents(blocks, PARTITIONS)
    counts = [
        sum(1 for _ in MemoryRecords(data).next_batch())
        for batches in live.sent(0, len(live), START.timestamp(), RATE)
        for data in batches.values()
    ]
    assert (max(counts), sum(counts)) == (100, len(live))
    assert len(shipped(live, 0, len(live))) == len(live)


def settled(value: bytes) -> bytes:
    """A value without its event time and its id's round."""
    value = re.sub(rb'"occurred_at":"[^"]*"', b"", value)
    return value.replace(b'"event_id":"0000-', b'"event_id":"', 1)

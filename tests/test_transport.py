"""The whole-fetch transport against Apache Kafka: what arrives, what is left out, where it starts."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.consumer import fetcher
from faust.transport.drivers import aiokafka as driver

from deploy.local_kafka import LocalKafka
from schemas.tables import FETCHED
from stream import fetches, transport
from stream.fetches import COLUMNS, Fetch, to_arrow
from stream.record_batches import from_rows
from stream.transport import (
    BRISK_BYTES,
    BRISK_MS,
    FETCH_BYTES,
    FETCH_MS,
    HELD_BACK_SECONDS,
    STALE,
    ConsumerThread,
    fetch_topic,
    new_app,
)

BAD_KEY = b"\xff\xfe"


@dataclass
class Reader:
    """The smallest owner of positions: starts where it is told and keeps what it is given."""

    starts: dict[TopicPartition, int] = field(default_factory=dict)
    epoch: int = 0
    seeks: int = 0
    fetches: list[Fetch] = field(default_factory=list)
    error: BaseException | None = None

    @contextlib.asynccontextmanager
    async def seeking(self) -> AsyncIterator[None]:
        yield

    async def positions(
        self, first: Mapping[TopicPartition, int], end: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        return {tp: self.starts.get(tp, offset) for tp, offset in first.items()}

    def begin(self, epoch: int, positions: Mapping[TopicPartition, int]) -> None:
        self.epoch, self.seeks = epoch, self.seeks + 1
        self.fetches.clear()

    def failed(self, error: BaseException) -> None:
        self.error = error


async def read(
    kafka: LocalKafka, topic: str, until: int, starts: dict[int, int] | None = None
) -> list[Fetch]:
    """Everything of a topic up to the sum of end offsets `until`, through a Faust agent."""
    owner = Reader({TopicPartition(topic, number): at for number, at in (starts or {}).items()})
    app = new_app(owner, f"test-{random.random()}", [kafka.bootstrap])
    done = asyncio.Event()

    @app.agent(fetch_topic(app, topic))
    async def collect(stream: Any) -> None:
        async for polled in stream:
            owner.fetches += [fetch for fetch in polled if fetch.epoch == owner.epoch]
            if sum(ends(owner.fetches).values()) >= until:
                done.set()

    async with app:
        await asyncio.wait_for(done.wait(), 30)
    assert owner.error is None
    return owner.fetches


def ends(fetched: list[Fetch]) -> dict[int, int]:
    return {fetch.partition: fetch.end for fetch in fetched}


async def send(kafka: LocalKafka, topic: str, records: list[tuple[Any, ...]], partition: int = 0) -> None:
    """Send (key, value) or (key, value, headers) tuples, each batch of them in order."""
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap) as producer:
        for key, value, *headers in records:
            await producer.send(topic, value, key, partition, headers=headers[0] if headers else None)


async def send_bytes_header(kafka: LocalKafka, topic: str) -> None:
    """A header key that is not UTF-8, which no Python client can write as text."""
    from kafka import KafkaProducer

    class Key(str):
        def encode(self, *_: Any, **__: Any) -> bytes:
            return BAD_KEY

    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    producer.send(topic, b"bad header", partition=0, headers=[(Key("xx"), b"1"), ("good", b"2")]).get(10)
    producer.close()


def test_keys_values_and_headers_arrive_as_sent(kafka: LocalKafka) -> None:
    kafka.create_topics({"t.plain": 2})
    records = [(b"k", b"v"), (None, b"v"), (b"k", None), (b"", b""), (b"h", b"v", [("a", b"1"), ("a", b"")])]

    async def run() -> list[Fetch]:
        await send(kafka, "t.plain", records)
        await send(kafka, "t.plain", [(b"%d" % n, b"x") for n in range(3000)], 1)
        return await read(kafka, "t.plain", 3005)

    fetched = asyncio.run(run())
    batch = to_arrow([fetch for fetch in fetched if fetch.partition == 0], {"t.plain": "id"})
    assert batch.schema == FETCHED
    batch.validate(full=True)
    assert batch["key"].to_pylist() == [b"k", None, b"k", b"", b"h"]
    assert batch["value"].to_pylist() == [b"v", b"v", None, b"", b"v"]
    assert batch["headers"].to_pylist() == [None] * 4 + [
        [{"key": "a", "value": b"1"}, {"key": "a", "value": b""}]
    ]
    assert batch["offset"].to_pylist() == [0, 1, 2, 3, 4]
    assert set(batch["topic_id"].to_pylist()) == {"id"}
    assert batch["broker_time"].null_count == 0
    many = to_arrow([fetch for fetch in fetched if fetch.partition == 1], {})
    assert many["key"].to_pylist() == [b"%d" % n for n in range(3000)]
    assert many["partition"].to_pylist() == [1] * 3000
    assert many["topic_id"].null_count == 3000


def test_every_compression_of_kafka_is_read(kafka: LocalKafka) -> None:
    kafka.create_topics({"t.compressed": 1})
    codecs = ("gzip", "snappy", "lz4", "zstd")

    async def run() -> list[Fetch]:
        for codec in codecs:
            async with AIOKafkaProducer(
                bootstrap_servers=kafka.bootstrap, compression_type=codec, linger_ms=100
            ) as producer:
                for number in range(50):
                    await producer.send("t.compressed", b"%d %s" % (number, codec.encode() * 20), partition=0)
        return await read(kafka, "t.compressed", 200)

    values = to_arrow(asyncio.run(run()), {})["value"].to_pylist()
    assert values == [b"%d %s" % (number, codec.encode() * 20) for codec in codecs for number in range(50)]


def test_a_header_key_that_is_not_utf8_is_no_poison(kafka: LocalKafka) -> None:
    kafka.create_topics({"t.header": 1})

    async def run() -> list[Fetch]:
        await send(kafka, "t.header", [(b"1", b"before")])
        await send_bytes_header(kafka, "t.header")
        await send(kafka, "t.header", [(b"3", b"after")])
        return await read(kafka, "t.header", 3)

    batch = to_arrow(asyncio.run(run()), {})
    assert batch["value"].to_pylist() == [b"before", b"bad header", b"after"]
    assert batch["headers"][1].as_py() == [
        {"key": r"\xff\xfe", "value": b"1"},
        {"key": "good", "value": b"2"},
    ]


def test_aborted_records_and_markers_are_holes(kafka: LocalKafka) -> None:
    kafka.create_topics({"t.transactions": 1})

    async def run() -> list[Fetch]:
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id="t") as producer:
            for number in range(6):
                await producer.begin_transaction()
                for _ in range(2):
                    await producer.send_and_wait("t.transactions", b"%d" % number, partition=0)
                if number % 3 == 1:
                    await producer.abort_transaction()
                else:
                    await producer.commit_transaction()
        return await read(kafka, "t.transactions", 18)

    fetched = asyncio.run(run())
    values = [value for fetch in fetched for value in to_arrow([fetch], {})["value"].to_pylist()]
    assert values == [b"0", b"0", b"2", b"2", b"3", b"3", b"5", b"5"]
    missing = {offset for fetch in fetched for start, end in fetch.holes for offset in range(start, end)}
    landed = {offset for fetch in fetched for offset in to_arrow([fetch], {})["offset"].to_pylist()}
    assert landed | missing == set(range(18))
    assert not landed & missing
    assert all(left.end == right.start for left, right in itertools.pairwise(fetched))


def test_reading_starts_inside_a_record_batch(kafka: LocalKafka) -> None:
    kafka.create_topics({"t.middle": 1})

    async def run() -> list[Fetch]:
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, linger_ms=500) as producer:
            for number in range(100):
                await producer.send("t.middle", b"%d" % number, partition=0)
        return await read(kafka, "t.middle", 100, starts={0: 37})

    fetched = asyncio.run(run())
    assert fetched[0].start == 37
    assert [value for fetch in fetched for value in to_arrow([fetch], {})["value"].to_pylist()] == [
        b"%d" % n for n in range(37, 100)
    ]
    assert [fetch.holes for fetch in fetched] == [[] for _ in fetched]


def test_compaction_leaves_holes(kafka: LocalKafka) -> None:
    compact = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "segment.bytes": str(1 << 20),
        "min.cleanable.dirty.ratio": "0.0",
        "max.compaction.lag.ms": "100",
    }
    kafka.create_topics({"t.compact": 1}, compact)

    async def run() -> list[Fetch]:
        total = 0
        for _ in range(40):  # until the cleaner has been there
            await send(kafka, "t.compact", [(b"same", b"%d" % n) for n in range(5)])
            total += 5
            fetched = await read(kafka, "t.compact", total)
            if any(fetch.holes for fetch in fetched):
                break
            await asyncio.sleep(0.5)
        return fetched

    fetched = asyncio.run(run())
    assert any(fetch.holes for fetch in fetched)
    assert fetched[0].start == 0
    covered = sum(len(fetch) + sum(end - start for start, end in fetch.holes) for fetch in fetched)
    assert covered == fetched[-1].end


def test_other_consumers_are_left_alone(kafka: LocalKafka) -> None:
    kafka.create_topics({"t.other": 1})
    fetches.install()

    async def run() -> Any:
        await send(kafka, "t.other", [(b"k", b"v")])
        consumer = AIOKafkaConsumer(
            "t.other", bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest"
        )
        async with consumer:
            return await asyncio.wait_for(consumer.getone(), 20)

    record = asyncio.run(run())
    assert (record.key, record.value, record.offset) == (b"k", b"v", 0)


def test_fetches_of_an_assignment_that_was_not_sought_are_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rebalances in a row let Faust read from the group's offsets before it seeks (seen in a soak)."""
    here = TopicPartition("t", 0)
    sought: list[int] = []

    class Subscribed:
        def __init__(self) -> None:
            self._subscription = SimpleNamespace(subscription=SimpleNamespace(assignment=object()))
            self._fetcher = SimpleNamespace(_fetch_max_wait_ms=0, _fetch_min_bytes=0)

        def highwater(self, tp: TopicPartition) -> int:
            return 1

        def assignment(self) -> set[TopicPartition]:
            return {here}

        def seek(self, tp: TopicPartition, offset: int) -> None:
            sought.append(offset)

    consumer = Subscribed()

    async def fetched(*_: Any, **__: Any) -> dict[TopicPartition, list[Fetch]]:
        return {here: [Fetch("t", 0, 0, 1)]}

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", fetched)
    thread = ConsumerThread.__new__(ConsumerThread)
    monkeypatch.setattr(thread, "_ensure_consumer", lambda: consumer)

    def epoch() -> int:
        (((fetch,),),) = asyncio.run(thread._fetch_records(consumer, {here})).values()
        return int(fetch.epoch)

    assert epoch() == STALE
    asyncio.run(thread._seek_epoch(1, {here: 5}))
    assert (epoch(), sought) == (1, [5])
    consumer._subscription.subscription.assignment = object()
    assert epoch() == STALE
    asyncio.run(thread._seek_epoch(2, {here: 7, TopicPartition("t", 1): 0}))  # looked up before the rebalance
    assert (epoch(), sought) == (STALE, [5])
    asyncio.run(thread._seek_epoch(3, {here: 7}))
    assert epoch() == 3


def test_no_call_waits_long_for_some_partitions_while_others_are_held_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Faust lets a partition in again without waking the call, which then waited for a second (seen at the
    end of a backlog)."""
    held, other = TopicPartition("t", 0), TopicPartition("t", 1)
    waits: list[float | None] = []

    async def fetched(*arguments: Any) -> dict[TopicPartition, list[Fetch]]:
        waits.append(arguments[3])
        return {}

    consumer = SimpleNamespace(assignment=lambda: {held, other})
    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", fetched)
    thread = ConsumerThread.__new__(ConsumerThread)
    paced: list[tuple[int, bool]] = []
    monkeypatch.setattr(thread, "_assignment", lambda: None)
    monkeypatch.setattr(thread, "_pace", lambda fetched, is_behind: paced.append((fetched, is_behind)))
    for active in ({held, other}, {other}):
        asyncio.run(thread._fetch_records(consumer, active, 1.0))
    assert waits == [1.0, HELD_BACK_SECONDS]
    assert paced == [(0, False)]  # that nothing came while some were held back says nothing of how much comes


@pytest.mark.parametrize(
    ("highs", "is_behind"), [({0: 8}, False), ({0: 9}, True), ({0: None}, False), ({}, False)]
)
def test_there_is_a_backlog_where_a_log_of_ours_goes_on_behind_what_came(
    highs: Mapping[int, int | None], is_behind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = TopicPartition("t", 0)

    async def fetched(*_: Any) -> dict[TopicPartition, list[Fetch]]:
        return {partition: [Fetch("t", 0, 3, 5), Fetch("t", 0, 5, 8)]}

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", fetched)
    mine = {TopicPartition("t", number) for number in highs}
    consumer = SimpleNamespace(assignment=lambda: mine, highwater=lambda tp: highs[tp.partition])
    thread = ConsumerThread.__new__(ConsumerThread)
    paced: list[tuple[int, bool]] = []
    monkeypatch.setattr(thread, "_assignment", lambda: None)
    monkeypatch.setattr(thread, "_pace", lambda fetched, is_behind: paced.append((fetched, is_behind)))
    asyncio.run(thread._fetch_records(consumer, {partition}, 1.0))
    assert paced == [(0, is_behind)]


def test_a_fetch_waits_long_only_where_little_comes_and_for_much_only_where_nothing_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetcher, now = SimpleNamespace(_fetch_max_wait_ms=0, _fetch_min_bytes=0), 1000.0
    monkeypatch.setattr("stream.transport.time.monotonic", lambda: now)
    thread = ConsumerThread.__new__(ConsumerThread)
    monkeypatch.setattr(thread, "_ensure_consumer", lambda: SimpleNamespace(_fetcher=fetcher))

    def waits(seconds: float, fetched: int, is_behind: bool = False) -> tuple[int, int]:
        nonlocal now
        now += seconds
        thread._pace(fetched, is_behind)
        return fetcher._fetch_max_wait_ms, fetcher._fetch_min_bytes

    assert waits(0.25, 1 << 20) == (FETCH_MS, FETCH_BYTES)  # 4 MiB a second
    assert waits(0.05, 1 << 20) == (BRISK_MS, BRISK_BYTES)  # 20
    assert waits(0.05, 1 << 20, is_behind=True) == (BRISK_MS, FETCH_BYTES)
    assert waits(0.05, 0) == (FETCH_MS, FETCH_BYTES)


@pytest.mark.parametrize("name", ["_fetch_records", "_create_worker_consumer", "call_thread"])
def test_a_moved_hook_of_faust_fails_loudly(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    transport.check_hooks()
    monkeypatch.setattr(driver.AIOKafkaConsumerThread, name, lambda self, other: None)
    with pytest.raises(RuntimeError, match=name):
        transport.check_hooks()


def test_a_moved_hook_of_aiokafka_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "PartitionRecords", lambda tp, records: None)
    with pytest.raises(RuntimeError, match="PartitionRecords"):
        fetches.install()


def records(offsets: Iterable[int]) -> pa.RecordBatch:
    return from_rows((offset, 0, None, None, b"v") for offset in offsets)


def test_holes_are_what_no_record_covers() -> None:
    fetch = Fetch("t", 0, 5, 20, records([7, 8, 12]))
    assert fetch.holes == [(5, 7), (9, 12), (13, 20)]
    assert Fetch("t", 0, 5, 8, records([5, 6, 7])).holes == []
    assert Fetch("t", 0, 5, 8).holes == [(5, 8)]


def test_what_lies_below_an_offset_can_be_dropped() -> None:
    fetch = Fetch("t", 0, 5, 20, records([7, 8, 12]))
    fetch.drop_below(8)
    assert (fetch.start, fetch.end, to_arrow([fetch], {})["offset"].to_pylist(), len(fetch)) == (
        8,
        20,
        [8, 12],
        2,
    )


def test_times_outside_the_calendar_become_its_ends() -> None:
    stamps = [None, -5, 0, 253_402_300_799_999, 253_402_300_800_000, 2**63 - 1]
    n = len(stamps)
    fetch = Fetch("t", 0, 0, n, from_rows((row, at, None, None, b"x") for row, at in enumerate(stamps)))
    times = to_arrow([fetch], {})["broker_time"].cast(pa.int64()).to_pylist()
    last = 253_402_300_799_999_000
    assert times == [0, 0, 0, last, last, last]


def test_the_marker_is_never_called() -> None:
    with pytest.raises(AssertionError):
        COLUMNS(b"")

"""The reconciler's process on Kafka: ticks, publishing, standing by, taking over; the engine is made up."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pyarrow as pa
import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient

from deploy.local_kafka import LocalKafka
from rules.reconciler.given import StepInput
from schemas.errors import SekishoError
from schemas.events import ACCESS, EVENTS
from schemas.times import parse_time
from sinks.lake import Lake
from sinks.reconciler_metrics import ReconcilerMetrics
from stream import reconciler as module
from stream.reconciler import ReconcilerProcess
from stream.reconciling import Reconciling
from stream.settings import Settings
from stream.state_folder import ActiveLock
from stream.ticks import tick
from stream.topics import FINDINGS, TICK, create_missing
from tests.fake_engine import FakeEngine
from tests.landings import land, landing
from tests.topics import delete_custody_topics

NAMES = [*EVENTS, FINDINGS, TICK]


@pytest.fixture
def topics(kafka: LocalKafka) -> Iterator[LocalKafka]:
    delete_custody_topics(kafka.bootstrap)
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as admin:
        create_missing(admin, NAMES, 1)
    yield kafka
    delete_custody_topics(kafka.bootstrap)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.5)
    monkeypatch.setattr(module, "TAKEOVER_SECONDS", 2.0)


class Running:
    """One reconciler in this process."""

    def __init__(self, kafka: LocalKafka, lake: Path, name: str, ticks: float = 0.2) -> None:
        self.engine = FakeEngine()
        self.lake = Lake.open(lake)
        self.reconciling = Reconciling(self.lake, self.engine)
        self.metrics = ReconcilerMetrics()
        self.snapshots = 0
        settings = Settings(brokers=kafka.bootstrap)
        # locks of their own: as on two machines
        lock = ActiveLock(lake.parent / name)
        self.process = ReconcilerProcess(
            settings, self.reconciling, self.metrics, lock, self._snapshot, ticks
        )
        self.is_ready = asyncio.Event()
        self.task = asyncio.create_task(self.process.run(self.is_ready.set))

    def _snapshot(self) -> None:
        self.snapshots += 1

    @property
    def is_active(self) -> bool:
        return self.metrics.registry.get_sample_value("custody_reconciler_active") == 1

    @property
    def steps(self) -> int:
        settled = Lake.open(self.lake.path).settled()
        return settled.step if settled else 0

    async def until(self, done: Any, seconds: float = 20.0) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not done():
            if self.task.done():
                self.task.result()
            assert asyncio.get_running_loop().time() < deadline, "not in time"
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self.process.stop()
        await asyncio.wait_for(self.task, 20)


@asynccontextmanager
async def running(kafka: LocalKafka, lake: Path, name: str, ticks: float = 0.2) -> AsyncIterator[Running]:
    one = Running(kafka, lake, name, ticks)
    try:
        yield one
    finally:
        one.task.cancel()
        await asyncio.wait({one.task}, timeout=20)


def read(kafka: LocalKafka, topic: str) -> list[Any]:
    """The values of all records of a topic's only partition."""
    place = TopicPartition(topic, 0)
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest")
    try:
        consumer.assign([place])
        end = consumer.end_offsets([place])[place]
        values: list[Any] = []
        while len(values) < end:
            for records in consumer.poll(1000).values():
                values += [json.loads(record.value) for record in records]
        return values
    finally:
        consumer.close()


def add(lake: Lake, start: int, end: int) -> None:
    land(lake, landing(ACCESS, {0: range(start, end)}))


def test_a_tick_says_the_time() -> None:
    at = datetime(2026, 3, 1, 9, 0, 0, 5, tzinfo=UTC)
    assert tick(at) == b'{"at":"2026-03-01T09:00:00.000005Z"}'


def test_one_settles_ticks_publishes_and_stops(topics: LocalKafka, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(topics, tmp_path / "lake", "one") as one:
            await one.until(one.is_ready.is_set)
            add(one.lake, 0, 10)
            await one.until(lambda: one.engine.events > 0)
            before = one.steps
            await one.until(lambda: one.steps > before + 1)  # signs of life
            add(one.lake, 10, 20)
            await one.stop()
            assert one.engine.events == sum(offset % 7 != 3 for offset in range(20)), "what landed is settled"
            assert not one.is_active

    asyncio.run(run())
    told = [row["events"] for row in read(topics, FINDINGS)]
    assert told[0] == 0 or told[0] == 9
    assert told == sorted(told)
    assert told[-1] == 17
    ticks = [parse_time(value["at"]) for value in read(topics, TICK)]
    assert len(ticks) > 2
    assert None not in ticks
    now = (datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1)
    assert abs(now - float(ticks[-1] or 0)) < 60e6


def test_a_standby_follows_and_takes_over(topics: LocalKafka, tmp_path: Path) -> None:
    async def run() -> None:
        lake = tmp_path / "lake"
        async with running(topics, lake, "one") as one:
            await one.until(lambda: one.is_active and one.steps > 0)
            async with running(topics, lake, "two") as two:
                await two.until(two.is_ready.is_set)
                add(one.lake, 0, 10)
                await one.until(lambda: one.engine.events == 9)
                await two.until(lambda: two.engine.events == 9)
                await asyncio.sleep(2.5)
                # their locks tell them nothing: the second was active at most until it lost a race
                assert one.is_active != two.is_active
                active, standby = (one, two) if one.is_active else (two, one)
                active.task.cancel()
                await asyncio.wait({active.task})
                add(standby.lake, 10, 20)
                await standby.until(lambda: standby.is_active and standby.engine.events == 17)
                settled = list(Lake.open(lake).settlements(0))
                assert [step.settled.step for step in settled] == list(range(1, len(settled) + 1))
                await standby.stop()

    asyncio.run(run())


def test_no_ticks_are_sent_where_none_are_wanted(topics: LocalKafka, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(topics, tmp_path / "lake", "one", ticks=0) as one:
            await one.until(lambda: one.steps > 2)
            await one.stop()

    asyncio.run(run())
    assert read(topics, TICK) == []


def test_a_failing_engine_ends_the_process(topics: LocalKafka, tmp_path: Path) -> None:
    class Fails(FakeEngine):
        def take(self, given: StepInput) -> pa.Table:
            super().take(given)
            raise SekishoError("cannot go on")

    async def run() -> None:
        async with running(topics, tmp_path / "lake", "one") as one:
            one.reconciling._engine = Fails()
            with pytest.raises(SekishoError, match="cannot go on"):
                await asyncio.wait_for(one.task, 20)

    asyncio.run(run())


def test_snapshots_are_taken(topics: LocalKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SNAPSHOT_SECONDS", 0.3)

    async def run() -> None:
        async with running(topics, tmp_path / "lake", "one") as one:
            await one.until(lambda: one.snapshots > 1)
            await one.stop()

    asyncio.run(run())


def test_a_task_that_is_cancelled_by_others_ends_the_process() -> None:
    async def cut_off() -> None:
        raise asyncio.CancelledError

    async def run() -> None:
        process = ReconcilerProcess(Settings(), Mock(), ReconcilerMetrics(), Mock(), lambda: None, 0)
        process._task(cut_off())
        with pytest.raises(SekishoError, match="broke off"):
            await asyncio.wait_for(process._end, 5)
        await process._close()

    asyncio.run(run())

"""What a worker does without a broker: lets go of what another has landed, ends when a part of it does."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition

from rules.judge import Judge
from schemas.errors import SekishoError
from schemas.events import ACCESS
from schemas.reference import PARTY
from sinks.lake import Lake
from sinks.metrics import Metrics
from stream.fetches import Fetch, Unreadable
from stream.judging import Decoded, Judged, Judging
from stream.landing import Lander
from stream.record_batches import from_rows
from stream.settings import Settings
from stream.worker import Worker
from tests.landings import land, landing, places, scan


class Publisher:
    """Takes everything."""

    def put(self, messages: object) -> None:
        pass

    async def flush(self) -> None:
        pass


def fetch(partition: int, start: int, end: int, epoch: int = 1) -> Fetch:
    records = from_rows((offset, 0, None, None, b"{}") for offset in range(start, end))
    return Fetch("custody.access", partition, start, end, records, epoch)


def with_worker(folder: Path, act: Callable[[Worker], Coroutine[Any, Any, None]]) -> None:
    """Lets `act` play a worker that has been assigned two partitions that nobody has landed."""

    async def run() -> None:
        settings, metrics = Settings(lake=folder, metrics="off"), Metrics()
        worker = Worker(
            settings, Judging(Judge([]), {}), Lander(Lake.open(folder), settings, metrics), metrics
        )
        worker._publisher = Publisher()  # type: ignore[assignment]
        both = [TopicPartition("custody.access", number) for number in (0, 1)]
        worker.begin(1, await worker.positions(dict.fromkeys(both, 0), dict.fromkeys(both, 500)))
        await act(worker)

    asyncio.run(run())


def landed(folder: Path) -> list[tuple[str, int, int]]:
    return places(scan(folder, "raw"))


async def put(worker: Worker, *fetches: Fetch) -> None:
    for each in fetches:
        await worker._intake.put(each)


def test_nothing_lands_on_what_a_flush_has_lost(tmp_path: Path) -> None:
    """A worker that was frozen beyond its session: partition 0 has another owner, who has landed it."""

    async def act(worker: Worker) -> None:
        await put(worker, fetch(0, 0, 100), fetch(1, 0, 100))
        land(Lake.open(tmp_path), landing(ACCESS, {0: range(100)}))
        await worker._on_revoked()
        await put(worker, fetch(1, 100, 200))  # was on its way to the agent already
        await worker._flush()

    with_worker(tmp_path, act)
    assert Lake.open(tmp_path).offsets() == {("custody.access", 0): 100}
    assert landed(tmp_path) == [("custody.access", 0, offset) for offset in range(100)]


@pytest.mark.parametrize("ends", [False, True])
def test_nothing_lands_on_what_a_seek_has_dropped(tmp_path: Path, ends: bool) -> None:
    """Between dropping and the new epoch an agent may hand over more; a worker that ends gets no new one."""

    async def act(worker: Worker) -> None:
        await put(worker, fetch(0, 0, 100))
        if ends:
            worker.stop()
        async with worker.seeking():
            await put(worker, fetch(0, 100, 200))
            worker.begin(2, {})
        await put(worker, fetch(0, 200, 300))
        await put(worker, fetch(0, 0, 50, epoch=2))
        await worker._finish()

    with_worker(tmp_path, act)
    assert landed(tmp_path) == [("custody.access", 0, offset) for offset in range(0 if ends else 50)]


def test_nothing_is_judged_or_lands_behind_a_batch_that_cannot_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[Decoded] = []

    def refuse(batch: Decoded) -> Judged:
        judged.append(batch)
        raise SekishoError("rule flag.access.own cannot be judged")

    async def act(worker: Worker) -> None:
        monkeypatch.setattr(worker._judging, "judge", refuse)
        await put(worker, fetch(0, 0, 100))
        await worker._begin()
        await put(worker, fetch(0, 100, 200))
        with pytest.raises(SekishoError, match="cannot be judged"):
            await worker._begin()

    with_worker(tmp_path, act)
    assert len(judged) == 1
    assert landed(tmp_path) == []


def test_a_batch_is_judged_while_the_one_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(worker: Worker) -> None:
        written, judged = threading.Event(), asyncio.Event()
        append, judge = worker._lander.append, worker._judge

        def slow(batch: Judged) -> None:
            assert written.wait(10)
            append(batch)

        async def noted(batch: Decoded) -> Judged:
            found = await judge(batch)
            if len(worker._passing) == 2:
                judged.set()
            return found

        monkeypatch.setattr(worker._lander, "append", slow)
        monkeypatch.setattr(worker, "_judge", noted)
        for start in (0, 100):
            await put(worker, fetch(0, start, start + 100))
            await worker._begin()
        await asyncio.wait_for(judged.wait(), 10)
        assert worker._lander.rows_landed == 0
        written.set()
        await worker._flush()

    with_worker(tmp_path, act)
    assert landed(tmp_path) == [("custody.access", 0, offset) for offset in range(200)]


def test_a_part_that_is_cancelled_ends_the_worker(tmp_path: Path) -> None:
    async def leaks() -> None:
        raise asyncio.CancelledError

    async def act(worker: Worker) -> None:
        await asyncio.wait({worker._task(leaks())})
        with pytest.raises(SekishoError, match="cancelled; start the worker again"):
            await worker._end

    with_worker(tmp_path, act)


def test_a_part_that_is_cancelled_at_the_end_is_meant_to_be(tmp_path: Path) -> None:
    async def act(worker: Worker) -> None:
        task = worker._task(asyncio.sleep(60))
        await asyncio.sleep(0)
        worker.stop()
        task.cancel()
        await asyncio.wait({task})
        await worker._end  # and nothing is raised

    with_worker(tmp_path, act)


def test_what_came_before_a_batch_that_cannot_be_read_lands(tmp_path: Path) -> None:
    """Before a person gives up everything from the lake's offset to behind that batch."""

    async def act(worker: Worker) -> None:
        await put(worker, fetch(0, 0, 100))
        worker.failed(Unreadable("custody.access:0: the record batch at offset 100 cannot be unpacked"))
        with pytest.raises(Unreadable):
            await worker._ended()

    with_worker(tmp_path, act)
    assert Lake.open(tmp_path).offsets() == {("custody.access", 0): 100}


def versions(start: int, end: int, epoch: int = 1) -> Fetch:
    """One version of one party, again and again."""
    value = b'{"party_id":"P","version":1,"valid_from":"2026-01-01T00:00:00Z","status":"verified"}'
    rows = ((offset, 0, b"P", None, value) for offset in range(start, end))
    return Fetch("custody.party", 0, start, end, from_rows(rows), epoch)


async def take_over(worker: Worker, folder: Path) -> None:
    """Gives it a partition of which another worker has landed 0 to 4, and the record after that."""
    place = TopicPartition("custody.party", 0)
    land(Lake.open(folder), landing(PARTY, {0: range(5)}))
    worker.begin(2, await worker.positions({place: 0}, {place: 9}))
    await put(worker, versions(5, 6, epoch=2))


def test_a_partition_taken_over_waits_for_what_was_landed_before(tmp_path: Path) -> None:
    """Which versions are new is decided by those before them."""

    async def act(worker: Worker) -> None:
        await take_over(worker, tmp_path)
        flush = asyncio.create_task(worker._flush())
        await asyncio.sleep(0.2)
        assert not flush.done()
        await worker._learn([versions(0, 5)])
        await flush

    with_worker(tmp_path, act)
    raw, party = (sorted(scan(tmp_path, table)["offset"].to_pylist()) for table in ("raw", "party"))
    assert raw == [0, 1, 2, 3, 4, 5]
    assert 5 not in party, "a duplicate of what was landed before"


def test_it_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.worker.FOLLOW_LIMIT", 0.1)

    async def act(worker: Worker) -> None:
        await take_over(worker, tmp_path)
        with pytest.raises(SekishoError, match="cannot be followed; start the worker again"):
            await worker._flush()

    with_worker(tmp_path, act)
    assert Lake.open(tmp_path).offsets() == {("custody.party", 0): 5}

"""What a flush of findings waits for, with a producer that answers when it is told to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

import orjson
import pytest
from aiokafka.errors import (
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    TopicAuthorizationFailedError,
)

from schemas.errors import SekishoError
from sinks.findings import smallest
from stream import publish
from stream.publish import Publisher
from stream.settings import Settings

Answer = asyncio.Future[None]


class Batch:
    """Holds as many messages as `room` says."""

    room = 100

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def append(self, key: bytes, value: bytes, timestamp: None) -> object | None:
        if len(self.values) == self.room:
            return None
        self.values.append(value)
        return object()


class Producer:
    """Keeps what it is sent; nothing is acknowledged or refused unless a test does it."""

    create_batch = Batch

    def __init__(self) -> None:
        self.sent: list[tuple[list[bytes], Answer]] = []
        self.partitions: list[int] = []

    async def partitions_for(self, topic: str) -> set[int]:
        return {0, 1}

    async def send_batch(self, batch: Batch, topic: str, partition: int) -> Answer:
        self.sent.append((batch.values, asyncio.get_running_loop().create_future()))
        self.partitions.append(partition)
        return self.sent[-1][1]


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[Publisher, Producer]]:
    publisher, producer = Publisher(Settings()), Producer()
    publisher._producer = producer
    task = asyncio.create_task(publisher.run())
    try:
        yield publisher, producer
    finally:
        task.cancel()


def messages(values: Iterable[str]) -> list[tuple[bytes, bytes]]:
    return [(value.encode(), value.encode()) for value in values]


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_flush_waits_for_what_was_put_before_it_and_no_longer() -> None:
    async def run() -> None:
        async with running() as (publisher, producer):
            publisher.put(messages("a"))
            flushed = asyncio.create_task(publisher.flush())
            await settle()
            publisher.put(messages("b"))
            assert not flushed.done()
            producer.sent[0][1].set_result(None)
            await settle()
            assert flushed.done() and [values for values, _ in producer.sent] == [[b"a"], [b"b"]]

    asyncio.run(run())


def test_a_flush_waits_for_what_was_refused_whatever_else_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "RETRY_SECONDS", 0.0)

    async def run() -> None:
        async with running() as (publisher, producer):
            publisher.put(messages("a"))
            flushed = asyncio.create_task(publisher.flush())
            publisher.put(messages("d"))
            await settle()
            assert producer.partitions == [0, 1]
            (_, refused), (_, taken) = producer.sent
            taken.set_result(None)
            refused.set_exception(NotLeaderForPartitionError())
            await settle()
            assert not flushed.done() and [values for values, _ in producer.sent] == [[b"a"], [b"d"], [b"a"]]
            producer.sent[2][1].set_result(None)
            await settle()
            assert flushed.done()

    asyncio.run(run())


def test_nothing_put_is_nothing_to_wait_for() -> None:
    async def run() -> None:
        async with running() as (publisher, _):
            await publisher.flush()

    asyncio.run(run())


def test_what_does_not_fit_into_a_batch_goes_into_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Batch, "room", 2)

    async def run() -> None:
        async with running() as (publisher, producer):
            publisher.put(messages("aabce"))
            await settle()
            assert [values for values, _ in producer.sent] == [[b"a", b"a"], [b"b", b"c"], [b"e"]]
            assert producer.partitions == [0, 0, 0]

    asyncio.run(run())


def test_an_error_that_will_not_pass_is_said() -> None:
    async def run() -> None:
        publisher, producer = Publisher(Settings()), Producer()
        publisher._producer = producer
        publisher.put(messages("a"))
        task = asyncio.create_task(publisher.run())
        await settle()
        producer.sent[0][1].set_exception(TopicAuthorizationFailedError())
        with pytest.raises(SekishoError, match="refuses findings"):
            await task

    asyncio.run(run())


def test_a_batch_that_is_too_large_is_sent_in_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "RETRY_SECONDS", 0.0)

    async def run() -> None:
        async with running() as (publisher, producer):
            publisher.put(messages("aabc"))
            await settle()
            producer.sent[0][1].set_exception(MessageSizeTooLargeError())
            await settle()
            assert [values for values, _ in producer.sent[1:]] == [[b"a", b"a"], [b"b", b"c"]]

    asyncio.run(run())


def test_a_message_that_is_too_large_is_shortened_and_at_last_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publish, "RETRY_SECONDS", 0.0)
    large = orjson.dumps({"subject": "s" * 999, "evidence": [1], "known": []})

    async def run() -> None:
        async with running() as (publisher, producer):
            publisher.put([(b"a", large)])
            flushed = asyncio.create_task(publisher.flush())
            await settle()
            producer.sent[0][1].set_exception(MessageSizeTooLargeError())
            await settle()
            assert producer.sent[1][0] == [smallest(large)] and len(smallest(large)) < 200
            producer.sent[1][1].set_exception(MessageSizeTooLargeError())
            await settle()
            assert flushed.done() and len(producer.sent) == 2

    asyncio.run(run())
    assert [record.getMessage() for record in caplog.records if record.name == "stream.publish"] == [
        "a finding is too large for custody.findings and is published shortened; allow it larger messages",
        "a finding is too large for custody.findings and is not published; allow it larger messages",
    ]

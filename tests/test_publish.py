"""What a flush of findings waits for, with a producer that answers when it is told to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

import pytest
from aiokafka.errors import NotLeaderForPartitionError

from stream import publish
from stream.publish import Publisher
from stream.settings import Settings

Answer = asyncio.Future[None]


class Producer:
    """Keeps what it is sent; nothing is acknowledged or refused unless a test does it."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Answer]] = []

    async def send(self, topic: str, value: bytes, key: bytes) -> Answer:
        self.sent.append((value, asyncio.get_running_loop().create_future()))
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
    return [(b"key", value.encode()) for value in values]


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
            assert flushed.done() and [value for value, _ in producer.sent] == [b"a", b"b"]

    asyncio.run(run())


def test_a_flush_waits_for_what_was_refused_whatever_else_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "RETRY_SECONDS", 0.0)

    async def run() -> None:
        async with running() as (publisher, producer):
            publisher.put(messages("a"))
            flushed = asyncio.create_task(publisher.flush())
            publisher.put(messages("b"))
            await settle()
            (_, refused), (_, taken) = producer.sent
            taken.set_result(None)
            refused.set_exception(NotLeaderForPartitionError())
            await settle()
            assert not flushed.done() and [value for value, _ in producer.sent] == [b"a", b"b", b"a"]
            producer.sent[2][1].set_result(None)
            await settle()
            assert flushed.done()

    asyncio.run(run())


def test_nothing_put_is_nothing_to_wait_for() -> None:
    async def run() -> None:
        async with running() as (publisher, _):
            await publisher.flush()

    asyncio.run(run())

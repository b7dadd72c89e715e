"""Publishing findings: sent as soon as they fire, acknowledged before the commit that they belong to."""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from schemas.errors import SekishoError
from sinks.findings import TOPIC, Message, smallest
from stream.partitioner import partitions_of
from stream.settings import Settings

_log = logging.getLogger(__name__)

RETRY_SECONDS = 0.5
MOST_IN_FLIGHT = 1000
BATCH_BYTES = 1 << 17


class Publisher:
    """A producer with a queue of its own, so that judging does not wait for the findings topic.

    A message that is too large for the topic is sent in its smallest form, and left out if that is too large.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: deque[Message] = deque()
        self._filled = asyncio.Event()
        self._put = 0  # messages so far
        self._taken = 0  # how many of the first of them have been acknowledged
        self._progress = asyncio.Event()
        self._batch_bytes = BATCH_BYTES
        self._producer = AIOKafkaProducer(**settings.aiokafka(), acks="all", max_batch_size=BATCH_BYTES)

    async def start(self) -> None:
        await connected(self._producer.start, self._settings)

    async def stop(self) -> None:
        await self._producer.stop()

    def put(self, messages: Iterable[Message]) -> None:
        """Queue messages for sending."""
        before = len(self._queue)
        self._queue.extend(messages)
        self._put += len(self._queue) - before
        if self._queue:
            self._filled.set()

    async def flush(self) -> None:
        """Return when all that was put before has been acknowledged by the broker.

        Raises SekishoError when the topic took nothing for as long as a broker may be away.
        """
        limit, wanted = self._settings.broker_away_seconds, self._put
        try:
            async with asyncio.timeout(limit):
                while self._taken < wanted:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            raise SekishoError(
                f"{TOPIC} has taken no findings for {limit:g} s; check the topic with sekisho doctor"
            ) from None

    async def run(self) -> None:
        """Send what is queued, for ever; a message that the broker does not take is sent again."""
        while True:
            await self._filled.wait()
            messages = [self._queue.popleft() for _ in range(min(len(self._queue), MOST_IN_FLIGHT))]
            messages = await self._send(messages)
            self._queue.extendleft(reversed(messages))
            if messages:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._taken = self._put - len(self._queue)
            self._progress.set()
            if not self._queue:
                self._filled.clear()

    async def _send(self, messages: list[Message]) -> list[Message]:
        """Send, and return what was not taken."""
        pending: list[tuple[list[Message], asyncio.Future[Any]]] = []
        try:
            partitions = sorted(await self._producer.partitions_for(TOPIC))
            for partition, mine in _by_partition(messages, partitions).items():
                for batch, those in self._batches(mine):
                    sent = await self._producer.send_batch(batch, TOPIC, partition=partition)
                    pending.append((those, sent))
        except KafkaError:
            return messages
        results = await asyncio.gather(*(sent for _, sent in pending), return_exceptions=True)
        refused = []
        for (those, _), error in zip(pending, results, strict=True):
            if isinstance(error, MessageSizeTooLargeError | RecordListTooLargeError):
                refused += self._smaller(those)
            elif isinstance(error, KafkaError) and error.retriable:
                refused += those
            elif isinstance(error, BaseException):
                raise SekishoError(f"{TOPIC} refuses findings: {error}; see sekisho doctor") from error
        return refused

    def _smaller(self, those: list[Message]) -> list[Message]:
        """What to send instead of a batch that is too large for the topic."""
        if len(those) > 1:
            self._batch_bytes = min(self._batch_bytes, _size(those) // 2)
            return those
        key, value = those[0]
        short = smallest(value)
        fate = "not published" if short == value else "published shortened"
        _log.warning("a finding is too large for %s and is %s; allow it larger messages", TOPIC, fate)
        return [] if short == value else [(key, short)]

    def _batches(self, messages: Iterable[Message]) -> Iterator[tuple[Any, list[Message]]]:
        """Record batches and what is in each: a fifth of the time that sending one by one takes."""
        batch, those, size = self._producer.create_batch(), list[Message](), 0
        for key, value in messages:
            size += len(key) + len(value)
            is_full = those and size > self._batch_bytes
            if is_full or batch.append(key=key, value=value, timestamp=None) is None:
                yield batch, those
                batch, those, size = self._producer.create_batch(), [], len(key) + len(value)
                batch.append(key=key, value=value, timestamp=None)
            those.append((key, value))
        yield batch, those

    async def watch(self) -> None:
        """Return never while brokers answer; raises SekishoError when none has for too long."""
        limit = self._settings.broker_away_seconds
        answered = time.monotonic()
        while True:
            pause = min(2.0, limit / 5)
            try:
                await asyncio.wait_for(self._producer.client.fetch_all_metadata(), max(pause, 1.0))
                answered = time.monotonic()
            except (KafkaError, OSError, TimeoutError):
                if time.monotonic() - answered > limit:
                    raise away(self._settings) from None
            await asyncio.sleep(pause)


def _size(messages: Iterable[Message]) -> int:
    return sum(len(key) + len(value) for key, value in messages)


def _by_partition(messages: Sequence[Message], partitions: list[int]) -> dict[int, list[Message]]:
    """The messages by the partition of their key, each in their order."""
    found = defaultdict(list)
    places = partitions_of([key for key, _ in messages], len(partitions))
    for place, message in zip(places, messages, strict=True):
        found[partitions[place]].append(message)
    return found


async def connected(start: Callable[[], Awaitable[None]], settings: Settings) -> None:
    """Start a client, trying again while no broker answers; SekishoError when none does for too long."""
    began = time.monotonic()
    while True:
        try:
            await start()
            return
        except KafkaConnectionError:
            if time.monotonic() - began > settings.broker_away_seconds:
                raise away(settings) from None
            await asyncio.sleep(RETRY_SECONDS)


def away(settings: Settings) -> SekishoError:
    """What is said when no broker answers."""
    return SekishoError(
        f"no broker of {settings.brokers} has answered for {settings.broker_away_seconds:g} s; "
        "start it, or correct --brokers; nothing that was read is lost"
    )

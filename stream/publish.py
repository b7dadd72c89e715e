"""Publishing findings: sent as soon as they fire, acknowledged before the commit that they belong to."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError

from schemas.errors import SekishoError
from sinks.findings import TOPIC
from stream.settings import Settings

RETRY_SECONDS = 0.5
MOST_IN_FLIGHT = 1000


class Publisher:
    """A producer with a queue of its own, so that judging does not wait for the findings topic."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._filled = asyncio.Event()
        self._put = 0  # messages so far
        self._taken = 0  # how many of the first of them have been acknowledged
        self._progress = asyncio.Event()
        self._producer = AIOKafkaProducer(
            **settings.aiokafka(), acks="all", linger_ms=5, compression_type="gzip"
        )

    async def start(self) -> None:
        await connected(self._producer.start, self._settings)

    async def stop(self) -> None:
        await self._producer.stop()

    def put(self, messages: Iterable[tuple[bytes, bytes]]) -> None:
        """Queue messages (key, value) for sending."""
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

    async def _send(self, messages: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Send, and return what was not taken."""
        try:
            pending = [await self._producer.send(TOPIC, value, key) for key, value in messages]
        except KafkaError:
            return messages
        results = await asyncio.gather(*pending, return_exceptions=True)
        failed = [error for error in results if isinstance(error, BaseException)]
        for error in failed:
            if not (isinstance(error, KafkaError) and error.retriable):
                raise SekishoError(f"{TOPIC} refuses findings: {error}; see sekisho doctor") from error
        return [
            message for message, sent in zip(messages, results, strict=True) if isinstance(sent, KafkaError)
        ]

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

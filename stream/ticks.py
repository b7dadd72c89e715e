"""Ticks on `custody.tick`: the time, every few seconds, so that silence is noticed where nothing arrives."""

import asyncio
import contextlib
from datetime import UTC, datetime

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from schemas.ticks import TICK
from stream.publish import connected
from stream.settings import Settings


class Ticker:
    """Sends ticks while `active` is set. One that the brokers do not take is left out."""

    def __init__(self, settings: Settings, seconds: float) -> None:
        self.active = asyncio.Event()
        self._settings = settings
        self._seconds = seconds
        self._producer = AIOKafkaProducer(
            **settings.aiokafka(), acks="all", request_timeout_ms=max(1000, int(seconds * 1000))
        )

    async def start(self) -> None:
        await connected(self._producer.start, self._settings)

    async def stop(self) -> None:
        await self._producer.stop()

    async def run(self) -> None:
        """Send ticks for ever; the first at once."""
        while True:
            await self.active.wait()
            with contextlib.suppress(KafkaError):
                await self._producer.send_and_wait(TICK.topic, tick(datetime.now(UTC)))
            await asyncio.sleep(self._seconds)


def tick(at: datetime) -> bytes:
    """The record that says `at` (with a zone)."""
    assert at.tzinfo is not None, "a tick without a zone"
    return b'{"at":"%s"}' % f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}".encode()

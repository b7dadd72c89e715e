"""Shipping prepared records to Kafka fast: whole record batches to chosen partitions."""

import asyncio
import time
from collections.abc import Iterable
from typing import NamedTuple

from aiokafka import AIOKafkaProducer

PACED = 500  # records sent at a time when there is a rate to keep


class Shipped(NamedTuple):
    """One record on its way; `at` is its CreateTime in ms, which a topic may be set to replace."""

    topic: str
    partition: int
    value: bytes | None
    key: bytes | None = None
    at: int | None = None


async def ship(bootstrap: str, records: Iterable[Shipped], rate: float | None = None) -> int:
    """Send the records, each partition's in order, and return their number once all are acknowledged.

    `rate` paces them, in records a second. A broker that comes back costs none and repeats none.
    """
    count = 0
    async with AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        max_request_size=4 << 20,
        enable_idempotence=True,
        request_timeout_ms=120_000,
    ) as producer:
        batches: dict[tuple[str, int], object] = {}
        pending: dict[tuple[str, int], object] = {}

        async def send(place: tuple[str, int]) -> None:
            batch = batches.pop(place)
            if place in pending:
                await pending.pop(place)  # type: ignore[misc]
            pending[place] = await producer.send_batch(batch, place[0], partition=place[1])

        begin = time.monotonic()
        for record in records:
            count += 1
            if rate and count % PACED == 0:
                for place in list(batches):
                    await send(place)
                await asyncio.sleep(max(0.0, begin + count / rate - time.monotonic()))
            place = (record.topic, record.partition)
            while True:
                batch = batches.setdefault(place, producer.create_batch())
                if batch.append(key=record.key, value=record.value, timestamp=record.at):  # type: ignore[attr-defined]
                    break
                await send(place)
        for place in list(batches):
            await send(place)
        await asyncio.gather(*pending.values())  # type: ignore[call-overload]
    return count

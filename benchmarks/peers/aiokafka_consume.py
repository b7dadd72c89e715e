"""The limit of aiokafka: `getmany` in a loop that only counts.

python -m benchmarks.peers.aiokafka_consume
"""

import asyncio

from aiokafka import AIOKafkaConsumer

from benchmarks.peers.meter import Meter


async def main() -> None:
    meter = Meter()
    consumer = AIOKafkaConsumer(
        *meter.topics.values(),
        bootstrap_servers=meter.brokers,
        group_id=f"bench-{meter.folder.name}",
        auto_offset_reset="earliest",
    )
    await consumer.start()
    while True:
        records = await consumer.getmany(timeout_ms=100)
        if records and meter.count(sum(map(len, records.values()))):
            meter.report()


if __name__ == "__main__":
    asyncio.run(main())

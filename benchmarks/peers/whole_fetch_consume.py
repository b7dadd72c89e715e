"""The limit of this project's own transport: Faust agents that are handed whole fetches and only count.

python -m benchmarks.peers.whole_fetch_consume
"""

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import AsyncIterable, AsyncIterator, Mapping

from aiokafka import TopicPartition

from benchmarks.peers.meter import Meter
from stream.fetches import Fetch
from stream.transport import fetch_topic, new_app


class FromTheStart:
    """Owns the positions of an app that keeps none: every partition is read from its start."""

    @contextlib.asynccontextmanager
    async def seeking(self) -> AsyncIterator[None]:
        yield

    async def positions(
        self, first: Mapping[TopicPartition, int], end: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, int]:
        return first

    def begin(self, epoch: int, positions: Mapping[TopicPartition, int]) -> None:
        self.epoch = epoch

    def failed(self, error: BaseException) -> None:
        print(error, file=sys.stderr)
        os._exit(1)


async def main() -> None:
    meter, owner = Meter(), FromTheStart()
    gc.set_threshold(50_000, 20, 100)  # as the worker does
    app = new_app(owner, f"bench-{meter.folder.name}", [meter.brokers])

    async def count(stream: AsyncIterable[list[Fetch]]) -> None:
        async for fetches in stream:
            while fetches:
                taken = fetches.pop()
                if taken.epoch == owner.epoch and len(taken) and meter.count(len(taken)):
                    meter.report()

    for name, topic in meter.topics.items():
        app.agent(fetch_topic(app, topic), name=name)(count)
    await app.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())

"""Following the reference topics: every worker reads all their partitions, whoever lands them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.errors import SekishoError
from stream.fetches import COLUMNS, Fetch, install
from stream.positions import Partition, starts
from stream.publish import connected
from stream.settings import Settings

LEARN_SECONDS = 1.0  # at least between two changes of what is known: each ends a transaction with events
PARTITIONS_SECONDS = 30.0  # how often to look for new partitions
POLL_MS = 200

Learn = Callable[[Sequence[Fetch]], Awaitable[None]]


class Follower:
    """A consumer without a group over all partitions of some topics. `learn` is given what is new."""

    def __init__(self, settings: Settings, topics: Set[str], learn: Learn) -> None:
        install()
        self._settings = settings
        self._topics = topics
        self._learn = learn
        self._next: dict[TopicPartition, int] = {}
        self._consumer = AIOKafkaConsumer(
            **settings.aiokafka(),
            key_deserializer=COLUMNS,
            isolation_level="read_committed",
            auto_offset_reset="none",
            enable_auto_commit=False,
            max_poll_records=None,
        )

    async def start(self, landed: Mapping[Partition, int]) -> None:
        """Connect and read up to the ends that the topics have now; `landed` are the lake's offsets.

        Raises SekishoError when the lake and a topic do not fit, KafkaError when the brokers refuse.
        """
        await connected(self._consumer.start, self._settings)
        for topic in self._topics:
            await self._consumer._client.add_topic(topic)
        ends = await self._assign(landed)
        while any(self._next[each] < end for each, end in ends.items()):
            await self._learn(await self._fetch())

    async def run(self) -> None:
        """Follow for ever; what comes is learned at most once in LEARN_SECONDS, the first of it at once."""
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while True:
            fetches = await self._fetch()
            if fetches:
                began = loop.time()
                await self._learn(fetches)
                await asyncio.sleep(max(0.0, began + LEARN_SECONDS - loop.time()))
            if loop.time() - looked > PARTITIONS_SECONDS:
                looked = loop.time()
                if self._partitions() != self._consumer.assignment():
                    await self._assign({(each.topic, each.partition): at for each, at in self._next.items()})

    async def stop(self) -> None:
        await self._consumer.stop()

    def _partitions(self) -> set[TopicPartition]:
        return {
            TopicPartition(topic, number)
            for topic in self._topics
            for number in self._consumer.partitions_for_topic(topic) or ()
        }

    async def _assign(self, landed: Mapping[Partition, int]) -> dict[TopicPartition, int]:
        """Read every partition from where the lake, or this follower, has got to; returns the log's ends."""
        partitions = self._partitions()
        first = await self._consumer.beginning_offsets(list(partitions))
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(list(partitions))
        places = starts(landed, _plain(first), _plain(ends), self._settings.accepted_holes)
        self._consumer.assign(list(partitions))
        for (topic, number), place in places.items():
            each = TopicPartition(topic, number)
            self._consumer.seek(each, place.read)
            self._next[each] = place.read
        return ends

    async def _fetch(self) -> list[Fetch]:
        try:
            by_partition = await self._consumer.getmany(timeout_ms=POLL_MS)
        except KafkaError as error:
            raise SekishoError(f"reference topics cannot be followed: {error}; see sekisho doctor") from error
        fetches = [fetch for fetches in by_partition.values() for fetch in fetches]
        for fetch in fetches:
            self._next[TopicPartition(fetch.topic, fetch.partition)] = fetch.end
        return fetches


def _plain(offsets: Mapping[TopicPartition, int]) -> dict[Partition, int]:
    return {(each.topic, each.partition): offset for each, offset in offsets.items()}

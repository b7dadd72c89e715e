"""Where the event topics end, as the brokers tell."""

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.events import EVENTS
from stream.positions import Partition
from stream.publish import connected
from stream.settings import Settings


class Ends:
    """A consumer without a group that is only asked for end offsets (of what is committed)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer = AIOKafkaConsumer(
            **settings.aiokafka(),
            isolation_level="read_committed",
            enable_auto_commit=False,
            metadata_max_age_ms=30_000,  # how soon a new partition is seen
        )

    async def start(self) -> None:
        await connected(self._consumer.start, self._settings)
        for topic in EVENTS:
            await self._consumer._client.add_topic(topic)

    async def stop(self) -> None:
        await self._consumer.stop()

    async def ask(self) -> dict[Partition, int] | None:
        """The next offset of every partition of the event topics; None while the brokers do not answer."""
        try:
            places = [
                TopicPartition(topic, number)
                for topic in EVENTS
                for number in self._consumer.partitions_for_topic(topic) or ()
            ]
            ends = await self._consumer.end_offsets(places)
        except KafkaError:
            return None
        return {(place.topic, place.partition): end for place, end in ends.items()}

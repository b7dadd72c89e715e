"""Simulated messages to Kafka."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.partitioner.default import murmur2

from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.reference import REFERENCES
from stream.produce import check_topic
from stream.simulation.clock import iso
from stream.simulation.files import STEP, Progress
from stream.simulation.messages import Message
from stream.topics import CREATE_TIME, TICK, TIMESTAMP_TYPE, create_missing

_PENDING = 50_000  # messages between two flushes: kafka-python buffers without bound


def prepare(connection: Mapping[str, Any], partitions: int) -> None:
    """Creates the topics that are missing, so that they keep simulated time and old records.

    Raises:
        SekishoError: no broker answers, or an existing topic stamps records itself.
    """
    topics = [*EVENTS, *REFERENCES, TICK]
    kept = {TIMESTAMP_TYPE: CREATE_TIME, "retention.ms": "-1"}
    try:
        with KafkaAdminClient(**connection) as admin:
            created = create_missing(admin, topics, partitions, overrides=kept)
            for topic in topics:
                if topic not in created:
                    check_topic(admin, topic, event_time=True)
    except KafkaError as error:
        servers = ",".join(connection["bootstrap_servers"])
        raise SekishoError(f"no broker answers at {servers}: {error}; check --brokers") from error


def ship(
    messages: Iterable[Message],
    connection: Mapping[str, Any],
    live: bool = False,
    progress: Progress = lambda _: None,
) -> dict[tuple[str, int], int]:
    """Sends the messages with their arrival as CreateTime; returns each partition's next offset.

    With `live` each waits until the wall clock reaches its arrival.

    Raises:
        SekishoError: a message was refused; the text says how many had been sent.
    """
    producer: Any = KafkaProducer(**connection, linger_ms=20, batch_size=256 << 10, max_block_ms=15_000)
    shipment = _Shipment(producer)
    try:
        for message in messages:
            if live:
                _wait(message.arrival)
                shipment.send(message)
            else:
                shipment.send_in_turn(message)
            if shipment.count % STEP == 0:
                progress(STEP)
        return shipment.finish()
    except KafkaError as error:
        raise SekishoError(f"the brokers take no more after {shipment.count:,} messages: {error}") from error
    finally:
        producer.close(timeout=5)


def tick(at: int, connection: Mapping[str, Any]) -> None:
    """Sends the tick that says that it is `at` (µs).

    Raises:
        SekishoError: the brokers refuse it.
    """
    producer: Any = KafkaProducer(**connection, max_block_ms=15_000)
    try:
        value = orjson.dumps({"at": iso(at)})
        producer.send(TICK, value, partition=0, timestamp_ms=at // 1000).get(timeout=15)
    except KafkaError as error:
        raise SekishoError(f"the brokers take no tick: {error}") from error
    finally:
        producer.close(timeout=5)


class _Shipment:
    """Sends through one producer and learns where the messages went."""

    def __init__(self, producer: Any) -> None:
        self._producer = producer
        self._partitions: dict[str, int] = {}
        self._held: dict[tuple[str, int], Message] = {}
        self._refused: list[BaseException] = []
        self._ends: dict[tuple[str, int], int] = {}
        self.count = 0

    def send(self, message: Message) -> None:
        topic = f"custody.{message.record}"
        self._send(topic, self._partition(topic, message.key), message)

    def send_in_turn(self, message: Message) -> None:
        """Sends the message before this one in its partition, so that the last can go alone.

        The embedded broker tells a partition's end by the first record of its last batch: with one record
        in that batch it tells the truth.
        """
        topic = f"custody.{message.record}"
        place = topic, self._partition(topic, message.key)
        before, self._held[place] = self._held.get(place), message
        if before is not None:
            self._send(*place, before)

    def finish(self) -> dict[tuple[str, int], int]:
        """Sends what was held back and waits until the brokers have everything."""
        self._flush()
        for place, message in self._held.items():
            self._send(*place, message)
        self._flush()
        return dict(self._ends)

    def _partition(self, topic: str, key: bytes) -> int:
        if topic not in self._partitions:
            self._partitions[topic] = len(self._producer.partitions_for(topic))
        return int((murmur2(key) & 0x7FFFFFFF) % self._partitions[topic])  # as Java's clients do

    def _send(self, topic: str, partition: int, message: Message) -> None:
        future = self._producer.send(
            topic, message.value, message.key, partition=partition, timestamp_ms=message.arrival // 1000
        )
        future.add_callback(self._taken)
        future.add_errback(self._refused.append)
        self.count += 1
        if self.count % _PENDING == 0:
            self._flush()

    def _taken(self, metadata: Any) -> None:
        place = metadata.topic, metadata.partition
        self._ends[place] = max(self._ends.get(place, 0), metadata.offset + 1)

    def _flush(self) -> None:
        self._producer.flush()
        if self._refused:
            raise SekishoError(
                f"{len(self._refused):,} of {self.count:,} messages were refused by the brokers: "
                f"{self._refused[0]}"
            )


def _wait(arrival: int) -> None:
    ahead = arrival / 1e6 - time.time()
    if ahead > 0:
        time.sleep(ahead)

"""Ships the bench profile's records to Kafka, before anything is measured."""

from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import Producer

from stream.simulation.messages import Message


def ship_empty(bootstrap: str, counts: Mapping[str, int]) -> None:
    """Ships so many empty records to partition 0 of each topic."""
    topics = (topic for topic, count in counts.items() for _ in range(count))
    _ship(bootstrap, ({"topic": topic, "value": b"", "partition": 0} for topic in topics))


def ship(bootstrap: str, messages: Iterable[Message], prefix: str = "custody.") -> int:
    """Ships everything to the topics `<prefix><record>` and returns how many it was."""
    return _ship(bootstrap, (_record(message, prefix) for message in messages))


def ship_shares(bootstrap: str, messages: Iterable[Message], shares: Mapping[str, int]) -> None:
    """Ships of everything, to the topics `<prefix><record>` of each prefix, as many messages as it says."""
    numbered = enumerate(messages)
    _ship(
        bootstrap,
        (
            _record(message, prefix)
            for number, message in numbered
            for prefix, count in shares.items()
            if number < count
        ),
    )


def _record(message: Message, prefix: str) -> dict[str, Any]:
    return {
        "topic": f"{prefix}{message.record}",
        "value": message.value,
        "key": message.key,
        "timestamp": message.arrival // 1000,
    }


def _ship(bootstrap: str, records: Iterable[dict[str, Any]]) -> int:
    """librdkafka ships ten times as fast as kafka-python; how records got there is not measured."""
    settings = {"bootstrap.servers": bootstrap, "linger.ms": 50, "batch.size": 1 << 20}
    producer = Producer(settings | {"queue.buffering.max.messages": 500_000, "partitioner": "murmur2_random"})
    count = 0
    for count, record in enumerate(records, 1):
        while True:
            try:
                producer.produce(**record)
                break
            except BufferError:
                producer.poll(0.1)
        if count % 10_000 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0, "the broker did not take everything"
    return count

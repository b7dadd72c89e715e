"""Simulated messages to Kafka."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.reference import REFERENCES
from stream.produce import check_topic
from stream.simulation.files import STEP, Progress
from stream.simulation.messages import Message
from stream.topics import CREATE_TIME, TIMESTAMP_TYPE, create_missing

_PENDING = 50_000  # messages between two flushes: kafka-python buffers without bound


def prepare(connection: Mapping[str, Any], partitions: int) -> None:
    """Creates the topics that are missing, so that they keep simulated time and old records.

    Raises:
        SekishoError: no broker answers, or an existing topic stamps records itself.
    """
    topics = [*EVENTS, *REFERENCES]
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
) -> int:
    """Sends the messages with their arrival as CreateTime; returns how many the brokers have.

    With `live` each waits until the wall clock reaches its arrival.

    Raises:
        SekishoError: a message was refused; the text says how many had been sent.
    """
    refused: list[BaseException] = []
    producer: Any = KafkaProducer(**connection, linger_ms=20, batch_size=256 << 10, max_block_ms=15_000)
    count = 0
    try:
        for count, message in enumerate(messages, 1):
            if live:
                _wait(message.arrival)
            future = producer.send(
                f"custody.{message.record}",
                message.value,
                message.key,
                timestamp_ms=message.arrival // 1000,
            )
            future.add_errback(refused.append)
            if count % STEP == 0:
                progress(STEP)
            if count % _PENDING == 0:
                producer.flush()
                _check(refused, count)
        producer.flush()
        _check(refused, count)
    except KafkaError as error:
        raise SekishoError(f"the brokers take no more after {count:,} messages: {error}") from error
    finally:
        producer.close(timeout=5)
    return count


def _check(refused: list[BaseException], count: int) -> None:
    if refused:
        raise SekishoError(
            f"{len(refused):,} of {count:,} messages were refused by the brokers: {refused[0]}"
        )


def _wait(arrival: int) -> None:
    ahead = arrival / 1e6 - time.time()
    if ahead > 0:
        time.sleep(ahead)

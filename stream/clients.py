"""kafka-python clients for the verbs that ask or feed Kafka without being workers."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from crc32c import crc32c
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError
from kafka.record import default_records

from schemas.errors import SekishoError
from stream.settings import Settings

BOOTSTRAP_MS = 10_000


def options(settings: Settings) -> dict[str, Any]:
    """What every kafka-python client of a verb is made with."""
    return {**settings.kafka_python(), "bootstrap_timeout_ms": BOOTSTRAP_MS}


def use_fast_checksums() -> None:
    """Let kafka-python check and write CRC-32C in C.

    Its own is Python, and costs two thirds of the time it takes to ship a record.
    """
    default_records.calc_crc32c = crc32c


@contextmanager
def admin_client(connection: Mapping[str, Any]) -> Iterator[KafkaAdminClient]:
    """An admin client, closed afterwards.

    Raises:
        SekishoError: no broker answers, or one refuses what is asked.
    """
    # What goes wrong is said in one line by the verb itself.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        with KafkaAdminClient(**connection) as admin:
            yield admin
    except KafkaError as error:
        raise unreachable(connection, error) from error


def unreachable(connection: Mapping[str, Any], error: BaseException) -> SekishoError:
    """The one line for brokers that do not answer or refuse."""
    servers = ",".join(connection["bootstrap_servers"])
    return SekishoError(f"{servers} cannot be used: {error}; check --brokers and the security settings")

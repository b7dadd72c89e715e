"""Fixtures that several test modules share."""

import os
from collections.abc import Iterator

import pytest

from deploy.local_kafka import LocalKafka, unavailable_reason


@pytest.fixture(scope="session")
def kafka() -> Iterator[LocalKafka]:
    """One Apache Kafka for the whole run. Where it cannot run, tests are skipped; in CI they fail."""
    reason = unavailable_reason()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run the tests against Apache Kafka: {reason}")
        pytest.skip(reason)
    with LocalKafka() as broker:
        yield broker


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses the broker bears its mark, so that `-m "not kafka"` leaves it out."""
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)

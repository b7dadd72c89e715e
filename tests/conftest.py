"""Fixtures that several test modules share."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from deploy.local_kafka import LocalKafka, unavailable_reason

settings.register_profile("no deadline", deadline=None)  # tests that run side by side wait for each other
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def can_run_kafka() -> None:
    """Where Apache Kafka cannot run, tests are skipped; in CI they fail."""
    reason = unavailable_reason()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run the tests against Apache Kafka: {reason}")
        pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka(can_run_kafka: None) -> Iterator[LocalKafka]:
    """One Apache Kafka for all tests of a process."""
    with LocalKafka(brief=True) as broker:
        yield broker


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: what survives is decided here, not by the disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def in_memory(memory: Path) -> Iterator[Path]:
    """Like `tmp_path`, but in memory."""
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Half of the time a test waits: for a broker, a deadline, a process that is to die."""
    return min(8, 2 * (os.cpu_count() or 1))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses the broker bears its mark, so that `-m "not kafka"` leaves it out."""
    for item in items:
        if "can_run_kafka" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)

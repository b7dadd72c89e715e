"""A broker without the project's topics, for tests that need them in a state of their own."""

import time

from kafka.admin import KafkaAdminClient


def delete_custody_topics(bootstrap: str) -> None:
    """Delete every topic of the project and return once the broker has forgotten them."""
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        delete_topics(admin, [name for name in admin.list_topics() if name.startswith("custody.")])


def delete_topics(admin: KafkaAdminClient, names: list[str]) -> None:
    """Delete topics and return once the broker has forgotten them."""
    if names:
        admin.delete_topics(names)
    deadline = time.monotonic() + 20
    while set(admin.list_topics()) & set(names):
        assert time.monotonic() < deadline, names
        time.sleep(0.1)

"""The project's topics, how each should be configured, and creating those that are missing."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError, TopicAlreadyExistsError

from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.reference import REFERENCES
from schemas.ticks import TICK as TICK_RECORD
from sinks import findings

FINDINGS = findings.TOPIC
TICK = TICK_RECORD.topic
DAY_MS = 86_400_000

CREATE_TIME = "CreateTime"
LOG_APPEND_TIME = "LogAppendTime"
TIMESTAMP_TYPE = "message.timestamp.type"

# The broker's own clock, so that an emitter whose clock is wrong is noticed (gap.source.clock).
_EVENT = {"cleanup.policy": "delete", TIMESTAMP_TYPE: LOG_APPEND_TIME}
# The lags keep a version, or a tombstone, from being compacted away before a worker that was down reads it.
_REFERENCE = {
    "cleanup.policy": "compact",
    TIMESTAMP_TYPE: CREATE_TIME,  # a tombstone's time is when its key ended, not when it was shipped
    "min.compaction.lag.ms": str(7 * DAY_MS),
    "delete.retention.ms": str(7 * DAY_MS),
}

CONFIGURATIONS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(EVENTS, _EVENT),
        **dict.fromkeys(REFERENCES, _REFERENCE),
        FINDINGS: {"cleanup.policy": "delete"},
        TICK: {"cleanup.policy": "delete", TIMESTAMP_TYPE: LOG_APPEND_TIME},
    }
)
"""What each topic is created with; a topic that is not named here gets the broker's defaults."""


def create_missing(
    admin: KafkaAdminClient,
    topics: Iterable[str],
    partitions: int,
    replicas: int = -1,
    overrides: Mapping[str, str] = MappingProxyType({}),
) -> list[str]:
    """Create those of `topics` that do not exist and return their names; the others are left as they are.

    `replicas` -1 is the broker's default; `overrides` are settings that go before the recommended ones.

    Raises:
        SekishoError: the broker refuses.
    """
    existing = set(admin.list_topics())
    created = []
    for topic in topics:
        if topic in existing:
            continue
        options = {
            "num_partitions": partitions,
            "replication_factor": replicas,
            "configs": {**CONFIGURATIONS.get(topic, {}), **overrides},
        }
        try:
            admin.create_topics({topic: options}, wait_for_metadata=True)
        except TopicAlreadyExistsError:  # another process was first
            continue
        except KafkaError as error:
            raise SekishoError(
                f"{topic} cannot be created: {error}; ask the cluster's administrator for it"
            ) from error
        created.append(topic)
    return created

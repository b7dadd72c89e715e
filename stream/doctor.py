"""`sekisho doctor`: looks at the topics, at the workers' group and at the lake, and says what is wrong.

Looking changes no topic and no offset. What it finds is a *problem* (records are or will be lost, or nothing
can run) or a *note* (works, but weaker than it could be); each is one line with what to do.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from kafka import TopicPartition
from kafka.admin import KafkaAdminClient, OffsetSpec
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError, KafkaError

from schemas.events import EVENTS
from schemas.reference import REFERENCES
from stream.produce import configuration
from stream.topics import CREATE_TIME, DAY_MS, FINDINGS, TICK, TIMESTAMP_TYPE

REQUIRED = (*EVENTS, *REFERENCES, FINDINGS)
READ = (*EVENTS, *REFERENCES, TICK)
"""Topics whose records land."""
Offsets = Mapping[tuple[str, int], int]
COORDINATOR_SECONDS = 10.0
CREATE = "sekisho produce --topic {topic} --create --partitions {partitions} /dev/null"


class Remark(NamedTuple):
    """One line for people: what is so, on which topic ("" for none), and what to do."""

    topic: str
    text: str
    action: str


@dataclass
class Partition:
    """Offsets of one partition: the oldest kept, the end, and the next to land (None: none)."""

    start: int
    end: int
    committed: int | None = None
    landed: int | None = None
    overdue: int = 0  # records that are older than half the retention and have not landed

    @property
    def lag(self) -> int:
        """Records between what has landed and the end."""
        return max(0, self.end - max(self.landed or 0, self.start))


@dataclass
class Topic:
    """One topic as the brokers describe it."""

    name: str
    replicas: int
    partitions: dict[int, Partition]
    settings: dict[str, str]
    leaderless: list[int] = field(default_factory=list)
    behind: list[int] = field(default_factory=list)  # partitions with replicas out of sync

    @property
    def retention_ms(self) -> int | None:
        """How long a record is kept, None where for ever."""
        retention = int(self.settings.get("retention.ms", "-1"))
        return retention if retention >= 0 and "delete" in self.cleanup else None

    @property
    def cleanup(self) -> frozenset[str]:
        return frozenset(self.settings.get("cleanup.policy", "").split(",")) - {""}


@dataclass
class Report:
    """What the doctor saw. `lake` says whether landed offsets were looked at."""

    topics: list[Topic] = field(default_factory=list)
    problems: list[Remark] = field(default_factory=list)
    notes: list[Remark] = field(default_factory=list)
    lake: bool = False

    @property
    def ok(self) -> bool:
        return not self.problems

    def problem(self, topic: str, text: str, action: str) -> None:
        self.problems.append(Remark(topic, text, action))

    def note(self, topic: str, text: str, action: str) -> None:
        self.notes.append(Remark(topic, text, action))

    def as_json(self) -> dict[str, Any]:
        """The report as one JSON object."""
        return {
            "ok": self.ok,
            "problems": [remark._asdict() for remark in self.problems],
            "notes": [remark._asdict() for remark in self.notes],
            "topics": [_topic_json(topic, self.lake) for topic in self.topics],
        }


def examine(admin: KafkaAdminClient, group: str, lake: Callable[[], Offsets] | None) -> Report:
    """Look at every topic of the project.

    `group` is the workers' consumer group; `lake` tells the next offsets to land, None where there is no lake
    to look at.

    Raises:
        kafka.errors.KafkaError: the brokers cannot be asked.
    """
    report = Report(lake=lake is not None)
    # In this order, so that of a running pipeline committed <= landed <= end holds for what is read here.
    committed = _committed(admin, group, report)
    landed = None if lake is None else lake()
    existing = set(admin.list_topics())
    for name in REQUIRED:
        if name not in existing:
            report.problem(name, "the topic is missing", CREATE.format(topic=name, partitions=3))
    if TICK not in existing:
        report.note(
            TICK, "the topic is missing", "for the reconciler: " + CREATE.format(topic=TICK, partitions=1)
        )
    report.topics = _describe(admin, [name for name in (*REQUIRED, TICK) if name in existing])
    for topic in report.topics:
        for number, partition in topic.partitions.items():
            partition.committed = committed.get((topic.name, number))
            partition.landed = None if landed is None else landed.get((topic.name, number))
        _check_replicas(report, topic)
        _check_settings(report, topic)
        if landed is not None and topic.name in READ:
            _count_overdue(admin, topic)
            _check_lake(report, topic, group)
    if landed is not None:
        _check_lost_topics(report, landed)
    return report


def _describe(admin: KafkaAdminClient, names: list[str]) -> list[Topic]:
    if not names:
        return []
    settings = configuration(admin, names)
    topics = []
    for described in admin.describe_topics(names):
        name, parts = described["name"], described["partitions"]
        leaderless = sorted(part["partition_index"] for part in parts if part["leader_id"] < 0)
        topics.append(
            Topic(
                name=name,
                replicas=min((len(part["replica_nodes"]) for part in parts), default=0),
                partitions=_partitions(admin, name, parts, leaderless),
                settings=settings[name],
                leaderless=leaderless,
                behind=sorted(
                    part["partition_index"]
                    for part in parts
                    if len(part["isr_nodes"]) < len(part["replica_nodes"])
                ),
            )
        )
    return sorted(topics, key=lambda topic: (*REQUIRED, TICK).index(topic.name))


def _partitions(
    admin: KafkaAdminClient, name: str, parts: Iterable[Mapping[str, Any]], leaderless: list[int]
) -> dict[int, Partition]:
    numbers = sorted(part["partition_index"] for part in parts)
    asked = [TopicPartition(name, number) for number in numbers if number not in leaderless]
    start = admin.list_partition_offsets(dict.fromkeys(asked, OffsetSpec.EARLIEST))
    end = admin.list_partition_offsets(dict.fromkeys(asked, OffsetSpec.LATEST))
    return {tp.partition: Partition(start[tp].offset, end[tp].offset) for tp in asked}


def _committed(admin: KafkaAdminClient, group: str, report: Report) -> dict[tuple[str, int], int]:
    try:
        offsets = _group_offsets(admin, group)
    except KafkaError as error:
        report.note(
            "", f"the offsets of group {group} cannot be read: {error}", "allow Describe on the group"
        )
        return {}
    return {(tp.topic, tp.partition): entry.offset for tp, entry in offsets.items() if entry.offset >= 0}


def _group_offsets(admin: KafkaAdminClient, group: str) -> dict[TopicPartition, Any]:
    deadline = time.monotonic() + COORDINATOR_SECONDS
    while True:
        try:
            offsets: dict[TopicPartition, Any] = admin.list_group_offsets(group).get(group, {})
            return offsets
        except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError):
            # a cluster that never had a group makes its topic now, and reads it
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _count_overdue(admin: KafkaAdminClient, topic: Topic) -> None:
    if topic.retention_ms is None:
        return
    half = int(time.time() * 1000) - topic.retention_ms // 2
    asked = {TopicPartition(topic.name, number): half for number in topic.partitions}
    for tp, found in admin.list_partition_offsets(asked).items():
        partition = topic.partitions[tp.partition]
        young = partition.end if found.offset < 0 else found.offset
        partition.overdue = max(0, young - max(partition.landed or 0, partition.start))


def _check_replicas(report: Report, topic: Topic) -> None:
    if topic.leaderless:
        report.problem(
            topic.name, f"partitions {_some(topic.leaderless)} have no leader", "bring their brokers back"
        )
    elif topic.behind:
        report.note(
            topic.name,
            f"partitions {_some(topic.behind)} have copies out of sync",
            "look at the brokers' logs",
        )
    if topic.replicas == 1:
        report.note(
            topic.name,
            "one copy only: a lost disk loses what has not landed",
            "use three copies in production",
        )


def _check_settings(report: Report, topic: Topic) -> None:
    if topic.name in REFERENCES:
        _check_reference(report, topic)
    elif "compact" in topic.cleanup and topic.name in EVENTS:
        report.problem(
            topic.name,
            "compacted: events with the same key are deleted, landed or not",
            "set cleanup.policy=delete",
        )
    if topic.name not in EVENTS:
        return
    if topic.settings.get(TIMESTAMP_TYPE) == CREATE_TIME:
        report.note(
            topic.name,
            "emitters set the broker time: a source whose clock is wrong goes unnoticed",
            f"set {TIMESTAMP_TYPE}=LogAppendTime, except for replays with --event-time",
        )
    if topic.retention_ms is not None and topic.retention_ms < DAY_MS:
        report.problem(
            topic.name,
            f"records are kept for {duration(topic.retention_ms)} only: a longer outage loses evidence",
            "set retention.ms to several days",
        )
    if int(topic.settings.get("retention.bytes", "-1")) >= 0:
        report.note(
            topic.name,
            "retention.bytes is set: a burst can delete records before they land",
            "set retention.bytes=-1 and watch the disk",
        )


def _check_reference(report: Report, topic: Topic) -> None:
    if topic.cleanup != {"compact"}:
        report.problem(
            topic.name,
            f"cleanup.policy is {','.join(sorted(topic.cleanup))}: versions in force are deleted by age",
            "set cleanup.policy=compact",
        )
    elif int(topic.settings.get("min.compaction.lag.ms", "0")) < DAY_MS:
        report.note(
            topic.name,
            "versions can be compacted away before a worker that was down reads them",
            f"set min.compaction.lag.ms={7 * DAY_MS} and delete.retention.ms={7 * DAY_MS}",
        )
    if topic.settings.get(TIMESTAMP_TYPE) != CREATE_TIME:
        report.note(
            topic.name,
            "the broker stamps tombstones with their arrival, whatever time they name",
            f"set {TIMESTAMP_TYPE}=CreateTime",
        )


def _check_lake(report: Report, topic: Topic, group: str) -> None:
    for number, partition in topic.partitions.items():
        where = f"partition {number}"
        landed = partition.landed
        if landed is not None and landed > partition.end:
            report.problem(
                topic.name,
                f"{where}: the lake holds offsets to {landed:,}, the topic ends at {partition.end:,}: it was "
                "created anew, or this is another cluster's lake",
                "use the lake of this cluster, or start a new one",
            )
            continue
        if landed is not None and landed < partition.start and "delete" in topic.cleanup:
            report.problem(
                topic.name,
                f"{where}: offsets {landed:,} to {partition.start:,} were deleted before they landed",
                "record the loss, then lengthen retention.ms and look why workers fell behind",
            )
        if partition.committed is not None and partition.committed > (landed or 0):
            report.problem(
                topic.name,
                f"{where}: group {group} has committed {partition.committed:,}, the lake has {landed or 0:,}",
                "give the --lake that the workers write; if it is, nothing is lost: workers go by the lake",
            )
    overdue = sum(partition.overdue for partition in topic.partitions.values())
    if overdue:
        assert topic.retention_ms is not None
        kept = duration(topic.retention_ms)
        report.problem(
            topic.name,
            f"{overdue:,} records have not landed and are older than half of the {kept} they are kept for",
            "start workers, or lengthen retention.ms now",
        )


def _check_lost_topics(report: Report, landed: Offsets) -> None:
    known = {(topic.name, number) for topic in report.topics for number in topic.partitions}
    offline = {(topic.name, number) for topic in report.topics for number in topic.leaderless}
    for name, number in sorted(set(landed) - known - offline):
        report.problem(
            name,
            f"partition {number}: the lake holds its records, the brokers do not know it",
            "use the lake of this cluster, or start a new one",
        )


def _topic_json(topic: Topic, lake: bool) -> dict[str, Any]:
    return {
        "topic": topic.name,
        "partitions": [
            {
                "partition": number,
                **asdict(partition),
                "lag": partition.lag if lake and topic.name in READ else None,
            }
            for number, partition in topic.partitions.items()
        ],
        "replicas": topic.replicas,
        "cleanup_policy": sorted(topic.cleanup),
        "retention_ms": topic.retention_ms,
        "timestamp_type": topic.settings.get(TIMESTAMP_TYPE),
        "leaderless": topic.leaderless,
        "out_of_sync": topic.behind,
    }


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return f"{shown} and {len(numbers) - 5} more" if len(numbers) > 5 else shown


def duration(ms: int) -> str:
    """Milliseconds as people say them, in one unit."""
    for unit, size in (("d", DAY_MS), ("h", 3_600_000), ("min", 60_000), ("s", 1000)):
        if ms >= size:
            return f"{ms / size:.3g} {unit}"
    return f"{ms} ms"

"""The doctor against Apache Kafka and a real lake: what it must find wrong, and what it must not."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import CoordinatorLoadInProgressError, CoordinatorNotAvailableError
from kafka.structs import OffsetAndMetadata

from deploy.local_kafka import LocalKafka
from schemas.reference import REFERENCES
from sinks.lake import Lake
from stream.doctor import READ, REQUIRED, Offsets, Report, duration, examine
from stream.topics import CONFIGURATIONS, DAY_MS, TICK, create_missing
from tests.topics import delete_custody_topics, delete_topics

GROUP = "doctor-test"


@pytest.fixture
def admin(kafka: LocalKafka) -> Iterator[KafkaAdminClient]:
    """An admin client on a cluster that has all topics as they should be, and no records."""
    delete_custody_topics(kafka.bootstrap)
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as client:
        create_missing(client, [*REQUIRED, TICK], 2)
        yield client
    delete_custody_topics(kafka.bootstrap)


def recreate(admin: KafkaAdminClient, topic: str, **settings: str) -> None:
    delete_topics(admin, [topic])
    overrides = {name.replace("_", "."): value for name, value in settings.items()}
    create_missing(admin, [topic], 2, overrides=overrides)


def fill(kafka: LocalKafka, topic: str, count: int, at: float | None = None) -> None:
    """`count` records in partition 0, of this Unix time."""
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    stamp = None if at is None else int(at * 1000)
    for _ in range(count):
        producer.send(topic, b"{}", key=b"k", partition=0, timestamp_ms=stamp)
    producer.flush()
    producer.close()


def look(admin: KafkaAdminClient, landed: Offsets | None = None) -> Report:
    return examine(admin, GROUP, None if landed is None else lambda: landed)


def texts(report: Report, topic: str) -> list[str]:
    return [remark.text for remark in report.problems if remark.topic == topic]


def test_topics_that_the_project_creates_are_sound(admin: KafkaAdminClient) -> None:
    report = look(admin, {})
    assert report.problems == []
    assert {topic.name for topic in report.topics} == set(CONFIGURATIONS)
    assert all(len(topic.partitions) == 2 for topic in report.topics)
    assert {remark.text for remark in report.notes} == {
        "one copy only: a lost disk loses what has not landed"
    }


def test_missing_topics_are_named_with_the_command_that_creates_them(admin: KafkaAdminClient) -> None:
    admin.delete_topics(["custody.site", TICK])
    report = look(admin)
    assert texts(report, "custody.site") == ["the topic is missing"]
    assert (
        report.problems[0].action == "sekisho produce --topic custody.site --create --partitions 3 /dev/null"
    )
    assert len(report.problems) == 1, "the tick is the reconciler's: a note"
    assert TICK in {remark.topic for remark in report.notes}


def test_settings_that_lose_records_are_problems(admin: KafkaAdminClient) -> None:
    recreate(admin, "custody.party", cleanup_policy="compact,delete")
    recreate(admin, "custody.principal", cleanup_policy="delete")
    recreate(admin, "custody.access", cleanup_policy="compact")
    recreate(admin, "custody.placement", retention_ms="3600000")
    report = look(admin)
    assert texts(report, "custody.party") == [
        "cleanup.policy is compact,delete: versions in force are deleted by age"
    ]
    assert texts(report, "custody.principal") == [
        "cleanup.policy is delete: versions in force are deleted by age"
    ]
    assert texts(report, "custody.access") == [
        "compacted: events with the same key are deleted, landed or not"
    ]
    assert texts(report, "custody.placement") == [
        "records are kept for 1 h only: a longer outage loses evidence"
    ]
    assert len(report.problems) == 4
    assert not report.ok


def test_settings_that_weaken_are_notes(admin: KafkaAdminClient) -> None:
    recreate(admin, "custody.access", message_timestamp_type="CreateTime", retention_bytes="1000000")
    recreate(admin, "custody.asset", min_compaction_lag_ms="0", message_timestamp_type="LogAppendTime")
    report = look(admin)
    assert report.ok
    notes = {(remark.topic, remark.text.split(":")[0]) for remark in report.notes}
    assert ("custody.access", "emitters set the broker time") in notes
    assert ("custody.access", "retention.bytes is set") in notes
    assert (
        "custody.asset",
        "versions can be compacted away before a worker that was down reads them",
    ) in notes
    assert (
        "custody.asset",
        "the broker stamps tombstones with their arrival, whatever time they name",
    ) in notes


def test_lag_is_what_has_not_landed(kafka: LocalKafka, admin: KafkaAdminClient) -> None:
    fill(kafka, "custody.access", 10)
    admin.alter_group_offsets(GROUP, {TopicPartition("custody.access", 0): OffsetAndMetadata(3, "", None)})
    report = look(admin, {("custody.access", 0): 4, ("custody.access", 1): 0})
    assert report.ok, report.problems
    access = next(topic for topic in report.topics if topic.name == "custody.access")
    first = access.partitions[0]
    assert (first.start, first.end, first.committed, first.landed, first.lag) == (0, 10, 3, 4, 6)
    assert access.partitions[1].lag == 0
    shown = {topic["topic"]: topic for topic in report.as_json()["topics"]}
    assert shown["custody.access"]["partitions"][0]["lag"] == 6
    assert look(admin).as_json()["topics"][0]["partitions"][0]["lag"] is None


def test_a_coordinator_that_is_still_loading_is_waited_for(
    admin: KafkaAdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = admin.list_group_offsets
    errors = [CoordinatorLoadInProgressError(), CoordinatorNotAvailableError()]

    def busy(group: str) -> Any:
        if errors:
            raise errors.pop()
        return ask(group)

    monkeypatch.setattr(admin, "list_group_offsets", busy)
    assert not any("cannot be read" in remark.text for remark in look(admin, {}).notes)
    assert not errors


def test_a_group_ahead_of_the_lake_is_a_problem(kafka: LocalKafka, admin: KafkaAdminClient) -> None:
    fill(kafka, "custody.access", 10)
    admin.alter_group_offsets(GROUP, {TopicPartition("custody.access", 0): OffsetAndMetadata(8, "", None)})
    report = look(admin, {("custody.access", 0): 5})
    assert texts(report, "custody.access") == [f"partition 0: group {GROUP} has committed 8, the lake has 5"]
    assert look(admin, {("custody.access", 0): 8}).ok


def test_a_lake_beyond_the_end_is_a_problem(kafka: LocalKafka, admin: KafkaAdminClient) -> None:
    fill(kafka, "custody.party", 2)
    landed = {("custody.party", 0): 3, ("custody.party", 7): 1, ("custody.gone", 0): 1}
    report = look(admin, landed)
    assert "the lake holds offsets to 3, the topic ends at 2" in texts(report, "custody.party")[0]
    assert any("partition 7: the lake holds its records" in text for text in texts(report, "custody.party"))
    assert texts(report, "custody.gone") == [
        "partition 0: the lake holds its records, the brokers do not know it"
    ]
    assert len(report.problems) == 3


def test_records_deleted_before_they_landed_are_a_problem(kafka: LocalKafka, admin: KafkaAdminClient) -> None:
    fill(kafka, "custody.allocation", 10)
    admin.delete_records({TopicPartition("custody.allocation", 0): 6})
    report = look(admin, {("custody.allocation", 0): 4})
    assert texts(report, "custody.allocation") == [
        "partition 0: offsets 4 to 6 were deleted before they landed"
    ]
    assert look(admin, {("custody.allocation", 0): 6}).ok


def test_records_near_the_end_of_their_retention_are_a_problem(
    kafka: LocalKafka, admin: KafkaAdminClient
) -> None:
    settings = {"message_timestamp_type": "CreateTime", "retention_ms": str(4 * DAY_MS)}
    recreate(admin, "custody.access", **settings)
    fill(kafka, "custody.access", 5, at=time.time() - 3 * 86_400)
    fill(kafka, "custody.access", 5)
    report = look(admin, {("custody.access", 0): 2})
    assert texts(report, "custody.access") == [
        "3 records have not landed and are older than half of the 4 d they are kept for"
    ]
    assert look(admin, {("custody.access", 0): 5}).ok
    assert look(admin).ok, "nothing is said of a lake that was not looked at"


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0 ms"), (999, "999 ms"), (90_000, "1.5 min"), (3_600_000, "1 h"), (7 * DAY_MS, "7 d")],
)
def test_duration(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_every_topic_that_is_read_is_required() -> None:
    assert set(READ) - set(REQUIRED) == {TICK}
    assert set(REFERENCES) < set(READ)


def sekisho(broker: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from stream.cli import main; main()", "doctor", "--brokers", broker]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_the_verb(kafka: LocalKafka, admin: KafkaAdminClient, tmp_path: Path) -> None:
    fill(kafka, "custody.access", 3)
    Lake.open(tmp_path / "lake")
    done = sekisho(kafka.bootstrap, "--lake", str(tmp_path / "lake"), "--group", GROUP + "2", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["ok"] is True
    access = next(topic for topic in report["topics"] if topic["topic"] == "custody.access")
    assert [part["lag"] for part in access["partitions"]] == [3, 0]
    assert access["timestamp_type"] == "LogAppendTime"

    admin.delete_topics(["custody.site"])
    done = sekisho(kafka.bootstrap)
    assert done.returncode == 1
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert rows["custody.access"] == ["delete", "7", "d", "broker", "2", "1", "3", "-", "-", "-"]
    assert rows["custody.party"] == ["compact", "emitter", "2", "1", "0", "-", "-", "-"]
    assert done.stdout.count("one copy only") == 1, "one line for each thing to do"
    problem = "problem custody.site: the topic is missing; sekisho produce --topic custody.site --create"
    assert problem in done.stdout
    assert done.stderr == ""
    assert "\x1b[" not in done.stdout, "no colours when piped"

    advice = done.stdout.partition(problem)[2].splitlines()[0].split()
    create = [sys.executable, "-c", "from stream.cli import main; main()", "produce"]
    create += ["--brokers", kafka.bootstrap, "--topic", "custody.site", "--create", *advice]
    assert subprocess.run(create, timeout=60, check=False).returncode == 0
    assert sekisho(kafka.bootstrap).returncode == 0

    done = sekisho(kafka.bootstrap, "--lake", str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert done.stderr.startswith("sekisho: no lake in ")


def test_no_broker_is_one_line() -> None:
    done = sekisho("127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("sekisho: 127.0.0.1:1 cannot be used: ")
    assert done.stderr.count("\n") == 1

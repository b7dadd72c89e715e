"""Workers against Apache Kafka: whatever happens to them, the lake holds what the pure pipeline says."""

import asyncio
import json
import random
import signal
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from deploy.local_kafka import LocalKafka
from schemas.events import EVENTS
from schemas.reference import REFERENCES
from sinks.findings import TOPIC as FINDINGS
from stream.simulation import simulator
from tests.flow import Expected, dealt, landed, make_topics, read
from tests.ship import Shipped, ship
from tests.worker_process import WorkerProcess

PARTITIONS = 3
ACCESS, PARTY = "custody.access", "custody.party"


@pytest.fixture
def fresh(can_run_kafka: None) -> Iterator[LocalKafka]:
    """A broker of this test's own with all topics, empty."""
    with LocalKafka(brief=True) as broker:
        make_topics(broker.bootstrap, PARTITIONS)
        yield broker


@cache
def records() -> tuple[tuple[Shipped, ...], tuple[Shipped, ...]]:
    """Reference records and events of a small simulated data centre, some events broken."""
    settings = simulator.Settings(seed=7, accelerators=1024, duration=3_600_000_000, rate=12)
    sent = list(dealt(simulator.simulate(settings).messages(), PARTITIONS))
    return (
        tuple(record for record in sent if record.topic in REFERENCES),
        tuple(record for record in sent if record.topic in EVENTS),
    )


@cache
def expected() -> Expected:
    references, events = records()
    return Expected((*references, *events))


def send(kafka: LocalKafka, *sent: Shipped) -> None:
    asyncio.run(ship(kafka.bootstrap, sent))


def all_landed(lake: Path) -> bool:
    return dict(landed(lake)) == expected().ends


def assert_as_expected(lake: Path) -> None:
    assert list(expected().differences(lake)) == []


def assert_fails_in_one_line(worker: WorkerProcess, *said: str) -> None:
    """It exits 1 with one line that holds these words, behind the one it started with."""
    assert worker.wait(60) == 1, worker.output
    lines = [line for line in worker.output.splitlines() if "reference versions" not in line]
    assert len(lines) == 1, worker.output
    assert all(word in lines[0] for word in ("sekisho: ", *said)), lines[0]


def members(kafka: LocalKafka) -> int:
    """How many members the group has settled on; 0 while the broker cannot say."""
    try:
        with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as admin:
            group = admin.describe_groups(["sekisho"])["sekisho"]
    except KafkaError:
        return 0
    return len(group["members"]) if group["group_state"] == "Stable" else 0


def test_what_is_sent_lands_and_sigterm_loses_nothing(fresh: LocalKafka, tmp_path: Path) -> None:
    references, events = records()
    lake = tmp_path / "lake"
    send(fresh, *references)
    with WorkerProcess(fresh.bootstrap, lake, commit_seconds=60) as worker:
        worker.until_ready()
        send(fresh, *events)
        worker.until(lambda: members(fresh) == 1)
        time.sleep(3)
        assert not landed(lake)  # no commit was due
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0, worker.output
        assert worker.output.count("\n") == 1, worker.output
        assert landed(lake)
        assert members(fresh) == 0
    with WorkerProcess(fresh.bootstrap, lake) as worker:
        worker.until(lambda: all_landed(lake))
    assert_as_expected(lake)
    assert_published(fresh, lake)


def assert_published(kafka: LocalKafka, lake: Path) -> None:
    """Every finding that fired has been published, in the shape of finding_history."""
    fired = set(read(lake, "finding_event")["finding_id"].to_pylist())
    consumer = KafkaConsumer(
        FINDINGS, bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=3000
    )
    published = {message.key.decode(): json.loads(message.value) for message in consumer}
    consumer.close()
    assert fired
    assert set(published) == fired
    one = next(iter(published.values()))
    assert (one["revision"], one["state"]) == (0, "provisional")
    assert PARTY in {known["topic"] for known in one["known"]}


def test_kills_at_random_lose_and_repeat_nothing(fresh: LocalKafka, tmp_path: Path) -> None:
    references, events = records()
    lake = tmp_path / "lake"
    send(fresh, *references)
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    with WorkerProcess(fresh.bootstrap, lake, instance_id="one", batch_rows=500) as worker:
        worker.until_ready()
        share = len(events) // 6
        for start in range(0, len(events), share):
            send(fresh, *events[start : start + share])
            time.sleep(rng.uniform(0.0, 2.0))
            worker.kill()
            worker.restart()
            time.sleep(rng.uniform(2.5, 4.0))
        worker.until(lambda: all_landed(lake))
    assert_as_expected(lake)


def test_workers_share_and_hand_over(fresh: LocalKafka, tmp_path: Path) -> None:
    references, events = records()
    lake = tmp_path / "lake"
    send(fresh, *references)
    third = len(events) // 3
    with WorkerProcess(fresh.bootstrap, lake) as one:
        one.until_ready()
        send(fresh, *events[:third])
        with WorkerProcess(fresh.bootstrap, lake) as two:
            two.until(lambda: members(fresh) == 2)
            send(fresh, *events[third : 2 * third])
            two.send(signal.SIGTERM)
            assert two.wait() == 0, two.output
            two.restart()
            two.until(lambda: members(fresh) == 2)
            send(fresh, *events[2 * third :])
            one.until(lambda: all_landed(lake))
            assert two.process.poll() is None, two.output
    assert_as_expected(lake)


def test_a_frozen_worker_is_replaced_and_does_no_harm(fresh: LocalKafka, tmp_path: Path) -> None:
    references, events = records()
    lake = tmp_path / "lake"
    half = len(events) // 2
    send(fresh, *references)
    with (
        WorkerProcess(fresh.bootstrap, lake, session_seconds=3, commit_seconds=3) as one,
        WorkerProcess(fresh.bootstrap, lake, session_seconds=3) as two,
    ):
        two.until(lambda: members(fresh) == 2)
        send(fresh, *events[:half])
        time.sleep(1)
        one.send(signal.SIGSTOP)  # with an open transaction
        send(fresh, *events[half:])
        two.until(lambda: all_landed(lake))
        one.send(signal.SIGCONT)
        one.until(lambda: members(fresh) == 2)
        time.sleep(3)
        assert one.process.poll() is None, one.output
        assert two.process.poll() is None, two.output
    assert_as_expected(lake)


def test_a_broker_restart_is_waited_out(fresh: LocalKafka, tmp_path: Path) -> None:
    references, events = records()
    lake = tmp_path / "lake"
    send(fresh, *references)
    half = len(events) // 2
    with WorkerProcess(fresh.bootstrap, lake) as worker:
        worker.until_ready()
        send(fresh, *events[:half])
        fresh.restart(kill=True)
        send(fresh, *events[half:])
        worker.until(lambda: all_landed(lake))
    assert_as_expected(lake)


def test_brokers_that_stay_away_end_the_worker(fresh: LocalKafka, tmp_path: Path) -> None:
    with WorkerProcess(fresh.bootstrap, tmp_path / "lake", broker_away_seconds=2) as worker:
        worker.until(lambda: members(fresh) == 1)
        fresh.kill()
        assert_fails_in_one_line(worker, "no broker", "2 s")
    with WorkerProcess(fresh.bootstrap, tmp_path / "lake", broker_away_seconds=2) as worker:
        assert_fails_in_one_line(worker, "no broker", "2 s")


def test_a_lake_that_fails_ends_the_worker(fresh: LocalKafka, tmp_path: Path) -> None:
    references, events = records()
    lake = tmp_path / "lake"
    with WorkerProcess(fresh.bootstrap, lake) as worker:
        worker.until(lambda: members(fresh) == 1)
        (lake / "raw").rename(tmp_path / "gone")
        (lake / "raw").touch()
        send(fresh, *references, *events)
        assert_fails_in_one_line(worker)
    (lake / "raw").unlink()
    (tmp_path / "gone").rename(lake / "raw")
    with WorkerProcess(fresh.bootstrap, lake) as worker:
        worker.until(lambda: all_landed(lake))
    assert_as_expected(lake)


def test_aborted_transactions_do_not_land(fresh: LocalKafka, tmp_path: Path) -> None:
    lake = tmp_path / "lake"

    async def transact() -> None:
        async with AIOKafkaProducer(bootstrap_servers=fresh.bootstrap, transactional_id="t") as producer:
            for number in range(4):
                await producer.begin_transaction()
                await producer.send_and_wait(ACCESS, b"%d" % number, partition=0)
                await (producer.abort_transaction() if number % 2 else producer.commit_transaction())

    asyncio.run(transact())
    with WorkerProcess(fresh.bootstrap, lake) as worker:
        worker.until(lambda: landed(lake).get((ACCESS, 0)) == 8)
    raw = read(lake, "raw")
    assert raw["value"].to_pylist() == [b"0", b"2"]
    assert raw["offset"].to_pylist() == [0, 4]
    missing = {offset for hole in holes(lake) for offset in range(hole["start"], hole["end"])}
    assert missing == {1, 2, 3, 5, 6, 7}


def commits(lake: Path) -> list[dict[str, Any]]:
    """What each commit of raw says beyond Delta's own fields, the first one first."""
    said = []
    for entry in sorted((lake / "raw" / "_delta_log").glob("*.json")):
        for line in map(json.loads, entry.read_text().splitlines()):
            found = line.get("commitInfo", {}).get("sekisho")
            if found is not None:
                said.append(json.loads(found) if isinstance(found, str) else found)
    return said


def holes(lake: Path) -> list[dict[str, Any]]:
    return [hole for commit in commits(lake) for hole in commit["holes"]]


def party(name: str) -> bytes:
    fields = {"party_id": name, "version": 1, "valid_from": "2026-01-01T00:00:00Z", "status": "verified"}
    return json.dumps(fields).encode()


def access(name: str, number: int) -> Shipped:
    fields = {
        "event_id": f"e{number}",
        "occurred_at": "2026-03-01T00:00:00Z",
        "source": "s",
        "action": "call",
    }
    return Shipped(ACCESS, 0, json.dumps({**fields, "party_id": name}).encode(), None, 1_772_323_200_000)


def test_a_late_reference_record_is_known_to_the_next_batch(fresh: LocalKafka, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with WorkerProcess(fresh.bootstrap, lake) as worker:
        send(fresh, access("P-late", 1))
        worker.until(lambda: landed(lake).get((ACCESS, 0)) == 1)
        send(fresh, Shipped(PARTY, 1, party("P-late"), b"P-late", 1_772_323_200_000))
        worker.until(lambda: landed(lake).get((PARTY, 1)) == 1)
        time.sleep(1.5)
        send(fresh, access("P-late", 2))
        worker.until(lambda: landed(lake).get((ACCESS, 0)) == 2)
    assert read(lake, "access").sort_by("offset")["party_id"].to_pylist() == [None, "P-late"]
    known = {(k["topic"], k["partition"]): k["offset"] for k in commits(lake)[-1]["known"]}
    assert known[PARTY, 1] == 1


def test_deleted_records_must_be_given_up_by_a_person(fresh: LocalKafka, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with WorkerProcess(fresh.bootstrap, lake) as worker:
        send(fresh, *(access("P", number) for number in range(2)))
        worker.until(lambda: landed(lake).get((ACCESS, 0)) == 2)
    send(fresh, *(access("P", number) for number in range(2, 6)))
    with KafkaAdminClient(bootstrap_servers=fresh.bootstrap) as admin:
        admin.delete_records({TopicPartition(ACCESS, 0): 4})
    with WorkerProcess(fresh.bootstrap, lake) as worker:
        assert_fails_in_one_line(worker, "offsets 2 to 3 were deleted", f"--accept-hole {ACCESS}:0")
    with WorkerProcess(fresh.bootstrap, lake, accept_hole=f"{ACCESS}:0") as worker:
        worker.until(lambda: landed(lake).get((ACCESS, 0)) == 6)
    assert sorted(read(lake, "raw")["offset"].to_pylist()) == [0, 1, 4, 5]
    assert holes(lake) == [{"topic": ACCESS, "partition": 0, "start": 2, "end": 4}]


@pytest.mark.parametrize("grown", [0, 8])
def test_a_recreated_topic_must_be_given_up_by_a_person(
    fresh: LocalKafka, tmp_path: Path, grown: int
) -> None:
    """Even where it has more records than the lake: what has the offsets of landed ones was never read."""
    lake = tmp_path / "lake"
    with WorkerProcess(fresh.bootstrap, lake) as worker:
        send(fresh, *(access("P", number) for number in range(3)))
        worker.until(lambda: landed(lake).get((ACCESS, 0)) == 3)
    with KafkaAdminClient(bootstrap_servers=fresh.bootstrap) as admin:
        admin.delete_topics([ACCESS])
        while ACCESS in admin.list_topics():
            time.sleep(0.1)
    make_topics(fresh.bootstrap, PARTITIONS)
    send(fresh, *(access("P", number) for number in range(10, 10 + grown)))
    with WorkerProcess(fresh.bootstrap, lake) as worker:
        assert_fails_in_one_line(worker, "the topic was recreated", f"--accept-hole {ACCESS}:0")
    with WorkerProcess(fresh.bootstrap, lake, accept_hole=f"{ACCESS}:0") as worker:
        worker.until_ready()
        send(fresh, *(access("P", number) for number in range(10 + grown, 15 + grown)))
        worker.until(lambda: landed(lake).get((ACCESS, 0)) == 5 + grown)
    events = read(lake, "access").sort_by("offset")
    assert events["offset"].to_pylist() == list(range(5 + grown))
    assert events["event_id"].to_pylist() == [f"e{n if n < 3 else n + 10}" for n in range(5 + grown)]


def test_an_instance_id_is_used_once(fresh: LocalKafka, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    with (
        WorkerProcess(fresh.bootstrap, lake, instance_id="same/one") as one,
        WorkerProcess(fresh.bootstrap, lake, instance_id="same/two") as other,
    ):
        one.until_ready()
        other.until_ready()
        with WorkerProcess(fresh.bootstrap, lake, instance_id="same/one") as two:
            assert_fails_in_one_line(two, "--instance-id same/one")


def test_missing_topics_are_named_or_made(can_run_kafka: None, tmp_path: Path) -> None:
    with LocalKafka(brief=True) as empty:
        with WorkerProcess(empty.bootstrap, tmp_path / "lake") as worker:
            assert_fails_in_one_line(worker, "custody.access", "custody.findings", "--partitions")
        with WorkerProcess(empty.bootstrap, tmp_path / "lake", partitions=2) as worker:
            worker.until_ready()
        consumer = KafkaConsumer(bootstrap_servers=empty.bootstrap)
        assert consumer.partitions_for_topic(ACCESS) == {0, 1}
        consumer.close()

"""Lines become records: keys, tombstones, times; and against Apache Kafka, that every line arrives."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaTimeoutError
from kafka.record import default_records, util

from deploy.local_kafka import LocalKafka
from schemas.errors import SekishoError, UsageError
from stream import produce
from stream.clients import use_fast_checksums
from stream.produce import Limits, Line, Message, Shipper, configuration, lines, message
from stream.topics import create_missing
from tests.topics import delete_custody_topics


@pytest.mark.parametrize(
    ("topic", "line", "key"),
    [
        ("custody.allocation", '{"allocation_id":"A-1","principal":"r:p"}', b"A-1"),
        ("custody.placement", '{"workload_id":"W-1","allocation_id":"A-1"}', b"A-1"),
        ("custody.placement", '{"workload_id":"W-1","principal":"r:p"}', b"W-1"),
        ("custody.placement", '{"workload_id":"W-1","allocation_id":""}', b"W-1"),
        ("custody.access", '{"principal":"r:p","workload_id":"W-1"}', b"r:p"),  # access has no workload
        ("custody.access", '{"principal":"r:é"}', "r:é".encode()),
        ("custody.access", '{"allocation_id":7}', None),
        ("custody.access", '{"event_id":"E"}', None),
        ("custody.party", '{"party_id":"P-1","version":1}', b"P-1"),
        ("custody.principal", '{"binding_id":"B-1","party_id":"P-1"}', b"B-1"),
        ("custody.screening", '{"list":"SDN","entry_id":"4"}', b"SDN|4"),
        ("custody.screening", '{"list":"SDN"}', None),
        ("custody.screening", '{"list":"SDN","entry_id":""}', None),
        ("custody.unheard_of", '{"allocation_id":"A-1"}', None),
        ("custody.tick", '{"at":"2026-03-01T00:00:00Z"}', None),
        ("custody.access", "[1]", None),
        ("custody.access", "", None),
        ("custody.access", '{"allocation_id":"A-1"', None),
        ("custody.access", '{"allocation_id":"A-1","x":NaN}', None),
    ],
)
def test_key(topic: str, line: str, key: bytes | None) -> None:
    assert message(topic, line.encode()) == Message(key, line.encode(), None)


def test_a_tombstone_line_becomes_a_null_value_at_its_time() -> None:
    line = b'{"party_id":"P-1","tombstone_at":"2026-03-01T09:00:00.1239+09:00"}'
    assert message("custody.party", line) == Message(b"P-1", None, 1_772_323_200_123)
    line = b'{"entry_id":"4","tombstone_at":"2026-03-01T00:00:00Z","list":"SDN"}'
    assert message("custody.screening", line) == Message(b"SDN|4", None, 1_772_323_200_000)


@pytest.mark.parametrize(
    "line",
    [
        '{"party_id":"P-1","tombstone_at":"2026-03-01T00:00:00Z","version":2}',
        '{"party_id":"P-1","tombstone_at":"2026-03-01T00:00:00Z","x":null}',
        '{"party_id":"P-1","party_id":"P-1","tombstone_at":"2026-03-01T00:00:00Z"}',
        '{"party_id":"P-1","tombstone_at":"2026-03-01T00:00:00Z","tombstone_at":"2026-03-01T00:00:00Z"}',
        '{"party_id":"P-1","tombstone_at":"2026-03-01T00:00:00"}',
        '{"party_id":"P-1","tombstone_at":1772323200}',
        '{"party_id":"P-1","tombstone_at":null}',
        '{"party_id":"","tombstone_at":"2026-03-01T00:00:00Z"}',
        '{"party_id":5,"tombstone_at":"2026-03-01T00:00:00Z"}',
    ],
)
def test_a_faulty_tombstone_line_is_shipped_as_it_is(line: str) -> None:
    assert message("custody.party", line.encode()).value == line.encode()
    assert message("custody.party", line.encode()).timestamp_ms is None


def test_a_deep_tombstone_line_is_shipped_as_it_is() -> None:
    line = b'{"party_id":"P-1","tombstone_at":' + b"[" * 1023 + b"]" * 1023 + b"}"
    assert message("custody.party", line) == Message(b"P-1", line)


def test_events_have_no_tombstone_lines() -> None:
    line = b'{"allocation_id":"A-1","tombstone_at":"2026-03-01T00:00:00Z"}'
    assert message("custody.allocation", line) == Message(b"A-1", line)


def test_event_time_stamps_events_only() -> None:
    line = b'{"allocation_id":"A-1","occurred_at":"2026-03-01T00:00:00.5Z"}'
    assert message("custody.access", line, event_time=True).timestamp_ms == 1_772_323_200_500
    assert message("custody.access", line).timestamp_ms is None
    assert message("custody.access", b'{"occurred_at":"yesterday"}', event_time=True).timestamp_ms is None
    line = b'{"party_id":"P-1","occurred_at":"2026-03-01T00:00:00Z"}'
    assert message("custody.party", line, event_time=True).timestamp_ms is None


@given(st.lists(st.binary().map(lambda b: b.replace(b"\n", b"\r\x85\x0b"))), st.booleans())
def test_only_line_feeds_end_lines(parts: list[bytes], ended: bool) -> None:
    content = b"\n".join(parts) + (b"\n" if ended and parts else b"")
    expected = content.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    found = list(lines(io.BytesIO(content), "f"))
    assert [line.value for line in found] == expected
    assert [line.place for line in found] == [f"f:{n}" for n in range(1, len(expected) + 1)]


@given(st.sampled_from(["custody.access", "custody.party", "custody.screening", "other"]), st.binary())
def test_any_bytes_are_shipped_whole(topic: str, line: bytes) -> None:
    assert message(topic, line) == Message(None, line)


JSON = st.recursive(st.none() | st.booleans() | st.text() | st.integers(-(2**63), 2**63 - 1), st.lists)


@given(
    st.sampled_from(["custody.access", "custody.party", "custody.screening"]),
    st.dictionaries(st.sampled_from(["list", "entry_id", "party_id", "tombstone_at", "principal"]), JSON),
)
def test_any_object_is_shipped_whole_or_as_a_tombstone(topic: str, fields: dict[str, Any]) -> None:
    line = orjson.dumps(fields)
    sent = message(topic, line)
    assert sent.value == line or (sent.key is not None and sent.timestamp_ms is not None)


def test_checksums_are_the_same_and_the_fast_ones_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where an upgrade of kafka-python has moved the name that is replaced."""
    monkeypatch.setattr(default_records, "calc_crc32c", util.calc_crc32c)
    use_fast_checksums()
    fast = default_records.calc_crc32c
    assert fast is not util.calc_crc32c
    for content in (b"", b"123456789", bytes(range(256)) * 100):
        assert fast(memoryview(content)) == util.calc_crc32c(memoryview(content))
    asked = 0

    def spy(view: memoryview) -> int:
        nonlocal asked
        asked += 1
        checksum: int = fast(view)
        return checksum

    monkeypatch.setattr(default_records, "calc_crc32c", spy)
    builder = default_records.DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 10_000)
    builder.append(0, 1_772_323_200_000, b"key", b"value", [])
    builder.build()
    assert asked == 1


# Against Apache Kafka


@pytest.fixture(scope="module")
def broker(kafka: LocalKafka) -> Iterator[LocalKafka]:
    """The broker, without topics of the project before and after."""
    delete_custody_topics(kafka.bootstrap)
    yield kafka
    delete_custody_topics(kafka.bootstrap)


def options(kafka: LocalKafka) -> dict[str, Any]:
    return {"bootstrap_servers": [kafka.bootstrap]}


def read(kafka: LocalKafka, topic: str, count: int) -> list[Any]:
    consumer = KafkaConsumer(
        bootstrap_servers=kafka.bootstrap,
        auto_offset_reset="earliest",
        group_id=None,
        consumer_timeout_ms=10_000,
        max_partition_fetch_bytes=4 << 20,
    )
    consumer.subscribe([topic])
    records = []
    for record in consumer:
        records.append(record)
        if len(records) == count:
            break
    assert not any(consumer.poll(300).values()), "more than was shipped"
    consumer.close()
    return records


def sekisho(
    kafka: LocalKafka | str, *arguments: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    brokers = kafka if isinstance(kafka, str) else kafka.bootstrap
    command = [sys.executable, "-c", "from stream.cli import main; main()", "produce", "--brokers", brokers]
    return subprocess.run([*command, *arguments], input=stdin, capture_output=True, timeout=120, check=False)


def test_every_line_arrives_in_order_with_its_key(broker: LocalKafka, tmp_path: Path) -> None:
    good = [orjson.dumps({"allocation_id": f"A-{n % 7}", "n": n}) for n in range(3000)]
    bad = [b"", b"{", b"\xff\xfe", b'{"allocation_id":"A-1"}\r', b"null", b"x" * 300_000]
    first, second = tmp_path / "a.ndjson", tmp_path / "b.ndjson"
    first.write_bytes(b"\n".join(good) + b"\n")
    second.write_bytes(b"\n".join(bad))  # the last line has no LF and is a record too
    topic = "custody.allocation"
    done = sekisho(broker, "--topic", topic, "--create", "--partitions", "4", "--json", str(first), "-",
                   str(second), stdin=b'{"allocation_id":"A-stdin"}\n')  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["read"] == summary["sent"] == 3007
    assert summary["refused"] == 0
    assert summary["without_key"] == 5
    assert summary["bytes"] == sum(map(len, [*good, *bad])) + len(b'{"allocation_id":"A-stdin"}')
    records = read(broker, topic, 3007)
    shipped = [*good, *bad, b'{"allocation_id":"A-stdin"}']
    assert sorted(record.value for record in records) == sorted(shipped)
    for n in range(7):
        mine = [orjson.loads(record.value)["n"] for record in records if record.key == f"A-{n}".encode()
                and record.value.endswith(b"}") and b'"n"' in record.value]  # fmt: skip
        assert mine == list(range(n, 3000, 7)), "records of one key keep their order"
    assert len({record.partition for record in records}) > 1


def test_tombstones_and_times_arrive(broker: LocalKafka, tmp_path: Path) -> None:
    file = tmp_path / "site.ndjson"
    file.write_text(
        '{"site_id":"S-1","version":1,"valid_from":"2026-01-01T00:00:00Z"}\n'
        '{"site_id":"S-1","tombstone_at":"2026-03-01T00:00:00Z"}\n'
    )
    done = sekisho(broker, "--topic", "custody.site", "--create", "--partitions", "1", str(file))
    assert done.returncode == 0, done.stderr
    assert b"2 records to custody.site" in done.stdout
    assert b"1 of them tombstones" in done.stdout
    version, tombstone = read(broker, "custody.site", 2)
    assert version.key == tombstone.key == b"S-1"
    assert abs(version.timestamp - time.time() * 1000) < 60_000
    assert tombstone.value is None
    assert tombstone.timestamp == 1_772_323_200_000


def test_lines_without_an_id_reach_a_compacted_topic_and_replace_nothing(broker: LocalKafka) -> None:
    bad = [b"", b"{", b'{"serial":7}', b'{"version":1}']
    done = sekisho(broker, "--topic", "custody.asset", "--create", "-", stdin=b"\n".join(bad) + b"\n")
    assert done.returncode == 0, done.stderr
    assert b"4 without a key" in done.stdout
    records = read(broker, "custody.asset", 4)
    assert sorted(record.value for record in records) == sorted(bad)
    assert len({record.key for record in records}) == 4


def test_event_time_needs_a_topic_that_takes_it(broker: LocalKafka, tmp_path: Path) -> None:
    file = tmp_path / "e.ndjson"
    file.write_text(
        '{"event_id":"1","occurred_at":"2026-03-01T00:00:00Z"}\n'
        '{"event_id":"2","occurred_at":"9999-01-01T00:00:00Z"}\n'
        '{"event_id":"3"}\n'
    )
    done = sekisho(broker, "--topic", "custody.placement", "--create", "--partitions", "1", "--event-time",
                   str(file))  # fmt: skip
    assert done.returncode == 0, done.stderr
    stamps = [record.timestamp for record in read(broker, "custody.placement", 3)]
    assert stamps[0] == 1_772_323_200_000
    assert all(abs(stamp - time.time() * 1000) < 60_000 for stamp in stamps[1:]), "the future is cut to now"
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as admin:
        create_missing(admin, ["custody.access"], 1)
        assert configuration(admin, ["custody.placement"])["custody.placement"]["retention.ms"] == "-1"
    done = sekisho(broker, "--topic", "custody.access", "--event-time", str(file))
    assert done.returncode == 2
    assert b"message.timestamp.type=CreateTime" in done.stderr


def test_records_older_than_the_retention_are_named(broker: LocalKafka, tmp_path: Path) -> None:
    broker.create_topics({"produce.week": 1}, {"retention.ms": "604800000"})
    limits = Limits.of({"retention.ms": "604800000"})
    shipper = Shipper("produce.week", options(broker), event_time=False, limits=limits)
    shipper._send(Message(b"k", b"v", 1_772_323_200_000), "f:1")
    shipper.close()
    assert shipper.summary.expired == 1


def test_a_record_that_the_topic_refuses_is_named_and_the_others_arrive(
    broker: LocalKafka, tmp_path: Path
) -> None:
    broker.create_topics({"produce.small": 1}, {"max.message.bytes": "20000"})
    file = tmp_path / "f.ndjson"
    content = [b'{"n":%d}' % n for n in range(5000)]
    content[7] = b"y" * 30_000
    file.write_bytes(b"\n".join(content))
    done = sekisho(broker, "--topic", "produce.small", "--json", str(file))
    assert done.returncode == 1
    assert f"1 of 5,000 records are refused by the topic, the first at {file}:8:" in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["read"], summary["sent"], summary["refused"]) == (5000, 4999, 1)
    assert len(read(broker, "produce.small", 4999)) == 4999


def test_a_tombstone_from_the_far_future_is_refused_alone(broker: LocalKafka) -> None:
    broker.create_topics({"custody.source": 1})
    shipper = Shipper("custody.source", options(broker), event_time=False)
    content = [
        b'{"source":"a","version":1}',
        b'{"source":"a","tombstone_at":"9999-01-01T00:00:00Z"}',
        b'{"source":"b","version":1}',
    ]
    shipper.ship(Line(line, f"f:{n}") for n, line in enumerate(content, 1))
    shipper.close()
    assert shipper.summary.sent == 2
    assert shipper.summary.first_refusal is not None
    assert shipper.summary.first_refusal.startswith("f:2: ")
    assert [record.key for record in read(broker, "custody.source", 2)] == [b"a", b"b"]


def test_wrong_use_is_one_line(broker: LocalKafka, tmp_path: Path) -> None:
    done = sekisho(broker, "--topic", "custody.nowhere", "-")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"sekisho: topic custody.nowhere does not exist; create it with --create\n"
    done = sekisho(broker, "--topic", "custody.site", str(tmp_path / "absent"))
    assert done.returncode == 2
    assert done.stderr.endswith(b"absent is not a file\n")


def test_no_broker_is_one_line() -> None:
    done = sekisho("127.0.0.1:1", "--topic", "custody.site", "-")
    assert done.returncode == 1
    assert done.stderr.startswith(b"sekisho: 127.0.0.1:1 cannot be used: ")
    assert done.stderr.count(b"\n") == 1


class Broken:
    """A producer whose broker has gone: every record fails after the first three."""

    def __init__(self, **_: Any) -> None:
        self.sent = 0
        self.waiting: list[Any] = []

    def send(self, topic: str, value: bytes | None, key: bytes | None, timestamp_ms: int | None) -> "Broken":
        self.sent += 1
        return self

    def add_errback(self, told: Any) -> None:
        if self.sent > 3:
            self.waiting.append(told)
        if self.sent == 5:  # answers need not come in the order of sending
            for waiting in reversed(self.waiting):
                waiting(KafkaTimeoutError("gone"))

    def add_callback(self, told: Any) -> None:
        if self.sent <= 3:
            told(None)


def test_a_lost_broker_ends_it_and_names_where_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(produce, "KafkaProducer", Broken)
    monkeypatch.setattr(produce, "SETTLE_RECORDS", 5)
    shipper = Shipper("custody.access", {}, event_time=False)
    with pytest.raises(SekishoError, match=r"takes no more records: .*3 are shipped, ship again from f:4 "):
        shipper.ship(Line(b"{}", f"f:{n}") for n in range(1, 1000))
    assert shipper.summary.read == 5, "it stops when it next looks"


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        list(produce.open_lines([tmp_path], io.BytesIO()))

"""`sekisho produce`: ships the lines of files to a topic, each as one record, none dropped.

Lines are split as `scan` splits them: only LF ends a line and nothing follows the last LF. A line that is no
valid record is shipped as it is: judging it is the worker's work, and its rejection is evidence.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

import orjson
from kafka import KafkaProducer
from kafka.admin import ConfigResource, KafkaAdminClient
from kafka.errors import KafkaError

from schemas.errors import SekishoError, UsageError
from schemas.events import EVENTS
from schemas.record import Record
from schemas.reference import REFERENCES
from schemas.times import parse_time
from stream.clients import use_fast_checksums
from stream.topics import LOG_APPEND_TIME, TIMESTAMP_TYPE

RECORDS: Mapping[str, Record] = MappingProxyType({**EVENTS, **REFERENCES})
EVENT_KEYS = ("allocation_id", "workload_id", "principal")
SETTLE_BYTES = 16 << 20  # kafka-python buffers without bound: this is the bound
SETTLE_RECORDS = 50_000
BATCH_OVERHEAD = 61 + 21  # bytes of a batch's header, and at most of its one record
FOREVER_MS = (1 << 63) - 1


class Message(NamedTuple):
    """What one line becomes: `timestamp_ms` None is the time of shipping, `value` None a tombstone."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None = None


class Line(NamedTuple):
    """One line without its LF, and where it is for people (`file:number`)."""

    value: bytes
    place: str


@dataclass
class Summary:
    """What was shipped. `refused` records are not in the topic; `expired` ones are older than it keeps."""

    topic: str
    read: int = 0
    refused: int = 0
    tombstones: int = 0
    without_key: int = 0
    expired: int = 0
    bytes: int = 0
    seconds: float = 0.0
    first_refusal: str | None = None

    @property
    def sent(self) -> int:
        return self.read - self.refused


def message(topic: str, line: bytes, event_time: bool = False) -> Message:
    """The record that a line becomes on a topic.

    Its key is what the contract names: `allocation_id`, else `workload_id`, else `principal` of an event, the
    id of a reference record; null where the line has none. A reference line with exactly the id and
    `tombstone_at` becomes a null value at that time. With `event_time` an event is stamped with its
    `occurred_at`.
    """
    record = RECORDS.get(topic)
    if record is None:
        return Message(None, line)
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        return Message(None, line)
    if not isinstance(fields, dict):
        return Message(None, line)
    if record.is_event:
        return Message(_event_key(record, fields), line, _stamp(fields) if event_time else None)
    key = _reference_key(record, fields)
    if key is not None and "tombstone_at" in fields:
        at = _tombstone_at(record, line)
        if at is not None:
            return Message(key, None, at)
    return Message(key, line)


def lines(file: BinaryIO, name: str) -> Iterator[Line]:
    """The lines of an open file, numbered from 1."""
    for number, line in enumerate(file, 1):
        yield Line(line.removesuffix(b"\n"), f"{name}:{number}")


class Shipper:
    """Sends lines to one topic through a kafka-python producer with idempotence on.

    What the broker would refuse is refused here (see `Limits`): after a refusal by the broker an idempotent
    producer of kafka-python 3 is dead, and so are the records behind it.
    """

    def __init__(
        self, topic: str, connection: Mapping[str, Any], event_time: bool, limits: "Limits | None" = None
    ) -> None:
        self.summary = Summary(topic)
        self._event_time = event_time
        self._limits = limits or Limits()
        # A compacted topic takes no record without a key, and a line without an id must not replace another.
        self._needs_key = topic in REFERENCES or self._limits.compacted
        self._done = threading.Condition()  # answers come in the sender's thread
        self._waiting = 0
        self._failed: tuple[int, str, BaseException] | None = None  # the earliest line that failed
        self._began = time.monotonic()
        use_fast_checksums()
        self._producer: Any = KafkaProducer(
            **connection,
            linger_ms=20,
            batch_size=min(256 << 10, self._limits.largest),
            max_request_size=256 << 20,
            allow_auto_create_topics=False,
            max_block_ms=15_000,
        )

    def ship(self, source: Iterable[Line], progress: Callable[[int], None] = lambda _: None) -> None:
        """Send every line and wait until the broker has them; `progress` is told bytes now and then.

        Raises:
            SekishoError: the broker takes no more; the text names the first line that was not shipped.
        """
        unsettled, count, told = 0, 0, 0
        for value, place in source:
            self._send(message(self.summary.topic, value, self._event_time), place)
            unsettled += len(value) + 1
            count += 1
            if count % 1024 == 0:  # a progress bar costs as much as a record
                progress(unsettled - told)
                told = unsettled
            if unsettled >= SETTLE_BYTES or count >= SETTLE_RECORDS:
                self._settle()
                progress(unsettled - told)
                unsettled, count, told = 0, 0, 0
        self._settle()
        progress(unsettled - told)

    def close(self) -> None:
        """Send what is buffered, for at most five seconds, and end."""
        self._producer.close(timeout=5)
        self.summary.seconds = round(time.monotonic() - self._began, 3)

    def _send(self, sent: Message, place: str) -> None:
        now = int(time.time() * 1000)
        self.summary.read += 1
        self.summary.bytes += len(sent.value or b"")
        self.summary.tombstones += sent.value is None
        self.summary.without_key += sent.key is None
        stamp = sent.timestamp_ms
        if stamp is not None and sent.value is not None:
            stamp = min(stamp, now)  # an event from the future is for the worker to find, not for the broker
        reason = self._limits.refusal(len(sent.key or b"") + len(sent.value or b""), stamp, now)
        if reason is not None:
            self.summary.refused += 1
            self.summary.first_refusal = self.summary.first_refusal or f"{place}: {reason}"
            return
        self.summary.expired += stamp is not None and self._limits.is_expired(stamp, now)
        key = sent.key
        if key is None and self._needs_key and sent.value is not None:
            key = hashlib.sha256(sent.value).hexdigest().encode()
        number = self.summary.read
        with self._done:
            self._waiting += 1
        try:
            future = self._producer.send(self.summary.topic, sent.value, key, timestamp_ms=stamp)
        except KafkaError as error:
            self._answered((number, place, error))
        else:
            future.add_callback(lambda _: self._answered(None))
            future.add_errback(lambda error: self._answered((number, place, error)))

    def _answered(self, failed: tuple[int, str, BaseException] | None) -> None:
        with self._done:
            self._waiting -= 1
            if failed is not None:
                self.summary.refused += 1
                if self._failed is None or failed[0] < self._failed[0]:
                    self._failed = failed
            if not self._waiting:
                self._done.notify_all()

    def _settle(self) -> None:
        """Wait until the broker has answered for every record sent so far."""
        with self._done:  # kafka-python's own flush() raises where it had to split a batch
            self._done.wait_for(lambda: not self._waiting)
        if self._failed is not None:
            _, place, error = self._failed
            raise SekishoError(
                f"{self.summary.topic} takes no more records: {error}; {self.summary.sent:,} are shipped, "
                f"ship again from {place} (a record sent twice is recognised as a duplicate)"
            )


@dataclass(frozen=True)
class Limits:
    """What a topic takes: bytes of a record batch, and timestamps so far from the broker's clock (ms)."""

    largest: int = 1_048_588  # Kafka's defaults
    ahead_ms: int = 3_600_000
    behind_ms: int = FOREVER_MS
    retention_ms: int = FOREVER_MS
    log_append_time: bool = False
    compacted: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, str]) -> "Limits":
        """The limits that a topic's settings make; Kafka's defaults for what they do not say."""
        retention = int(settings.get("retention.ms", -1))
        kept = retention < 0 or "delete" not in settings.get("cleanup.policy", "delete")
        return cls(
            largest=int(settings.get("max.message.bytes", cls.largest)),
            ahead_ms=int(settings.get("message.timestamp.after.max.ms", cls.ahead_ms)),
            behind_ms=int(settings.get("message.timestamp.before.max.ms", cls.behind_ms)),
            retention_ms=FOREVER_MS if kept else retention,
            compacted="compact" in settings.get("cleanup.policy", ""),
            log_append_time=settings.get(TIMESTAMP_TYPE) == LOG_APPEND_TIME,
        )

    def refusal(self, size: int, stamp: int | None, now: int) -> str | None:
        """Why the broker would refuse a record of `size` bytes of key and value, None where it would not."""
        if size + BATCH_OVERHEAD > self.largest:
            return f"{size:,} bytes are more than the topic takes; raise its max.message.bytes"
        if stamp is None or self.log_append_time:
            return None
        if stamp > now + self.ahead_ms:
            return "its time lies further ahead than the topic takes; ship it later"
        if stamp < now - self.behind_ms:
            return "its time lies further back than the topic takes; raise message.timestamp.before.max.ms"
        return None

    def is_expired(self, stamp: int, now: int) -> bool:
        """Whether a record of this time is older than the topic keeps."""
        return not self.log_append_time and stamp < now - self.retention_ms


def check_topic(admin: KafkaAdminClient, topic: str, event_time: bool) -> Limits:
    """Refuse a topic that cannot take the records; return its limits.

    Raises:
        UsageError: the topic does not exist, or stamps records itself although `event_time` is asked for.
    """
    if topic not in admin.list_topics():
        raise UsageError(f"topic {topic} does not exist; create it with --create")
    limits = Limits.of(configuration(admin, [topic]).get(topic, {}))
    if event_time and limits.log_append_time:
        raise UsageError(
            f"{topic} stamps records itself, so --event-time has no effect: "
            f"set {TIMESTAMP_TYPE}=CreateTime on the topic or leave the option out"
        )
    return limits


def configuration(admin: KafkaAdminClient, topics: Iterable[str]) -> dict[str, dict[str, str]]:
    """The settings in force on each topic, the defaults included; none where they may not be read."""
    resources = [ConfigResource("TOPIC", topic) for topic in topics]
    described = admin.describe_configs(resources, config_filter="all").get("topic", {})
    return {
        topic: {name: entry["value"] for name, entry in entries.items()}
        for topic, entries in described.items()
    }


def open_lines(paths: Iterable[Path], stdin: BinaryIO) -> Iterator[Line]:
    """The lines of every file in turn; `-` is standard input.

    Raises:
        UsageError: a file cannot be read.
    """
    for path in paths:
        if str(path) == "-":
            yield from lines(stdin, "stdin")
            continue
        try:
            with path.open("rb") as file:
                yield from lines(file, str(path))
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error


def _event_key(record: Record, fields: Mapping[str, object]) -> bytes | None:
    for name in EVENT_KEYS:
        value = fields.get(name)
        if name in record.by_name and isinstance(value, str) and value:
            return value.encode()
    return None


def _reference_key(record: Record, fields: Mapping[str, object]) -> bytes | None:
    parts = [fields.get(name) for name in record.key]
    texts = [part for part in parts if isinstance(part, str) and part]
    return "|".join(texts).encode() if len(texts) == len(parts) else None


def _stamp(fields: Mapping[str, object]) -> int | None:
    at = fields.get("occurred_at")
    micros = parse_time(at) if isinstance(at, str) else None
    return None if micros is None else micros // 1000


def _tombstone_at(record: Record, line: bytes) -> int | None:
    """The time (ms) of a tombstone line, None where the line is none: other names, a name twice, no time."""
    try:
        pairs = json.loads(line, object_pairs_hook=list)
    except RecursionError:  # nested too deep for json, so there is more in it than texts
        return None
    if sorted(name for name, _ in pairs) != sorted((*record.key, "tombstone_at")):
        return None
    at = dict(pairs)["tombstone_at"]
    micros = parse_time(at) if isinstance(at, str) else None
    return None if micros is None else micros // 1000

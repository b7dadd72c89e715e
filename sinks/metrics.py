"""What a running process tells Prometheus: counts, offsets, ages and durations, never who.

Names follow Prometheus' own naming practice: prefix `custody_`, base units, counters end in `_total`.
Labels come from closed sets (topics, reasons, rule ids, severities, reference streams), so neither an
identity nor a partition can become a series; whatever is outside its set is counted as `other`. Ages are
exported as the time of the last occurrence: `time() - x` is the age, and stays true when the process hangs.
docs/metrics.md has the table.
"""

import platform
import re
from collections.abc import Iterable, Mapping
from importlib import metadata

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.record import Record
from schemas.reference import REFERENCES
from schemas.ticks import TICK

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 9464  # where OpenTelemetry's Prometheus exporters listen; free of the 9100–9399 registry
OTHER = "other"
SEVERITIES = ("info", "low", "medium", "high", "critical")
RECORDS: Mapping[str, Record] = {**EVENTS, **REFERENCES, TICK.topic: TICK}
RULE_ID = re.compile(r"(gap|flag)(\.[a-z][a-z0-9_]*){2,3}", re.ASCII)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


def reasons(record: Record) -> tuple[str, ...]:
    """Every reason for which a record of this kind can be rejected, in the contract's order."""
    named = [f"missing:{field.name}" for field in record.fields if field.required]
    named += [f"type:{field.name}" for field in record.fields]
    named += [f"enum:{field.name}" for field in record.fields if field.enum]
    late = () if record.is_event else ("key", "version_conflict")
    return ("too_large", "tombstone", "not_json", "not_object", *named, *late)


_REASONS = {topic: frozenset(reasons(record)) for topic, record in RECORDS.items()}


class Exporter:
    """The registry of one process, and the address it is scraped at."""

    def __init__(self) -> None:
        # Each counter would bring a second series with its time of birth, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        build = self._gauge("build_info", "Always 1; the labels say what is running", "version", "python")
        build.labels(_version(), platform.python_version()).set(1)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"custody_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"custody_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"custody_{name}", text, registry=self.registry, buckets=SECONDS)

    def serve(self, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT) -> int:
        """Serve `/metrics` from a daemon thread; returns the port, chosen by the system where 0 is asked for.

        There is no authentication: bind another address than loopback only where the network is trusted.
        """
        try:
            server, _ = start_http_server(port, addr=host, registry=self.registry)
        except (OSError, OverflowError) as error:
            raise SekishoError(
                f"metrics cannot be served on {host}:{port}: {error}; choose another address with --metrics"
            ) from error
        return int(server.server_port)


class Metrics(Exporter):
    """The metrics of one worker.

    Counters exist, at zero, from the start for every topic and reason (and for the `rules` given, as pairs of
    id and severity): an alert on `rate()` then sees the first rejected record too.
    """

    def __init__(self, rules: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__()
        self._define()
        for topic in RECORDS:
            self._read.labels(topic)
            self._landed.labels(topic)
            for reason in reasons(RECORDS[topic]):
                self._rejected.labels(topic, reason)
        for topic, record in REFERENCES.items():
            self._duplicates.labels(topic)
            self._versions.labels(record.name)
        for rule_id, severity in rules:
            self._found.labels(*rule_labels(rule_id, severity))

    def _define(self) -> None:
        counter, gauge, histogram = self._counter, self._gauge, self._histogram
        self._read = counter("events_read_total", "Records read from Kafka, re-reads included", "topic")
        self._landed = counter(
            "events_landed_total", "Records committed to the lake, rejected ones included", "topic"
        )
        self._rejected = counter(
            "events_rejected_total", "Landed records that were rejected", "topic", "reason"
        )
        self._duplicates = counter(
            "reference_duplicates_total",
            "Landed reference records that repeat a version already held",
            "topic",
        )
        self._found = counter("findings_total", "Firings of rules at landing", "rule", "severity")
        self._batch = histogram("batch_seconds", "Time to decode, join, judge and write one batch")
        self._commit = histogram("commit_seconds", "Time to make one batch durable in the lake")
        self._committed = gauge(
            "last_commit_timestamp_seconds", "Time of the last commit to the lake, 0 before the first"
        )
        self._offsets_read = gauge("offsets_read", "Sum over assigned partitions of the next offset to read")
        self._offsets_landed = gauge(
            "offsets_landed", "Sum over assigned partitions of the next offset to land, as the lake has it"
        )
        self._offsets_end = gauge(
            "offsets_end", "Sum over assigned partitions of the end offset, as last fetched"
        )
        self._versions = gauge("reference_versions", "Versions of reference records held in memory", "stream")
        self._newest = gauge(
            "reference_newest_timestamp_seconds", "Broker time of the newest version held", "stream"
        )

    def read(self, topic: str, n: int) -> None:
        self._read.labels(_topic(topic)).inc(n)

    def landed(self, topic: str, n: int) -> None:
        """`n` records of a topic were committed, accepted or rejected alike."""
        self._landed.labels(_topic(topic)).inc(n)

    def rejected(self, topic: str, reason: str, n: int) -> None:
        """Of those that landed, `n` were rejected for this reason."""
        known = reason in _REASONS.get(topic, ())
        self._rejected.labels(_topic(topic), reason if known else OTHER).inc(n)

    def duplicates(self, topic: str, n: int) -> None:
        """Of the reference records that landed, `n` repeat a version that was already held."""
        self._duplicates.labels(_topic(topic)).inc(n)

    def found(self, rule_id: str, severity: str, n: int) -> None:
        self._found.labels(*rule_labels(rule_id, severity)).inc(n)

    def batch(self, seconds: float) -> None:
        self._batch.observe(seconds)

    def commit(self, seconds: float) -> None:
        self._commit.observe(seconds)

    def committed(self, at: float) -> None:
        """The lake was committed to at this Unix time."""
        self._committed.set(at)

    def offsets(self, read: int, landed: int, end: int | None = None) -> None:
        """Sums over the assigned partitions of next offsets; `end` where the fetcher knows it.

        They move with a rebalance, so only their differences mean something: read − landed is in flight,
        end − landed is the lag.
        """
        self._offsets_read.set(read)
        self._offsets_landed.set(landed)
        self._offsets_end.set(read if end is None else max(read, end))

    def references(self, stream: str, versions: int, newest: float | None) -> None:
        """`versions` of a reference stream (`party`, …) are held, the newest of this Unix broker time."""
        stream = stream if f"custody.{stream}" in REFERENCES else OTHER
        self._versions.labels(stream).set(versions)
        if newest is not None:
            self._newest.labels(stream).set(newest)


def _topic(topic: str) -> str:
    return topic if topic in RECORDS else OTHER


def rule_labels(rule_id: str, severity: str) -> tuple[str, str]:
    """Values of the labels `rule` and `severity`."""
    rule = rule_id if RULE_ID.fullmatch(rule_id) else OTHER
    return rule, severity if severity in SEVERITIES else OTHER


def _version() -> str:
    try:
        return metadata.version("sekisho")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"

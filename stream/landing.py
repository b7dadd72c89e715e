"""What is judged, on its way into the lake: micro-batches gather in one open transaction until it is due."""

import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

import pyarrow.compute as pc

from sinks.lake import Lake, Transaction
from sinks.metrics import Metrics
from stream.judging import Judged, extend
from stream.positions import Hole, Partition
from stream.settings import Settings


class Lander:
    """The open transaction. One call at a time, from any thread."""

    def __init__(self, lake: Lake, settings: Settings, metrics: Metrics) -> None:
        self.landed: dict[Partition, int] = {}  # next offset of what was committed
        self.rows_landed = 0
        self._lake = lake
        self._settings = settings
        self._metrics = metrics
        self._reset()

    def _reset(self) -> None:
        self._transaction: Transaction | None = None
        self._since = 0.0
        self._rows = 0
        self._bytes = 0
        self._ranges: dict[Partition, tuple[int, int]] = {}
        self._holes: list[Hole] = []
        self._known: Mapping[Partition, int] = {}
        self._has_events = False
        self._counts: Counter[tuple[str, str | None]] = Counter()  # by topic and reason of rejection
        self._duplicates: Counter[str] = Counter()

    @property
    def is_open(self) -> bool:
        return self._transaction is not None

    @property
    def age(self) -> float:
        """Seconds since the first record of the open transaction was read, 0 without one."""
        return time.monotonic() - self._since if self.is_open else 0.0

    @property
    def is_due(self) -> bool:
        """Whether the open transaction is to be committed: by rows, bytes or seconds."""
        limits = self._settings
        return self.is_open and (
            self._rows >= limits.commit_rows
            or self._bytes >= limits.commit_bytes
            or self.age >= limits.commit_seconds
        )

    def must_commit_before(self, judged: Judged) -> bool:
        """Whether the open transaction's events were judged knowing less than this batch.

        A commit records one state of knowledge, with which its events can be judged again.
        """
        return self._has_events and judged.has_events and judged.known != self._known

    def append(self, judged: Judged) -> None:
        """Add a micro-batch to the open transaction, opening one if there is none."""
        if self._transaction is None:
            self._transaction = self._lake.begin(datetime.now(UTC))
            self._since = judged.since
        for landing in judged.landings:
            self._transaction.append(landing)
            topic = landing.record.topic
            self._duplicates[topic] += landing.duplicates
            for counted in landing.raw["reason"].value_counts().to_pylist():
                self._counts[topic, counted["values"]] += counted["counts"]
        for partition, span in judged.ranges.items():
            extend(self._ranges, partition, span)
        self._holes += judged.holes
        if judged.has_events or not self._has_events:
            self._known = judged.known
        self._has_events |= judged.has_events
        self._rows += judged.rows
        self._bytes += judged.bytes

    def commit(self) -> Mapping[Partition, int]:
        """Make the open transaction durable and return the next offset of each partition in it.

        Raises Conflict when another worker has landed these partitions, SekishoError when the disk fails.
        """
        if self._transaction is None:
            return {}
        began = time.monotonic()
        ranges = {partition: span for partition, span in self._ranges.items() if span[0] != span[1]}
        waiting = [hole for hole in self._holes if hole[:2] not in ranges]
        holes = [hole for hole in self._holes if hole[:2] in ranges]
        self._transaction.commit(ranges, self._known, holes)
        self._metrics.commit(time.monotonic() - began)
        self._metrics.committed(time.time())
        ends = {partition: end for partition, (_, end) in ranges.items()}
        self.landed.update(ends)
        self._count()
        self._reset()
        self._holes = (
            waiting  # a log given up as a whole, of which no record has come yet: noted with the first
        )
        self._ranges = {(topic, number): (start, end) for topic, number, start, end in waiting}
        return ends

    def _count(self) -> None:
        for (topic, reason), count in self._counts.items():
            self._metrics.landed(topic, count)
            self.rows_landed += count
            if reason is not None:
                self._metrics.rejected(topic, reason, count)
        for topic, count in self._duplicates.items():
            if count:
                self._metrics.duplicates(topic, count)

    def abort(self) -> None:
        """Drop the open transaction; what it held will be read again."""
        if self._transaction is not None:
            self._transaction.abort()
        self._reset()

    def offsets(self) -> dict[Partition, int]:
        """The lake's next offsets, after completing what a crash left undone."""
        offsets = self._lake.offsets()
        self.landed = dict(offsets)
        return offsets


def found(judged: Judged, metrics: Metrics) -> None:
    """Count what fired at landing."""
    for landing in judged.landings:
        rows = landing.findings
        if rows.num_rows:
            pairs = pc.binary_join_element_wise(rows["rule_id"], rows["severity"], " ")
            for counted in pairs.value_counts().to_pylist():
                rule, severity = counted["values"].split(" ")
                metrics.found(rule, severity, counted["counts"])

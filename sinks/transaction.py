"""One batch on its way into the lake: rows stream into Parquet files, then all is committed at once."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import SekishoError
from schemas.record import Record
from sinks.batch import Batch, Hole, Owed, Partition
from sinks.parquet import TableFile

if TYPE_CHECKING:
    from sinks.lake import Lake


class Landed(Protocol):
    """A `rules.pipeline.Landing`: batches of RAW, typed(record) and FINDING_EVENT without `ingested_at`."""

    @property
    def record(self) -> Record: ...
    @property
    def raw(self) -> pa.RecordBatch: ...
    @property
    def typed(self) -> pa.RecordBatch: ...
    @property
    def findings(self) -> pa.RecordBatch: ...


class Conflict(SekishoError):  # noqa: N818
    """The lake's offset of a partition is not the batch's start: another worker has landed there."""


class Transaction:
    """A batch that is not landed until `commit` returns.

    `rows` and `bytes` (in memory) count the raw rows so far.
    """

    def __init__(self, lake: "Lake", at: datetime) -> None:
        """Use `Lake.begin`. `at` becomes `ingested_at`, and its UTC date the `dt` of every row."""
        assert at.tzinfo is not None, "ingest time without a zone"
        self._lake = lake
        self._at = at.astimezone(UTC)
        self._open: dict[str, TableFile] = {}
        self._topics: dict[str, set[str]] = {}
        self._spans: dict[Partition, _Span] = {}
        self.rows = 0
        self.bytes = 0

    def append(self, landing: Landed) -> None:
        """Adds the rows of one landing. Raises SekishoError when the disk does not take them."""
        record = landing.record
        self._measure(landing.raw)
        for table, rows in (
            ("raw", landing.raw),
            (record.name, landing.typed),
            ("finding_event", landing.findings),
        ):
            if rows.num_rows:
                self._file(table).append(rows)
                topics: list[Any] = pc.unique(rows["topic"]).to_pylist()
                self._topics.setdefault(table, set()).update(topics)
        self.rows += landing.raw.num_rows
        self.bytes += landing.raw.nbytes

    def commit(
        self,
        ranges: Mapping[Partition, tuple[int, int]],
        known: Mapping[Partition, int],
        holes: Sequence[Hole] = (),
    ) -> None:
        """Lands the batch in every table, durably.

        `ranges` are the half-open offset ranges the batch covers, `known` the next offset that had been read
        of each reference partition, `holes` the offsets inside the ranges that Kafka does not hold. Raises
        Conflict when a partition's offset in the lake is not the start of its range (nothing is landed), and
        SekishoError when the disk fails (what is not landed is read again, what is gets completed at the
        next start).
        """
        ranges = {partition: span for partition, span in ranges.items() if span[0] != span[1]}
        self._check_complete(ranges, holes)
        if not ranges:
            return
        try:
            files = {table: file.finish() for table, file in self._open.items()}
            raw = [files.pop("raw")] if "raw" in files else []
            owed = {table: Owed([file], sorted(self._topics[table])) for table, file in files.items()}
            batch = Batch(ranges, known, holes, raw, owed)
            self._lake.prepare(batch)
        except BaseException:
            self.abort()
            raise
        # From here on the log may name the files, however landing ends: no abort may find them.
        written, self._open = self._open, {}
        try:
            self._lake.land(batch)
        except Conflict:
            _discard(written.values())
            raise

    def abort(self) -> None:
        """Drops the batch and removes its files, but for those that a failed commit may have landed."""
        _discard(self._open.values())
        self._open = {}

    def _file(self, table: str) -> TableFile:
        if table not in self._open:
            self._open[table] = self._lake.new_file(table, self._at)
        return self._open[table]

    def _measure(self, raw: pa.RecordBatch) -> None:
        if not raw.num_rows:
            return
        columns = pa.table({name: raw[name] for name in ("topic", "partition", "offset")})
        grouped = columns.group_by(["topic", "partition"]).aggregate(
            [("offset", "min"), ("offset", "max"), ("offset", "count")]
        )
        for row in grouped.to_pylist():
            span = self._spans.setdefault((row["topic"], row["partition"]), _Span())
            span.extend(row["offset_min"], row["offset_max"], row["offset_count"])

    def _check_complete(self, ranges: Mapping[Partition, tuple[int, int]], holes: Iterable[Hole]) -> None:
        """Every offset of a range is a row or in a hole, and no row is outside: raw is contiguous."""
        missing = {partition: end - start for partition, (start, end) in ranges.items()}
        for partition, span in self._spans.items():
            assert partition in ranges, f"rows of {partition} without a range"
            start, end = ranges[partition]
            assert start <= span.least <= span.greatest < end, f"rows of {partition} outside {start}..{end}"
            missing[partition] -= span.count
        for topic, number, start, end in holes:
            assert (topic, number) in ranges, f"a hole of {topic}:{number} without a range"
            missing[topic, number] -= end - start
        wrong = {partition: count for partition, count in missing.items() if count}
        assert not wrong, f"offsets neither landed nor declared holes (or twice): {wrong}"


def _discard(files: Iterable[TableFile]) -> None:
    for file in files:
        file.discard()


class _Span:
    def __init__(self) -> None:
        self.least = 1 << 63
        self.greatest = -1
        self.count = 0

    def extend(self, least: int, greatest: int, count: int) -> None:
        self.least = min(self.least, least)
        self.greatest = max(self.greatest, greatest)
        self.count += count

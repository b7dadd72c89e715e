"""`sekisho scan`: the worker's pipeline and the reconciler over files, without Kafka (contract section 6)."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.judge import Judge
from rules.pipeline import Landing, admit_references, decode_events, judge_events
from rules.reconciler.given import Clock, StepOutput
from rules.reconciler.step import Reconciler
from rules.references import References
from rules.rule import Rule
from rules.suppressions import Suppression
from schemas.errors import SekishoError, UsageError
from schemas.events import EVENTS
from schemas.record import TIME, Record
from schemas.reference import REFERENCES
from schemas.tables import FETCHED
from sinks.lake import Lake
from stream.reconciling import Reconciling

BATCH_BYTES = 32 << 20
COMMIT_BYTES = 256 << 20
MEMORY_BYTES = 64 << 20  # of records, up to which the reconciler's state is kept in memory
PARTITION = 0


@dataclass
class Summary:
    """What a scan did.

    `read`, `rejected` and `duplicates` count records by stream, `findings` by rule id what fired at landing,
    `states` by rule id and state the findings there are in the end. `coverage` is accelerator-seconds with
    all four links over all of them, None where there are none; `watermark` a time as text, None without
    events.
    """

    read: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    findings: dict[str, int] = field(default_factory=dict)
    states: dict[str, dict[str, int]] = field(default_factory=dict)
    coverage: float | None = None
    watermark: str | None = None

    def add(self, landing: Landing) -> None:
        name = landing.record.name
        rejected = landing.raw.num_rows - landing.typed.num_rows - landing.duplicates
        self.read[name] = self.read.get(name, 0) + landing.raw.num_rows
        self.rejected[name] = self.rejected.get(name, 0) + rejected
        self.duplicates[name] = self.duplicates.get(name, 0) + landing.duplicates
        for counted in landing.findings.column("rule_id").value_counts().to_pylist():
            rule = counted["values"]
            self.findings[rule] = self.findings.get(rule, 0) + counted["counts"]

    def conclude(self, output: StepOutput) -> None:
        for counted in output.duplicates["topic"].value_counts().to_pylist():
            self.duplicates[EVENTS[counted["values"]].name] += counted["counts"]
        counts = output.history.group_by(["rule_id", "state"]).aggregate([([], "count_all")])
        for row in counts.sort_by([("rule_id", "ascending"), ("state", "ascending")]).to_pylist():
            self.states.setdefault(row["rule_id"], {})[row["state"]] = row["count_all"]
        self.coverage = coverage(output.coverage)
        if output.watermark is not None:
            self.watermark = pa.scalar(output.watermark, TIME).as_py().strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def scan(
    source: Path,
    lake: Path,
    rules: Sequence[Rule],
    until: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
    suppressions: Sequence[Suppression] = (),
) -> Summary:
    """Judge the NDJSON files of `source` into a new lake, and conclude what takes more than one record.

    `until` (µs UTC) is the last tick's time: an event's stand-in for broker time is the lesser of its own
    time and this. `progress` is told the bytes read as they are read.

    Raises:
        UsageError: `source` is no folder or has a file that does not open, or the lake is not new.
        SekishoError: a file could not be read to its end, or the lake not written.
    """
    if not source.is_dir():
        raise UsageError(f"{source} is not a folder; give one that holds allocation.ndjson, party.ndjson, …")
    files = _files(source)
    target = Lake.open(lake)
    if not target.is_empty() or target.settled() is not None:
        raise UsageError(f"{lake} already holds records or what a reconciler wrote; scan into a new lake")
    judge = Judge(rules)
    references = References(judge.columns)
    summary = Summary()
    for record, file in files:
        _land_file(file, record, target, references, judge, until, summary, progress)
    del references
    size = sum(file.stat().st_size for _, file in files)
    summary.conclude(conclude(target, rules, suppressions, size, until))
    return summary


def _files(source: Path) -> list[tuple[Record, Path]]:
    """What there is to land, in this order; before anything is written, all of it opens."""
    files = []
    for record in (*REFERENCES.values(), *EVENTS.values()):
        file = source / f"{record.name}.ndjson"
        if file.exists():
            try:
                if not file.is_fifo():  # whose writer would take it for the end
                    file.open("rb").close()
            except OSError as error:
                raise UsageError(f"cannot read {file}: {error.strerror}") from error
            files.append((record, file))
    return files


def conclude(
    lake: Lake,
    rules: Sequence[Rule],
    suppressions: Sequence[Suppression],
    size: int,
    until: int | None = None,
    clock: Clock | None = None,
) -> StepOutput:
    """Reconcile a lake that all has landed in, in one settled step (see `Reconciling.conclude`).

    The state is kept in memory where the records' `size` in bytes allows it, else in a temporary folder.
    """
    with tempfile.TemporaryDirectory(prefix="sekisho-") as folder:
        engine = Reconciler(Path(folder) if size > MEMORY_BYTES else None, rules, suppressions)
        reconciling = Reconciling(lake, engine)
        try:
            return reconciling.conclude(datetime.now(UTC), until, clock)
        finally:
            reconciling.close()


def coverage(pieces: pa.Table) -> float | None:
    """Accelerator-seconds of these pieces with all four links over all of them; None where there are none."""
    pieces = pieces.filter(pc.field("from_at").is_valid())
    seconds = pc.subtract(pieces["to_at"].cast(pa.int64()), pieces["from_at"].cast(pa.int64()))
    weights = pc.multiply(
        *(each.cast(pa.float64(), safe=False) for each in (seconds, pieces["accelerators"]))
    )
    whole = pc.sum(weights).as_py()
    covered = pc.sum(weights.filter(pc.equal(pc.list_value_length(pieces["reasons"]), 0))).as_py()
    return (covered or 0.0) / whole if whole else None


def _land_file(
    file: Path,
    record: Record,
    lake: Lake,
    references: References,
    judge: Judge,
    until: int | None,
    summary: Summary,
    progress: Callable[[int], None],
) -> None:
    transaction, start, read = None, 0, 0
    for fetched in fetch(file, record):
        progress(pc.sum(pc.binary_length(fetched.column("value"))).as_py() or 0)
        if record.is_event:
            landing = judge_events(decode_events(record, fetched), references, judge, until)
        else:
            landing = admit_references(record, fetched, references, keyed=False)
            references.add(record, landing.typed)
        read += fetched.num_rows
        if not record.is_event:
            references.note_read(record.topic, PARTITION, read)
        summary.add(landing)
        if transaction is None:
            transaction = lake.begin(datetime.now(UTC))
        transaction.append(landing)
        if transaction.bytes >= COMMIT_BYTES:
            transaction.commit({(record.topic, PARTITION): (start, read)}, references.known)
            transaction, start = None, read
    if transaction is not None:
        transaction.commit({(record.topic, PARTITION): (start, read)}, references.known)


def fetch(file: Path, record: Record) -> Iterator[pa.RecordBatch]:
    """The file's lines as FETCHED batches of some BATCH_BYTES: partition 0, offset the line number.

    Only LF ends a line and nothing follows the last; broker time, key and headers are null.
    """
    offset = 0
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(BATCH_BYTES):
                if not chunk.endswith(b"\n"):
                    chunk += stream.readline()
                values = _lines(chunk)
                yield _fetched(record.topic, offset, values)
                offset += len(values)
    except OSError as error:
        raise SekishoError(f"cannot read {file}: {error.strerror}") from error


def _lines(chunk: bytes) -> pa.BinaryArray:
    buffer = np.frombuffer(chunk, np.uint8)
    ends = np.flatnonzero(buffer == ord("\n"))
    if not chunk.endswith(b"\n"):
        ends = np.append(ends, len(chunk))
    # Arrow's offsets cannot skip bytes, so the line feeds are taken out of the buffer.
    offsets = np.zeros(len(ends) + 1, np.int32)
    offsets[1:] = ends - np.arange(len(ends))
    kept = np.ones(len(chunk), bool)
    kept[ends[ends < len(chunk)]] = False
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(ends), [None, pa.py_buffer(offsets), pa.py_buffer(buffer[kept])]
    )


def _fetched(topic: str, offset: int, values: pa.BinaryArray) -> pa.RecordBatch:
    rows = len(values)
    columns = {
        "topic": pa.repeat(topic, rows),
        "partition": pa.repeat(pa.scalar(PARTITION, pa.int32()), rows),
        "offset": pa.array(np.arange(offset, offset + rows)),
        "value": values,
    }
    return pa.RecordBatch.from_arrays(
        [columns.get(f.name, pa.nulls(rows, f.type)) for f in FETCHED], schema=FETCHED
    )

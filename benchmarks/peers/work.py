"""The contract's work on one event, the same for every Python peer: fields, party, versions, rules, Parquet.

What is left out of it is listed with each system in `systems.py`.
"""

import gc
import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers import versions
from benchmarks.peers.judge import Firing, is_unknown, join, judge
from benchmarks.peers.meter import Meter
from benchmarks.peers.versions import Fields
from schemas.events import EVENTS
from schemas.tables import FINDING_EVENT, typed

ROW_GROUP = 20_000
FINDINGS = "finding_event"
_FINDING_COLUMNS = (
    *("finding_id", "rule_id", "subject", "party_id", "allocation_id", "source", "event_id"),
    *("topic", "partition", "offset", "occurred_at"),
)
SCHEMAS = {record.name: typed(record) for record in EVENTS.values()} | {
    FINDINGS: pa.schema([FINDING_EVENT.field(name) for name in _FINDING_COLUMNS])
}
_NAMES = {record.name: tuple(record.by_name) for record in EVENTS.values()}


@dataclass(slots=True)
class Judged:
    """The row of an event, without its place in Kafka, and what fired."""

    stream: str
    row: Fields
    fired: list[Firing]


class Work:
    """The reference versions, and one Parquet file a table under the meter's folder."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._references = versions.load(meter.references)
        self._streams = {topic: stream for stream, topic in meter.topics.items()}
        self._tables = {name: _Table(meter.folder / name, s) for name, s in SCHEMAS.items()}
        self._written = 0
        gc.freeze()  # or every collection walks all versions

    def judge(self, topic: str, sent: Fields, timestamp: int) -> Judged:
        """Judges a decoded event. `timestamp` is the record's, in ms."""
        if self._meter.seen == 0:
            self._meter.begin()
        self._meter.seen += 1
        stream, get = self._streams[topic], sent.get
        event = {name: get(name) for name in _NAMES[stream]}
        event["occurred_at"] = round(datetime.fromisoformat(sent["occurred_at"]).timestamp() * 1e6)
        joined = join(self._references, event, timestamp * 1000)
        fired = judge(self._references, stream, event, joined)
        event |= {
            "broker_time": timestamp * 1000,
            "party_id_sent": event["party_id"],
            "party_id": joined.party,
            "party_version": joined.p and joined.p["version"],
            "authorization_version": joined.a and joined.a["version"],
            "site_version": joined.s and joined.s["version"],
            "sku_unknown": is_unknown(event["model"]) if stream == "allocation" else None,
            "future": joined.future,
            "verdicts": sorted({rule for rule, _ in fired}),
        }
        return Judged(stream, event, fired)

    def write(self, judged: Judged, partition: int, offset: int) -> bool:
        """Adds the row and its findings to their tables; True once every event is written."""
        row = judged.row
        row["topic"], row["partition"], row["offset"] = f"custody.{judged.stream}", partition, offset
        self._tables[judged.stream].add(row)
        for rule, subject in judged.fired:
            digest = hashlib.sha256(f"{rule}\n{subject}".encode()).hexdigest()[:32]
            self._tables[FINDINGS].add({**row, "finding_id": digest, "rule_id": rule, "subject": subject})
        self._written += 1
        return self._written >= self._meter.events

    def finish(self) -> None:
        """Closes the files and reports; the process ends."""
        for table in self._tables.values():
            table.close()
        self._meter.report()


class _Table:
    """A folder with one Parquet file that is written a row group at a time."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        folder.mkdir()
        self._schema = schema
        self._rows: list[Fields] = []
        self._writer = pq.ParquetWriter(folder / "part-0", schema, compression="zstd", compression_level=1)

    def add(self, row: Fields) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, self._schema))
        self._rows.clear()

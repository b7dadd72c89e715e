"""What landing costs: CPU per row of 50,000-row batches, ms per commit, and how a commit grows with the log.

python -m benchmarks.lake
"""

import json
import random
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.transaction import CommitProperties, Transaction

from rules.pipeline import Landing
from schemas.events import ACCESS
from schemas.tables import FINDING_EVENT, RAW, typed
from sinks import parquet
from sinks.batch import File
from sinks.lake import Lake
from sinks.log import DeltaLog

ROWS = 50_000
PARTITIONS = 8
EACH = ROWS // PARTITIONS
BASE = 1_772_323_200_000_000  # µs


def _event(number: int, choose: random.Random) -> dict[str, Any]:
    return {
        "event_id": f"{choose.getrandbits(128):032x}",
        "occurred_at": f"2026-03-01T{number // 20000:02}:{number % 60:02}:00.{choose.randrange(10**6):06}Z",
        "source": f"slurm/ishikari-{choose.randrange(4)}",
        "source_seq": number,
        "principal": f"ldap:user{choose.randrange(20_000):05}",
        "allocation_id": f"A-{choose.randrange(50_000):08}",
        "authorization_id": f"LIC-{choose.randrange(500):04}",
        "site_id": f"S-{choose.randrange(5)}",
        "action": choose.choice(["opened", "closed", "call"]),
        "session_id": f"{choose.getrandbits(64):016x}",
        "method": choose.choice(["direct", "brokered", "remote"]),
        "source_ip": ".".join(str(choose.randrange(256)) for _ in range(4)),
        "source_country": choose.choice(["JP", "US", "DE", "SG"]),
        "operation": "inference",
        "bytes_out": choose.randrange(10**7),
    }


def landing(start: int) -> Landing:
    """One batch of access events, offsets from `start` in each partition, random as real ids are."""
    choose = random.Random(start)
    raw, rows = [], []
    for number in range(ROWS):
        event = _event(number, choose)
        place = {
            "topic": ACCESS.topic,
            "partition": number // EACH,
            "offset": start + number % EACH,
            "broker_time": BASE + number * 100_000,
        }
        value = json.dumps(event, separators=(",", ":")).encode()
        raw.append(
            {**place, "key": event["allocation_id"].encode(), "value": value, "disposition": "accepted"}
        )
        joined = {
            "occurred_at": BASE + number * 72_000,
            "party_id": f"P-{number % 20_000}",
            "party_version": 1,
        }
        verdicts = ["gap.identity.unscreened"] if choose.random() < 0.02 else []
        rows.append({**event, **place, **joined, "verdicts": verdicts, "future": False})
    return Landing(_batch(raw, RAW), _batch(rows, typed(ACCESS)), _batch([], FINDING_EVENT), ACCESS)


def _batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    schema = schema.remove(schema.get_field_index("ingested_at"))
    return pa.RecordBatch.from_pylist(rows, schema=schema)


def batches(folder: Path) -> None:
    """Full batches: encode, hash, fsync, commit to two tables."""
    lake = Lake.open(folder)
    for start in range(0, 4 * EACH, EACH):
        made = landing(start)
        cpu, wall = time.process_time(), time.perf_counter()
        transaction = lake.begin(datetime.now(UTC))
        transaction.append(made)
        transaction.commit({(ACCESS.topic, n): (start, start + EACH) for n in range(PARTITIONS)}, {})
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        size = (
            sum(path.stat().st_size for path in folder.glob("*/dt=*/*.parquet")) / (start / EACH + 1) / ROWS
        )
        value = made.raw["value"].nbytes / ROWS
        print(
            f"batch of {ROWS} rows, {value:.0f} B a value: {cpu / ROWS * 1e6:.2f} µs CPU a row, "
            f"{wall * 1e3:.0f} ms, {size:.0f} B a row on disk (raw and typed)"
        )
    small = landing(0)
    times = []
    for offset in range(100):
        one = Landing(small.raw.slice(offset, 1), small.typed.slice(offset, 1), small.findings, ACCESS)
        raw = one.raw.set_column(2, "partition", pa.array([99], pa.int32()))
        one = Landing(raw, one.typed, one.findings, ACCESS)
        begun = time.perf_counter()
        transaction = lake.begin(datetime.now(UTC))
        transaction.append(one)
        transaction.commit({(ACCESS.topic, 99): (offset, offset + 1)}, {})
        times.append(time.perf_counter() - begun)
    times.sort()
    print(f"commit of one row to two tables: median {times[50] * 1e3:.1f} ms, 90 % {times[90] * 1e3:.1f} ms")


def encodings() -> None:
    """The Parquet settings that lost."""
    made = landing(0)
    for name, batch in (("raw", made.raw), ("typed", made.typed)):
        table = pa.Table.from_batches([batch])
        chosen = dict(parquet._encodings(table.schema))
        for label, options in {
            "chosen: zstd 1": {"compression": "zstd", "compression_level": 1, **chosen},
            "zstd -5": {"compression": "zstd", "compression_level": -5, **chosen},
            "zstd 3": {"compression": "zstd", "compression_level": 3, **chosen},
            "lz4": {"compression": "lz4", **chosen},
            "zstd 1, dictionary and statistics everywhere": {"compression": "zstd", "compression_level": 1},
        }.items():
            best, size = 9.0, 0
            for _ in range(5):
                sink = pa.BufferOutputStream()
                begun = time.process_time()
                pq.write_table(table, sink, store_schema=False, **options)
                best = min(best, time.process_time() - begun)
                size = sink.getvalue().size
            print(f"{name:5} {label:45} {best / ROWS * 1e6:.2f} µs {size / ROWS:.0f} B a row")


def log_growth(folder: Path) -> None:
    """A commit without rows, by the deltalake library and by sinks/log.py, as the log grows."""
    schema = pa.schema([pa.field("offset", pa.int64()), pa.field("dt", pa.date32())])
    log = DeltaLog.open(folder, schema, append_only=False)
    add = File("dt=2026-03-01/x.parquet", "2026-03-01", 1, 1, "{}", 1, "")
    log.commit([add], {"a": 1}, {}, lambda: False)
    for entries in (10, 10_000, 50_000):
        filler = log._entry_path(log.version).read_bytes()
        for version in range(log.version + 1, entries):
            log._entry_path(version).write_bytes(filler)
        log = DeltaLog(folder)
        log.version = entries - 1
        DeltaTable(folder).create_checkpoint()
        table = DeltaTable(folder)
        foreign = _timed(lambda n, table=table: _commit(table, n))  # type: ignore[misc]
        log.refresh()
        ours = _timed(lambda n, log=log: log.commit([], {"b": n}, {}, lambda: False))  # type: ignore[misc]
        print(f"{entries} entries: deltalake {foreign:.1f} ms a commit, unsynced; ours {ours:.1f} ms, synced")


def _commit(table: DeltaTable, version: int) -> None:
    actions: list[Any] = []
    properties = CommitProperties(app_transactions=[Transaction("b", version)])
    table.create_write_transaction(actions, "append", table.schema(), ["dt"], commit_properties=properties)
    table.update_incremental()


def _timed(commit: Callable[[int], object], times: int = 40) -> float:
    begun = time.perf_counter()
    for number in range(times):
        commit(number)
    return (time.perf_counter() - begun) / times * 1e3


def main() -> None:
    folder = Path(tempfile.gettempdir()) / f"lake-{uuid.uuid4().hex}"
    try:
        batches(folder / "lake")
        encodings()
        log_growth(folder / "log")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

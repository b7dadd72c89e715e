"""One Parquet file of one table, written row group by row group, hashed on the way, durable when closed.

Encodings by measurement (benchmarks/README.md, "Lake"): zstd level 1; no dictionary and no statistics for
columns whose values hardly repeat; rising integers as deltas.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sinks.batch import File
from sinks.durable import make_folder, sync_folder, told

ROW_GROUP_ROWS = 20_000  # few, so that memory stays flat
ROW_GROUP_BYTES = 12 << 20
AT_ONCE = 1 << 13  # rows that go to an encoder together, and are a page at least: of raw, 3 MB of values

_DISTINCT = {
    *("key", "value", "event_id", "session_id", "sha256", "finding_id", "message"),
}
_RISING = {
    *("offset", "occurred_at", "broker_time", "source_seq", "bytes_out"),
    *("from_at", "to_at", "replaces_from"),
}
_IN_ROWS = {"allocation_id", "party_id"}  # of a table that is in their order: zstd finds that by itself
_MEASURED = ("topic", "partition", "offset", "broker_time", "occurred_at", "step")  # for the Delta log
_PRUNED = {*_MEASURED, "ingested_at", "valid_from", "tombstone_at"}  # statistics in the file


class _Hashed:
    """The file object Parquet is written through."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=1 << 18)
        self.sha256 = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self.closed = True
        self._file.close()


class TableFile:
    """The file of one transaction in one table; rows arrive in batches that have no `ingested_at`."""

    def __init__(self, table: Path, schema: pa.Schema, at: datetime) -> None:
        self._table = table
        self._schema = schema
        self._at = at
        self._dt = f"{at:%Y-%m-%d}"
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = self._pending_bytes = 0
        self._footers: list[pq.FileMetaData] = []
        self.rows = 0
        folder = table / f"dt={self._dt}"
        make_folder(folder)
        self.path = folder / f"{uuid.uuid4().hex}.parquet"
        with told(self.path):
            self._file = _Hashed(self.path)
        sink: Any = self._file
        self._writer = pq.ParquetWriter(
            pa.PythonFile(sink, mode="w"),
            schema,
            compression="zstd",
            compression_level=1,
            store_schema=False,
            write_batch_size=AT_ONCE,
            metadata_collector=self._footers,
            **_encodings(schema),
        )

    def append(self, batch: pa.RecordBatch) -> None:
        """Takes rows; they are encoded as soon as they fill a row group, so that memory stays flat."""
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self._pending_bytes += batch.nbytes
        self.rows += batch.num_rows
        if self._pending_rows >= ROW_GROUP_ROWS or self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def finish(self) -> File:
        """Writes what is left and makes file and folder durable. Raises SekishoError when the disk fails."""
        with told(self.path):
            self._flush()
            self._writer.close()
            self._file.sync()
            self._file.close()
        sync_folder(self.path.parent)
        return File(
            path=self.path.relative_to(self._table).as_posix(),
            dt=self._dt,
            size=self._file.size,
            modified=int(self._at.timestamp() * 1000),
            stats=json.dumps(_statistics(self._footers[0]), separators=(",", ":")),
            rows=self.rows,
            sha256=self._file.sha256.hexdigest(),
        )

    def discard(self) -> None:
        """Removes the file; nothing names it yet."""
        with suppress(Exception):  # a writer that failed fails again when closed
            self._writer.close()
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self.path.unlink()

    def _flush(self) -> None:
        if not self._pending:
            return
        table = pa.Table.from_batches(self._pending)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0
        ingested_at = pa.repeat(pa.scalar(self._at, self._schema.field("ingested_at").type), len(table))
        table = table.append_column("ingested_at", ingested_at).select(self._schema.names).cast(self._schema)
        with told(self.path):
            self._writer.write_table(table, row_group_size=2 * ROW_GROUP_ROWS)


def _encodings(schema: pa.Schema) -> Mapping[str, Any]:
    """The writer's options that depend on the columns."""
    plain = _DISTINCT | _RISING | (_IN_ROWS if "from_at" in schema.names else set())
    dictionary = [
        path for path in _leaves(schema) if path.split(".")[0] not in plain and not path.endswith(".value")
    ]
    rising = [field.name for field in schema if field.name in _RISING]
    return {
        "use_dictionary": dictionary,
        "column_encoding": dict.fromkeys(rising, "DELTA_BINARY_PACKED"),
        "write_statistics": [name for name in schema.names if name in _PRUNED],
    }


def _leaves(schema: pa.Schema) -> list[str]:
    """The paths of the Parquet columns."""
    found: list[str] = []

    def visit(path: str, kind: pa.DataType) -> None:
        if pa.types.is_list(kind):
            visit(f"{path}.list.element", kind.value_type)
        elif pa.types.is_struct(kind):
            for inner in kind:
                visit(f"{path}.{inner.name}", inner.type)
        else:
            found.append(path)

    for field in schema:
        visit(field.name, field.type)
    return found


def _statistics(footer: pq.FileMetaData) -> dict[str, Any]:
    """Delta statistics, from those the Parquet writer has gathered anyway."""
    least: dict[str, Any] = {}
    greatest: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    for group in range(footer.num_row_groups):
        for index in range(footer.num_columns):
            column = footer.row_group(group).column(index)
            name = column.path_in_schema
            if name not in _MEASURED:
                continue
            found: Any = column.statistics
            nulls[name] = nulls.get(name, 0) + found.null_count
            if found.has_min_max:
                least[name] = min(least.get(name, found.min), found.min)
                greatest[name] = max(greatest.get(name, found.max), found.max)
    return {
        "numRecords": footer.num_rows,
        "minValues": {name: _plain(value) for name, value in least.items()},
        "maxValues": {name: _plain(value) for name, value in greatest.items()},
        "nullCount": nulls,
    }


def _plain(value: Any) -> Any:
    return f"{value:%Y-%m-%dT%H:%M:%S.%fZ}" if isinstance(value, datetime) else value

"""Whole fetches as columns: what aiokafka's consumer hands out instead of one object per record.

A consumer that is given `COLUMNS` as its key deserializer returns one `Fetch` per partition and fetch, read
committed or not as it is configured; every other consumer in the process is left as it was. This rests on
private names of the pinned aiokafka (`FETCHER_HOOKS`); `install` fails loudly when one of them has moved.
"""

import inspect
import itertools
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import decode_varint

from schemas.json_guards import Ints
from schemas.record import TIME
from schemas.tables import FETCHED, HEADERS

Headers = list[tuple[str, bytes | None]]

FETCHER_HOOKS = {
    "PartitionRecords": "(tp, records, aborted_transactions, fetch_offset, key_deserializer, "
    "value_deserializer, check_crcs, isolation_level)",
    "MemoryRecords": None,  # a built-in class: no signature to compare
}
_LATEST_MS = 253_402_300_799_999  # the last millisecond of the year 9999
_UpstreamRecords: Any = fetcher.PartitionRecords


def COLUMNS(_: bytes | None) -> None:  # noqa: N802  a marker that aiokafka accepts as a deserializer
    """Marks a consumer that wants `Fetch` objects; never called."""
    raise AssertionError("the fetcher of this consumer was not replaced: call install() first")


@dataclass
class Fetch:
    """The records of one partition that one fetch brought, in offset order, as five columns.

    The half-open range [start, end) is what the fetch covers. What it covers without a record (transaction
    markers, aborted or compacted records) is in `holes`. `timestamps` are milliseconds since 1970.
    """

    topic: str
    partition: int
    start: int
    end: int = 0
    offsets: list[int] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)
    timestamps: list[int | None] = field(default_factory=list)
    headers: list[Headers | None] = field(default_factory=list)
    epoch: int = 0  # which seek of the consumer it was read after

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def bytes(self) -> int:
        """Bytes of the values: what a batch is measured by."""
        return sum(map(len, filter(None, self.values)))

    @property
    def holes(self) -> list[tuple[int, int]]:
        """Half-open ranges within [start, end) that hold no record."""
        if len(self.offsets) == self.end - self.start:
            return []
        edges = np.array([self.start - 1, *self.offsets, self.end], dtype=np.int64)
        gaps = np.flatnonzero(np.diff(edges) > 1)
        return [(int(edges[at]) + 1, int(edges[at + 1])) for at in gaps]

    def take(self) -> "Fetch":
        """The records in a fetch of their own, leaving this one without any.

        Faust's messages stand in reference cycles: what they hold would stay until a full collection.
        """
        taken = replace(self)
        self.offsets, self.keys, self.values, self.timestamps, self.headers = [], [], [], [], []
        return taken

    def drop_below(self, offset: int) -> None:
        """Forget the records below an offset; the range then starts there."""
        count = int(np.searchsorted(np.array(self.offsets, dtype=np.int64), offset))
        for column in (self.offsets, self.keys, self.values, self.timestamps, self.headers):
            del column[:count]
        self.start, self.end = offset, max(self.end, offset)


class KeptRecords:
    """aiokafka's MemoryRecords that remembers where the current batch lies in the bytes."""

    def __init__(self, data: Any) -> None:
        self._inner = MemoryRecords(data)
        self._data = data
        self._end = 0
        self.batch_bytes = memoryview(b"")

    def has_next(self) -> bool:
        return bool(self._inner.has_next())

    def size_in_bytes(self) -> int:
        return int(self._inner.size_in_bytes())

    def next_batch(self) -> Any:
        batch = self._inner.next_batch()
        if batch is not None:
            start = self._end
            self._end = start + 12 + struct.unpack_from(">i", self._data, start + 8)[0]
            self.batch_bytes = memoryview(self._data)[start : self._end]
        return batch


class ColumnRecords(_UpstreamRecords):
    """aiokafka's PartitionRecords that yields one `Fetch` for all of a partition's record batches."""

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        if self._key_deserializer is not COLUMNS:
            yield from super()._unpack_records()
            return
        fetch = Fetch(self._tp.topic, self._tp.partition, self.next_fetch_offset)
        while self._records.has_next():
            batch = self._records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            if not self._is_skipped(batch):
                self._read(batch, fetch)
            # A batch keeps its last offset when compaction removed the last record.
            self.next_fetch_offset = batch.next_offset
        fetch.end = self.next_fetch_offset
        if fetch.offsets and fetch.offsets[0] < fetch.start:
            fetch.drop_below(fetch.start)  # a batch comes whole even if only its end was asked for
        yield fetch

    def _is_skipped(self, batch: Any) -> bool:
        """Control batches, and aborted transactions where the consumer reads committed records only."""
        if self._isolation_level == fetcher.READ_COMMITTED and batch.producer_id is not None:
            self._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and self._contains_abort_marker(batch):
                self._aborted_producers.discard(batch.producer_id)
            elif batch.is_transactional and batch.producer_id in self._aborted_producers:
                return True
        return bool(batch.is_control_batch)

    def _read(self, batch: Any, fetch: Fetch) -> None:
        before = len(fetch.offsets)
        offset, key, value = fetch.offsets.append, fetch.keys.append, fetch.values.append
        timestamp, headers = fetch.timestamps.append, fetch.headers.append
        try:
            for record in batch:
                offset(record.offset)
                key(record.key)
                value(record.value)
                timestamp(record.timestamp)
                headers(record.headers or None)
        except (UnicodeDecodeError, CorruptRecordException):
            # aiokafka gives up on a header key that is not UTF-8; its checksum has been verified.
            for column in (fetch.offsets, fetch.keys, fetch.values, fetch.timestamps, fetch.headers):
                del column[before:]
            for row in plain_records(self._records.batch_bytes):
                offset(row[0]), key(row[1]), value(row[2]), timestamp(row[3]), headers(row[4])


def plain_records(
    batch: memoryview,
) -> Iterator[tuple[int, bytes | None, bytes | None, int, Headers | None]]:
    """Offset, key, value, timestamp and headers of each record of one batch, for the batches that aiokafka
    cannot read. Bytes of a header key that are not UTF-8 become `\\xff` escapes.

    Raises CorruptRecordException where the bytes are no record batch.
    """
    whole = _DefaultRecordBatchPy(batch)
    iter(whole)  # decompresses
    data, at = bytes(whole._buffer), whole._pos
    try:
        for _ in range(whole._num_records):
            length, at = decode_varint(data, at)
            end = at + length
            delta, at = decode_varint(data, at + 1)  # behind the attributes, of which none are used
            offset, at = decode_varint(data, at)
            key, at = _sized(data, at)
            value, at = _sized(data, at)
            headers, at = _headers(data, at)
            if at != end:
                raise CorruptRecordException(f"A record ends at byte {at} instead of {end}")
            time = whole.max_timestamp if whole.timestamp_type else whole.first_timestamp + delta
            yield whole.base_offset + offset, key, value, time, headers or None
    except (ValueError, IndexError) as error:
        raise CorruptRecordException(f"Found invalid record structure: {error!r}") from error


def _headers(data: bytes, at: int) -> tuple[Headers, int]:
    count, at = decode_varint(data, at)
    headers: Headers = []
    for _ in range(count):
        key, at = _sized(data, at)
        value, at = _sized(data, at)
        headers.append(((key or b"").decode("utf-8", "backslashreplace"), value))
    return headers, at


def _sized(data: bytes, at: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(data, at)
    if length < 0:
        return None, at
    if at + length > len(data):
        raise CorruptRecordException(f"{length} bytes announced, {len(data) - at} left")
    return data[at : at + length], at + length


def install() -> None:
    """Put the column reader into aiokafka's fetcher; may be called again.

    Raises RuntimeError when a hook is not what this module was written against.
    """
    if fetcher.PartitionRecords is ColumnRecords:
        return
    for name, signature in FETCHER_HOOKS.items():
        found = getattr(fetcher, name, None)
        if found is None or (signature and str(inspect.signature(found)) != signature):
            raise RuntimeError(f"aiokafka's fetcher.{name} has changed: adapt stream/fetches.py")
    fetcher.PartitionRecords = ColumnRecords
    fetcher.MemoryRecords = KeptRecords


def to_arrow(fetches: Sequence[Fetch], topic_ids: Mapping[str, str | None]) -> pa.RecordBatch:
    """The records of some fetches as one batch of FETCHED rows, in the order given.

    Any producer may send a time stamp before 1970, after 9999 or none: the nearest time that can be held
    stands for it (1970 for none), so that a record from Kafka always has a broker time.
    """
    rows = [len(fetch) for fetch in fetches]
    topics = [fetch.topic for fetch in fetches]
    columns = [
        _repeat(topics, rows, pa.string()),
        _repeat([topic_ids.get(topic) for topic in topics], rows, pa.string()),
        pa.array(np.repeat(np.array([fetch.partition for fetch in fetches], dtype=np.int32), rows)),
        pa.array(np.concatenate([_offsets(fetch) for fetch in fetches])),
        _times(fetches),
        _chain(fetches, "keys", pa.binary()),
        _header_array(fetches),
        _chain(fetches, "values", pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=FETCHED)


def _chain(fetches: Sequence[Fetch], column: str, kind: pa.DataType) -> pa.Array:
    lists = [getattr(fetch, column) for fetch in fetches]
    # A list is filled in one pass where an iterator would be read twice.
    return pa.array(lists[0] if len(lists) == 1 else list(itertools.chain.from_iterable(lists)), kind)


def _repeat(values: list[str | None] | list[str], rows: list[int], kind: pa.DataType) -> pa.Array:
    indices = np.repeat(np.arange(len(values), dtype=np.int32), rows)
    return pa.array(values, kind).take(pa.array(indices))


def _offsets(fetch: Fetch) -> Ints:
    if len(fetch) == fetch.end - fetch.start:  # no holes: nothing to look at
        return np.arange(fetch.start, fetch.end)
    return np.array(fetch.offsets, dtype=np.int64)


def _times(fetches: Sequence[Fetch]) -> pa.Array:
    millis = np.asarray(_chain(fetches, "timestamps", pa.int64()).fill_null(0))
    return pa.array(np.clip(millis, 0, _LATEST_MS) * 1000, pa.int64()).cast(TIME)


def _header_array(fetches: Sequence[Fetch]) -> pa.Array:
    if not any(any(fetch.headers) for fetch in fetches):
        return pa.nulls(sum(map(len, fetches)), HEADERS)
    lists = list(itertools.chain.from_iterable(fetch.headers for fetch in fetches))
    counts = np.fromiter((len(headers) if headers else 0 for headers in lists), np.int32, len(lists))
    pairs = [pair for headers in lists if headers for pair in headers]
    items = pa.StructArray.from_arrays(
        [
            pa.array([key for key, _ in pairs], pa.string()),
            pa.array([value for _, value in pairs], pa.binary()),
        ],
        fields=list(HEADERS.value_type),
    )
    ends = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), items, mask=pa.array(counts == 0)).cast(HEADERS)

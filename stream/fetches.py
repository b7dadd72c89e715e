"""Whole fetches as columns: what aiokafka's consumer hands out instead of one object per record.

A consumer that is given `COLUMNS` as its key deserializer returns one `Fetch` per partition and fetch, read
committed or not as it is configured; every other consumer in the process is left as it was. This rests on
private names of the pinned aiokafka (`FETCHER_HOOKS`); `install` fails loudly when one of them has moved.
"""

import inspect
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.memory_records import MemoryRecords
from crc32c import crc32c

from schemas.errors import SekishoError
from schemas.json_guards import Ints
from schemas.record import TIME
from schemas.tables import FETCHED
from stream import frames
from stream.record_batches import NO_RECORDS, Kept, Records, fast, first_offset, read, uncompressed, unread

FETCHER_HOOKS = {
    "PartitionRecords": "(tp, records, aborted_transactions, fetch_offset, key_deserializer, "
    "value_deserializer, check_crcs, isolation_level)",
    "MemoryRecords": None,  # a built-in class: no signature to compare
}
MOST_BYTES = 1 << 26  # uncompressed, of one fetch and its last batch
_MAGIC_AT, _CRC_AT = 16, 17  # bytes of a batch of KIP-98, whose checksum is of all that stands behind it
_CRC32C_SINCE = 2  # the magic number of such a batch
_LATEST_MS = 253_402_300_799_999  # the last millisecond of the year 9999
_UpstreamRecords: Any = fetcher.PartitionRecords


def COLUMNS(_: bytes | None) -> None:  # noqa: N802  a marker that aiokafka accepts as a deserializer
    """Marks a consumer that wants `Fetch` objects; never called."""
    raise AssertionError("the fetcher of this consumer was not replaced: call install() first")


@dataclass
class Fetch:
    """The records of one partition that one fetch brought, in offset order (RECORDS).

    The half-open range [start, end) is what the fetch covers. What it covers without a record (transaction
    markers, aborted or compacted records) is in `holes`.
    """

    topic: str
    partition: int
    start: int
    end: int = 0
    records: Records = field(default_factory=lambda: NO_RECORDS)
    epoch: int = 0  # which seek of the consumer it was read after

    def __len__(self) -> int:
        return int(self.records.num_rows)

    @property
    def bytes(self) -> int:
        """Bytes that it takes: what a batch is measured by."""
        return int(self.records.nbytes)

    @property
    def holes(self) -> list[tuple[int, int]]:
        """Half-open ranges within [start, end) that hold no record."""
        if len(self) == self.end - self.start:
            return []
        edges = np.concatenate([[self.start - 1], self._offsets(), [self.end]])
        gaps = np.flatnonzero(np.diff(edges) > 1)
        return [(int(edges[at]) + 1, int(edges[at + 1])) for at in gaps]

    def drop_below(self, offset: int) -> None:
        """Forget the records below an offset; the range then starts there."""
        count = int(np.searchsorted(self._offsets(), offset))
        self.records = read([self.records]).slice(count)
        self.start, self.end = offset, max(self.end, offset)

    def _offsets(self) -> Ints:
        self.records = read([self.records])
        offsets: Ints = self.records["offset"].to_numpy()
        return offsets


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


class Unreadable(SekishoError):  # noqa: N818
    """A record batch that cannot be taken, ever."""


class ColumnRecords(_UpstreamRecords):
    """aiokafka's PartitionRecords that yields one `Fetch` for a partition's record batches.

    Batches behind MOST_BYTES are left to the next fetch. Raises Unreadable at one that cannot be unpacked.
    """

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        if self._key_deserializer is not COLUMNS:
            yield from super()._unpack_records()
            return
        start = self.next_fetch_offset
        kept: list[Kept] = []
        size = 0
        while size < MOST_BYTES and self._records.has_next():
            batch = self._records.next_batch()
            if self._check_crcs and not self._is_whole(batch):
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            if not self._is_skipped(batch):
                try:
                    kept.append(self._uncompressed(batch))
                except Unreadable:
                    if not kept:
                        raise
                    break  # what is before it comes first, and the next fetch begins with it
                size += len(kept[-1].data)
            # A batch keeps its last offset when compaction removed the last record.
            self.next_fetch_offset = batch.next_offset
        fetch = Fetch(self._tp.topic, self._tp.partition, start, self.next_fetch_offset, unread(kept))
        if len(fetch) and first_offset(fetch.records) < start:
            fetch.drop_below(start)  # a batch comes whole even if only its end was asked for
        yield fetch

    def _is_whole(self, batch: Any) -> bool:
        """Whether the checksum of a batch is right; aiokafka works it out without the processor's instruction
        for it, which takes a tenth of the time."""
        data = self._records.batch_bytes
        if data[_MAGIC_AT] < _CRC32C_SINCE:
            return bool(batch.validate_crc())
        (stated,) = struct.unpack_from(">I", data, _CRC_AT)
        return crc32c(data[_CRC_AT + 4 :]) == stated

    def _uncompressed(self, batch: Any) -> Kept:
        try:
            return uncompressed(Kept(batch, self._records.batch_bytes))
        except ValueError as error:
            name = f"{self._tp.topic}:{self._tp.partition}"
            raise Unreadable(
                f"{name}: the record batch at offset {batch.base_offset} cannot be unpacked: {error}; delete "
                f"what is below {batch.next_offset} from the topic and start with --accept-hole {name}"
            ) from error

    def _is_skipped(self, batch: Any) -> bool:
        """Control batches, and aborted transactions where the consumer reads committed records only."""
        if self._isolation_level == fetcher.READ_COMMITTED and batch.producer_id is not None:
            self._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and self._contains_abort_marker(batch):
                self._aborted_producers.discard(batch.producer_id)
            elif batch.is_transactional and batch.producer_id in self._aborted_producers:
                return True
        return bool(batch.is_control_batch)


def install() -> None:
    """Put the column reader into aiokafka's fetcher; may be called again.

    Raises RuntimeError when a hook is not what this module was written against.
    """
    if fetcher.PartitionRecords is ColumnRecords:
        return
    frames.install()
    for name, signature in FETCHER_HOOKS.items():
        found = getattr(fetcher, name, None)
        if found is None or (signature and str(inspect.signature(found)) != signature):
            raise RuntimeError(f"aiokafka's fetcher.{name} has changed: adapt stream/fetches.py")
    fetcher.PartitionRecords = ColumnRecords
    fetcher.MemoryRecords = KeptRecords
    fast()  # before records wait


def to_arrow(fetches: Sequence[Fetch], topic_ids: Mapping[str, str | None]) -> pa.RecordBatch:
    """The records of some fetches as one batch of FETCHED rows, in the order given.

    Any producer may send a time stamp before 1970, after 9999 or none: the nearest time that can be held
    stands for it (1970 for none), so that a record from Kafka always has a broker time.
    """
    rows = [len(fetch) for fetch in fetches]
    topics = [fetch.topic for fetch in fetches]
    records = read(fetch.records for fetch in fetches)
    columns = [
        _repeat(topics, rows, pa.string()),
        _repeat([topic_ids.get(topic) for topic in topics], rows, pa.string()),
        pa.array(np.repeat(np.array([fetch.partition for fetch in fetches], dtype=np.int32), rows)),
        records["offset"],
        _times(records["timestamp"]),
        *(records[name] for name in ("key", "headers", "value")),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=FETCHED)


def _repeat(values: list[str | None] | list[str], rows: list[int], kind: pa.DataType) -> pa.Array:
    indices = np.repeat(np.arange(len(values), dtype=np.int32), rows)
    return pa.array(values, kind).take(pa.array(indices))


def _times(timestamps: pa.Int64Array) -> pa.Array:
    millis = np.asarray(timestamps.fill_null(0))
    return pa.array(np.clip(millis, 0, _LATEST_MS) * 1000, pa.int64()).cast(TIME)

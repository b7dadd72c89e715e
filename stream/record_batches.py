"""Record batches as Kafka sends them (KIP-98, and the formats before it) to columns.

The fast way copies keys and values straight out of the bytes (`record_scan.py`, which needs numba, the extra
`fast`). The plain way makes an object a record, as aiokafka does; the older formats know no other.
"""

import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.util import decode_varint

from schemas.errors import SekishoError
from schemas.json_guards import Bytes, Ints
from schemas.loops import loops
from schemas.tables import HEADERS
from stream.unpacking import unpacked

Headers = list[tuple[str, bytes | None]]
Row = tuple[int, int | None, bytes | None, Headers | None, bytes | None]

RECORDS = pa.schema(
    [
        ("offset", pa.int64()),
        ("timestamp", pa.int64()),
        ("key", pa.binary()),
        ("headers", HEADERS),
        ("value", pa.binary()),
    ]
)
"""`timestamp` is in ms since 1970, whatever the producer sent; null in formats that have none."""

NO_RECORDS = pa.RecordBatch.from_pylist([], RECORDS)

PIECE = 1 << 18
"""Bytes read at a time: few enough to be in a core's cache still when they are copied."""

_MAGIC, _CODEC, _COUNT = 16, 22, 57  # places in a batch's header
_SINCE_KIP_98 = 2  # of _MAGIC
_CODECS = 7  # the bits of _CODEC that name one
_SMALLEST = 7  # bytes of a record
_HEADER = _DefaultRecordBatchPy.HEADER_STRUCT.size
_MOST = (1 << 31) - 1  # bytes read at once: the columns' offsets have 32 bits


@dataclass(frozen=True)
class Kept:
    """One of aiokafka's record batches, and the bytes that it lies in."""

    batch: Any
    data: memoryview


def uncompressed(kept: Kept) -> Kept:
    """The same batch with its records as they were before they were compressed.

    Raises ValueError where they cannot be had, or are larger than can be taken.
    """
    codec = kept.data[_CODEC] & _CODECS
    if kept.data[_MAGIC] < _SINCE_KIP_98 or not codec:
        return kept
    data = bytearray(kept.data[:_HEADER]) + unpacked(codec, kept.data[_HEADER:])
    data[_CODEC] &= ~_CODECS
    return Kept(DefaultRecordBatch(data), memoryview(data))


class Unread:
    """Record batches whose records are still to be read; as many and as large as their headers say."""

    def __init__(self, batches: Sequence[memoryview]) -> None:
        """`batches` are uncompressed and as KIP-98 says."""
        self.batches = batches
        self.num_rows = sum(struct.unpack_from(">I", batch, _COUNT)[0] for batch in batches)
        self.nbytes = sum(map(len, batches))


Records: TypeAlias = pa.RecordBatch | Unread
"""RECORDS, read or not."""


def unread(batches: Sequence[Kept]) -> Records:
    """The records of `uncompressed` batches, which are read only where there is no fast way.

    Raises CorruptRecordException where the bytes are no record batch.
    """
    if not batches:
        return NO_RECORDS
    with _corruption():
        if fast() is None or any(kept.data[_MAGIC] < _SINCE_KIP_98 for kept in batches):
            return from_rows(itertools.chain.from_iterable(map(_rows, batches)))
        return Unread([kept.data for kept in batches])


def read(parts: Iterable[Records]) -> pa.RecordBatch:
    """All records, in order; what is unread at one go.

    Raises CorruptRecordException where the bytes are no record batch, SekishoError where they are 2 GiB.
    """
    found: list[pa.RecordBatch] = []
    parts = list(parts)
    if sum(part.nbytes for part in parts) > _MOST:
        raise SekishoError("2 GiB of records would be judged at once: set batch-bytes lower")
    for group in (list(group) for _, group in itertools.groupby(parts, type)):
        batches = [batch for part in group if isinstance(part, Unread) for batch in part.batches]
        with _corruption():
            found += [_scanned(batches)] if batches else group
    return found[0] if len(found) == 1 else pa.concat_batches(found)


def first_offset(records: Records) -> int:
    """The offset of the first record, or one before it; there must be records."""
    if isinstance(records, Unread):
        return int(struct.unpack_from(">q", records.batches[0])[0])
    return int(records["offset"][0].as_py())


@contextmanager
def _corruption() -> Iterator[None]:
    try:
        yield
    except (ValueError, IndexError, struct.error) as error:
        raise CorruptRecordException(f"Found invalid record structure: {error!r}") from error


def fast() -> Any:
    """The module with the compiled loops, None without numba."""
    return loops("stream.record_scan")


def from_rows(rows: Iterable[Row]) -> pa.RecordBatch:
    """RECORDS from one tuple a record, in the order of its fields."""
    listing = list(rows)
    if not listing:
        return NO_RECORDS
    offsets, times, keys, headers, values = zip(*listing, strict=True)
    listed = pa.nulls(len(offsets), HEADERS) if not any(headers) else _listed(headers)
    plain = (pa.array(offsets, pa.int64()), pa.array(times, pa.int64()), pa.array(keys, pa.binary()))
    return pa.RecordBatch.from_arrays([*plain, listed, pa.array(values, pa.binary())], schema=RECORDS)


# The fast way


def _scanned(batches: Sequence[memoryview]) -> pa.RecordBatch:
    whole = Unread(batches)
    if whole.num_rows * _SMALLEST > whole.nbytes:
        raise ValueError(f"{whole.num_rows} records announced in {whole.nbytes} bytes")
    offsets, times, headers = np.empty((3, whole.num_rows), dtype=np.int64)
    keys, values = _Texts(whole), _Texts(whole)
    row, listed = 0, []
    for piece in _pieces(batches):
        data = np.frombuffer(piece[0] if len(piece) == 1 else b"".join(piece), dtype=np.uint8)
        ends = np.cumsum([len(batch) for batch in piece])
        first, row = row, fast().scan(data, ends, row, offsets, times, headers, *keys.parts, *values.parts)
        listed.append(_headers_at(data, headers[first:row]))
    columns = [pa.array(offsets), pa.array(times), keys.array(), pa.concat_arrays(listed), values.array()]
    return pa.RecordBatch.from_arrays(columns, schema=RECORDS)


def _pieces(batches: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """Some of the batches at a time, of PIECE bytes or one."""
    piece: list[memoryview] = []
    size = 0
    for batch in batches:
        if piece and size + len(batch) > PIECE:
            yield piece
            piece, size = [], 0
        piece.append(batch)
        size += len(batch)
    yield piece


class _Texts:
    """Keys or values, as `record_scan.scan` fills them in: where each ends, the bytes, whether it is null."""

    def __init__(self, room: Unread) -> None:
        self.parts = (
            np.zeros(room.num_rows + 1, dtype=np.int32),
            np.empty(room.nbytes, dtype=np.uint8),
            np.empty(room.num_rows, dtype=np.bool_),
        )

    def array(self) -> pa.BinaryArray:
        ends, texts, null = self.parts
        valid = pa.py_buffer(np.packbits(~null, bitorder="little")) if null.any() else None
        return pa.Array.from_buffers(
            pa.binary(), len(null), [valid, pa.py_buffer(ends), pa.py_buffer(texts[: ends[-1]])]
        )


def _headers_at(data: Bytes, places: Ints) -> pa.ListArray:
    """The headers whose count lies at these places, null at place 0."""
    if not places.any():
        return pa.nulls(len(places), HEADERS)
    whole = data.tobytes()
    return _listed([_headers(whole, place)[0] if place else None for place in places.tolist()])


def _listed(headers: Sequence[Headers | None]) -> pa.ListArray:
    rows = [None if not each else [{"key": key, "value": value} for key, value in each] for each in headers]
    return pa.array(rows, HEADERS)


# The plain way


def _rows(kept: Kept) -> Sequence[Row]:
    try:
        rows = [
            (record.offset, record.timestamp, record.key, record.headers or None, record.value)
            for record in kept.batch
        ]
    except (UnicodeDecodeError, CorruptRecordException):
        # aiokafka gives up on a header key that is not UTF-8; its checksum has been verified
        rows = list(_decoded(kept.data))
    if not rows and len(kept.data) > _HEADER:
        raise ValueError("no records announced, and yet there are some")
    return rows


def _decoded(batch: memoryview) -> Iterator[Row]:
    """The records of a batch that aiokafka cannot read."""
    whole = _DefaultRecordBatchPy(batch)
    data, at = bytes(batch), _HEADER
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
        yield whole.base_offset + offset, time, key, headers or None, value


def _headers(data: bytes, at: int) -> tuple[Headers, int]:
    """The headers whose count lies here. Bytes of a key that are not UTF-8 become `\\xff` escapes."""
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

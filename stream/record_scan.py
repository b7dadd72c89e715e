"""Walks through Kafka's record batches, byte by byte, and copies keys and values to columns (KIP-98).

Compiled by numba. Nothing is read from beyond the end of a batch, whatever its bytes say.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.compiled import compiled, inlined
from schemas.json_guards import Bytes, Ints

Lengths = npt.NDArray[np.int32]
Pieces = npt.NDArray[np.int64]  # two rows: places and lengths

HEADER = 61
"""Bytes of a record batch before its records."""

_ATTRIBUTES, _FIRST_TIME, _LATEST_TIME, _COUNT = 21, 27, 35, 57
_APPEND_TIME = 8  # the bit of the attributes that says that a broker's time counts, not each record's
_MOST_BITS = 63


@inlined
def _big_endian(data: Bytes, at: int, size: int) -> Any:
    number = np.int64(0)
    for place in range(at, at + size):
        number = number << 8 | np.int64(data[place])
    return number


@inlined
def _varint(data: Bytes, at: int, end: int) -> tuple[Any, Any]:
    """A zigzag number and the place behind it, which is beyond `end` where there is none."""
    number = np.uint64(0)
    shift = np.uint64(0)
    while at < end and shift <= _MOST_BITS:
        byte = np.uint64(data[at])
        at += 1
        number |= (byte & np.uint64(127)) << shift
        if byte < 128:
            return np.int64(number >> np.uint64(1)) ^ -np.int64(number & np.uint64(1)), at
        shift += np.uint64(7)
    return np.int64(0), end + 1


@inlined
def _headers_end(data: Bytes, at: int, end: int) -> int:
    """The place behind the headers whose count lies here, beyond `end` where they are none."""
    count, at = _varint(data, at, end)
    if count < 0:
        return end + 1
    for _ in range(2 * count):  # keys and values
        length, at = _varint(data, at, end)
        if length > end - at:
            return end + 1
        at += max(length, 0)
        if at > end:
            break
    return at


@inlined
def _walk(
    data: Bytes, ends: Ints, offsets: Ints, times: Ints, keys: Pieces, values: Pieces, headers: Ints
) -> bool:
    """Fill the columns; whether the batches are well formed."""
    row, start = 0, 0
    for batch in range(len(ends)):
        end = ends[batch]
        first, latest = _big_endian(data, start + _FIRST_TIME, 8), _big_endian(data, start + _LATEST_TIME, 8)
        by_broker = data[start + _ATTRIBUTES + 1] & _APPEND_TIME
        base = _big_endian(data, start, 8)
        at = start + HEADER
        for _ in range(_big_endian(data, start + _COUNT, 4)):
            length, at = _varint(data, at, end)
            if length <= 0 or length > end - at:
                return False
            stop = at + length
            passed, at = _varint(data, at + 1, stop)  # behind the attributes, of which none are used
            beyond, at = _varint(data, at, stop)
            times[row] = latest if by_broker else first + passed
            offsets[row] = base + beyond
            for column in (keys, values):
                length, at = _varint(data, at, stop)
                if length > stop - at:
                    return False
                column[0, row], column[1, row] = at, length
                at += max(length, 0)
            if at >= stop:
                return False
            headers[row] = 0 if data[at] == 0 else at
            if _headers_end(data, at, stop) != stop:
                return False
            at = stop
            row += 1
        if at != end:
            return False
        start = end
    return row == len(offsets)


@inlined
def _gather(data: Bytes, pieces: Pieces) -> tuple[Lengths, Bytes, bool]:
    """The pieces of `data` one behind the other: where each ends, the bytes, and whether some are null."""
    rows = pieces.shape[1]
    ends = np.empty(rows + 1, dtype=np.int32)
    ends[0] = 0
    null = False
    for row in range(rows):
        length = pieces[1, row]
        null |= length < 0
        ends[row + 1] = ends[row] + max(length, 0)
    copied = np.empty(ends[rows], dtype=np.uint8)
    for row in range(rows):
        # of unsigned places numba does not ask whether they count from the end
        into, place = np.uint64(ends[row]), np.uint64(pieces[0, row])
        for byte in range(np.uint64(ends[row + 1] - ends[row])):
            copied[into + byte] = data[place + byte]
    return ends, copied, null


@compiled
def scan(data: Bytes, ends: Ints, rows: int) -> Any:
    """The records of uncompressed batches that lie one behind the other.

    Args:
        data: the batches, each with its header of HEADER bytes.
        ends: where each batch ends in `data`.
        rows: as many records as the batches' headers say.

    Returns:
        Offsets; times in ms since 1970; places in `data` of the count of headers, 0 where there are none;
        for keys, then for values their lengths, -1 for null, and (ends, bytes, whether some are null).

    Raises ValueError where the bytes do not hold what they announce.
    """
    offsets, times, headers = np.empty((3, rows), dtype=np.int64)
    keys, values = np.empty((2, rows), dtype=np.int64), np.empty((2, rows), dtype=np.int64)
    if not _walk(data, ends, offsets, times, keys, values, headers):
        raise ValueError("records do not fill their batches")
    return offsets, times, headers, keys[1], _gather(data, keys), values[1], _gather(data, values)

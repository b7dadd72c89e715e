"""Walks through Kafka's record batches, byte by byte, and copies keys and values to columns (KIP-98).

Compiled by numba. Nothing is read from beyond the end of a batch, whatever its bytes say.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.compiled import compiled, inlined
from schemas.json_guards import Bytes, Ints, Mask

Ends = npt.NDArray[np.int32]

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
def _text(data: Bytes, at: int, stop: int, row: int, ends: Ends, into: Bytes, nulls: Mask) -> Any:
    """Put the text whose length lies here behind those of the rows before; the place behind it.

    Raises ValueError where it is longer than its record.
    """
    length, at = _varint(data, at, stop)
    if length > stop - at:
        raise ValueError("a key or value is longer than its record")
    nulls[row] = length < 0
    # of unsigned places numba does not ask whether they count from the end
    place, end, count = np.uint64(at), np.uint64(ends[row]), np.uint64(max(length, 0))
    for byte in range(count):
        into[end + byte] = data[place + byte]
    ends[row + 1] = end + count
    return at + max(length, 0)


@compiled
def scan(
    data: Bytes, batch_ends: Ints, row: int, offsets: Ints, times: Ints, headers: Ints,
    key_ends: Ends, keys: Bytes, key_nulls: Mask, value_ends: Ends, values: Bytes, value_nulls: Mask,
) -> int:  # fmt: skip
    """Put the records of uncompressed batches that lie one behind the other into columns, from a row on.

    Args:
        data: the batches, each with its header of HEADER bytes.
        batch_ends: where each ends in `data`.
        row: the first row to fill; returns the one behind the last.
        offsets: to be filled.
        times: to be filled; ms since 1970.
        headers: to be filled with places in `data` where the count of headers lies, 0 where there are none.
        key_ends, keys, key_nulls, value_ends, values, value_nulls: to be filled; the texts of all rows lie
            one behind the other, row i from `ends[i]` to `ends[i + 1]`. There is room for as many bytes as in
            the batches, and for as many rows as their headers say.

    Raises ValueError where the bytes do not hold what they announce.
    """
    start = 0
    for batch in range(len(batch_ends)):
        end = batch_ends[batch]
        first, latest = _big_endian(data, start + _FIRST_TIME, 8), _big_endian(data, start + _LATEST_TIME, 8)
        by_broker = data[start + _ATTRIBUTES + 1] & _APPEND_TIME
        base = _big_endian(data, start, 8)
        at = start + HEADER
        for _ in range(_big_endian(data, start + _COUNT, 4)):
            length, at = _varint(data, at, end)
            if length <= 0 or length > end - at:
                raise ValueError("a record is longer than its batch")
            stop = at + length
            passed, at = _varint(data, at + 1, stop)  # behind the attributes, of which none are used
            beyond, at = _varint(data, at, stop)
            times[row] = latest if by_broker else first + passed
            offsets[row] = base + beyond
            at = _text(data, at, stop, row, key_ends, keys, key_nulls)
            at = _text(data, at, stop, row, value_ends, values, value_nulls)
            if at >= stop or _headers_end(data, at, stop) != stop:
                raise ValueError("headers do not end with their record")
            headers[row] = 0 if data[at] == 0 else at
            at = stop
            row += 1
        if at != end:
            raise ValueError("a batch goes on behind its records")
        start = end
    return row

"""Walks through Kafka's record batches, byte by byte, and copies keys and values to columns (KIP-98).

Compiled by numba. Nothing is read from beyond the end of a batch, whatever its bytes say.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.compiled import compiled, inlined
from schemas.json_guards import Bytes, Ints

Lengths = npt.NDArray[np.int32]

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


@compiled
def scan(
    data: Bytes,
    ends: Ints,
    offsets: Ints,
    times: Ints,
    keys: Ints,
    key_lengths: Lengths,
    values: Ints,
    value_lengths: Lengths,
    headers: Ints,
) -> bool:
    """Find the records of uncompressed batches that lie one behind the other; whether they are well formed.

    Args:
        data: the batches, each with its header of HEADER bytes.
        ends: where each batch ends in `data`.
        offsets, times, keys, key_lengths, values, value_lengths, headers: filled, one place a record, for as
            many as the batches' headers say. Times are ms since 1970, keys and values places in `data`,
            lengths -1 for null, headers the place of their count, 0 where there are none.
    """
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
            length, at = _varint(data, at, stop)
            if length > stop - at:
                return False
            keys[row], key_lengths[row] = at, max(length, -1)
            at += max(length, 0)
            length, at = _varint(data, at, stop)
            if length >= stop - at:  # the count of headers follows
                return False
            values[row], value_lengths[row] = at, max(length, -1)
            at += max(length, 0)
            headers[row] = 0 if data[at] == 0 else at
            at = _headers_end(data, at, stop)
            if at != stop:
                return False
            row += 1
        if at != end:
            return False
        start = end
    return row == len(offsets)


@compiled
def gather(data: Bytes, places: Ints, lengths: Lengths, into: Bytes) -> None:
    """Copy the pieces of `data` at `places` one behind the other."""
    end = np.uint64(0)  # of unsigned places numba does not ask whether they count from the end
    for row in range(len(places)):
        place, length = np.uint64(places[row]), np.uint64(max(lengths[row], 0))
        for byte in range(length):
            into[end + byte] = data[place + byte]
        end += length

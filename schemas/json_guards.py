"""What `pyarrow.json` lets pass and the contract does not, found in the bytes of many payloads at once.

All functions work on payloads joined by line feeds: `data` holds the bytes, `offsets` where each payload
begins (one more at the end). They may suspect a sound payload, since the row decoder has the last word, but
must never miss a wrong one. Each is a handful of passes of numpy over the bytes; substring searches, in
Arrow or Python, cost five to twenty times as much.
"""

import numpy as np
import numpy.typing as npt

from schemas.record import MAX_DEPTH

Mask = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_STRIDE = 16
_SAMPLES = 8  # that many samples lie in every run of 128 digits; a double overflows at 309
_LONGEST_MANTISSA = 64  # bytes walked back from an exponent before the payload is suspected anyway


def _table(members: bytes) -> Mask:
    table = np.zeros(256, dtype=bool)
    table[list(members)] = True
    return table


_BEFORE_VALUE = _table(b":,[ \t\r\n")
_AFTER_VALUE = _table(b",]} \t\r\n")
_BEFORE_NAN = _table(b":,[ \t\r\n-")
_MANTISSA = _table(b"0123456789.")
_DIGIT = _table(b"0123456789")


def odd_payloads(data: Bytes, offsets: Ints) -> Mask:
    """Payloads that may hold, in a field of no name, what the parser does not look at.

    That is NaN, Infinity, a number beyond a double, or nesting deeper than the contract allows. In named
    fields the parser and the checks after it find all of these.
    """
    odd = too_deep(data, offsets)
    for places in (_nan(data), _long_numbers(data), _large_exponents(data)):
        odd[np.searchsorted(offsets, places, side="right") - 1] = True
    return odd


def with_byte(data: Bytes, offsets: Ints, byte: int) -> Mask:
    """Payloads that hold `byte`."""
    found = np.zeros(len(offsets) - 1, dtype=bool)
    found[np.searchsorted(offsets, np.flatnonzero(data == byte), side="right") - 1] = True
    return found


def too_deep(data: Bytes, offsets: Ints) -> Mask:
    """Payloads with more opening brackets than `MAX_DEPTH`; only long ones are looked at."""
    deep = np.diff(offsets) > 2 * MAX_DEPTH
    for row in np.flatnonzero(deep):
        payload = data[offsets[row] : offsets[row + 1]]
        brackets = np.count_nonzero(payload == ord("{")) + np.count_nonzero(payload == ord("["))
        deep[row] = brackets > MAX_DEPTH
    return deep


def _nan(data: Bytes) -> Ints:
    """Places of `NaN`, `Inf` and `Infinity` that could be values: not within a word."""
    found = []
    for first, second, third in (b"NaN", b"Inf"):
        at = np.flatnonzero(data == first)
        at = at[(data[at + 1] == second) & _BEFORE_NAN[data[at - 1]]]
        at = at[at < len(data) - 4]  # a brace and a line feed follow the last value
        at = at[(data[at + 2] == third) & (_AFTER_VALUE[data[at + 3]] | (data[at + 3] == ord("i")))]
        found.append(at)
    return np.concatenate(found)


def _long_numbers(data: Bytes) -> Ints:
    """Places within runs of digits long enough to overflow a double without a large exponent."""
    run = _DIGIT[data[::_STRIDE]]
    length = 1
    while length < _SAMPLES:
        if len(run) <= length:
            return np.empty(0, dtype=np.int64)
        run = run[:-length] & run[length:]
        length *= 2
    places = np.flatnonzero(run) * _STRIDE
    # a list of serials can fall in step with the samples: only what is digits throughout is suspected
    window = np.arange((_SAMPLES - 1) * _STRIDE)
    return places[_DIGIT[data[places[:, None] + window]].all(axis=1)]


def _large_exponents(data: Bytes) -> Ints:
    """Places of an exponent of three digits or more after something that could be a number's mantissa.

    Hexadecimal text is full of `4e123`, so what stands before the mantissa decides.
    """
    at = np.concatenate([np.flatnonzero(data == ord("e")), np.flatnonzero(data == ord("E"))])
    at = at[at < len(data) - 4]
    at = at[_DIGIT[data[at - 1]]]
    digits = at + 1 + (data[at + 1] == ord("+"))
    at = at[_DIGIT[data[digits]] & _DIGIT[data[digits + 1]] & _DIGIT[data[digits + 2]]]
    before = at - 1
    for _ in range(_LONGEST_MANTISSA):
        inside = _MANTISSA[data[before]]
        if not inside.any():
            break
        before = before - inside
    endless = _MANTISSA[data[before]]
    before = before - (data[before] == ord("-"))
    return at[_BEFORE_VALUE[data[before]] | endless]

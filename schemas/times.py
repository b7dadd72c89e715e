"""Times and dates of the contract's *Values* paragraph: one string, or a whole Arrow column.

The column functions let Arrow's own cast do the work, since it knows nearly the same grammar, and help it
where it differs: it refuses more than six fractional digits, knows no bounds on the year, and fails as a
whole when one string is wrong. `tests/test_times.py` holds both against each other.
"""

import datetime as dt
import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.record import TIME

Mask = npt.NDArray[np.bool_]

MAX_TIME = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z in microseconds since 1970-01-01T00:00:00Z, which is the lowest time."""

_EPOCH = dt.date(1970, 1, 1).toordinal()
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[T ]"
    r"([01][0-9]|2[0-3])(?::([0-5][0-9])(?::([0-5][0-9])(?:\.([0-9]{1,9}))?)?)?"
    r"(?:Z|([+-])([01][0-9]|2[0-3])(?::?([0-5][0-9]))?)"
)
_WHOLE_TIME = f"^{_TIME.pattern}$"
_NANOSECONDS = r"^(.{19}\.[0-9]{6})[0-9]{1,3}([Z+-].*)$"
_SHORTEST_NANOSECONDS = len("2026-03-01T00:00:00.1234567Z")


def parse_date(text: str) -> dt.date | None:
    """The date that `YYYY-MM-DD` names, or None where it is not written so or does not exist (nor year 0)."""
    match = _DATE.fullmatch(text)
    if match is None:
        return None
    try:
        return dt.date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None


def parse_time(text: str) -> int | None:
    """Microseconds since 1970 UTC, or None where `text` is not a time of the contract."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    try:
        days = dt.date(int(year), int(month), int(day)).toordinal() - _EPOCH
    except ValueError:
        return None
    offset = int(offset_hours or 0) * 60 + int(offset_minutes or 0)
    minutes = days * 1440 + int(hour) * 60 + int(minute or 0) - (-offset if sign == "-" else offset)
    seconds = minutes * 60 + int(second or 0)
    micros = seconds * 1_000_000 + int((fraction or "0").ljust(6, "0")[:6])
    return micros if 0 <= micros <= MAX_TIME else None


def parse_times(texts: pa.StringArray) -> tuple[pa.TimestampArray, Mask]:
    """Every string as `timestamp[us, UTC]` (null stays null), and where a string is not a time.

    What stands at a wrong place in the first array has no meaning.
    """
    try:
        times = texts.cast(TIME)
    except pa.ArrowInvalid:
        times = _cast_the_right(texts)
    wrong = _became_null(texts, times)
    micros = times.cast(pa.int64())
    bounds = pc.min_max(micros).as_py()
    if bounds["min"] is not None and (bounds["min"] < 0 or bounds["max"] > MAX_TIME):
        wrong |= mask(pc.or_(pc.less(micros, 0), pc.greater(micros, MAX_TIME)))
    return times, wrong


def parse_dates(texts: pa.StringArray) -> tuple[pa.Date32Array, Mask]:
    """Every string as `date32` (null stays null), and where a string is not a date."""
    try:
        dates = texts.cast(pa.date32())
    except pa.ArrowInvalid:
        dates = _one_by_one(parse_date, texts, pa.date32())
    wrong = _became_null(texts, dates)
    return dates, wrong | mask(pc.less(dates, pa.scalar(dt.date.min)))  # Arrow knows a year 0


def mask(flags: pa.BooleanArray) -> Mask:
    """An Arrow boolean array as a numpy mask, null read as false."""
    return np.asarray(pc.fill_null(flags, False).to_numpy(zero_copy_only=False), dtype=bool)


def _cast_the_right(texts: pa.StringArray) -> pa.TimestampArray:
    """Cast with nulls for what is wrong: nanoseconds cut, the form checked, and one by one if need be."""
    cut = texts
    if (pc.max(pc.binary_length(texts)).as_py() or 0) >= _SHORTEST_NANOSECONDS:
        cut = pc.replace_substring_regex(texts, pattern=_NANOSECONDS, replacement=r"\1\2")
    formed = pc.if_else(pc.match_substring_regex(cut, _WHOLE_TIME), cut, None)
    try:
        return formed.cast(TIME)
    except pa.ArrowInvalid:  # a day that its month does not have
        return _one_by_one(parse_time, formed, TIME)


def _one_by_one(parse: Callable[[str], object], texts: pa.StringArray, kind: pa.DataType) -> pa.Array:
    return pa.array([None if text is None else parse(text) for text in texts.to_pylist()], kind)


def _became_null(before: pa.Array, after: pa.Array) -> Mask:
    if before.null_count == after.null_count:
        return np.zeros(len(before), dtype=bool)
    return mask(pc.and_(before.is_valid(), after.is_null()))

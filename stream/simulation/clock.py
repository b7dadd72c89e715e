"""Simulated time: integer microseconds since 1970-01-01T00:00:00Z."""

from datetime import UTC, datetime, timedelta

import numpy as np

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment: datetime) -> int:
    """Microseconds since the epoch; `moment` must be aware."""
    assert moment.tzinfo is not None
    return (moment - _EPOCH) // timedelta(microseconds=1)


def iso(at: int) -> str:
    """`2026-03-02T00:00:00.000Z`: milliseconds, which is all that a Kafka timestamp can carry."""
    moment = _EPOCH + timedelta(microseconds=at)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at // 1000 % 1000:03d}Z"


def subject_time(at: int) -> str:
    """The form of times in finding subjects: microseconds."""
    return iso(at)[:-1] + "000Z"


def day(at: int) -> str:
    return iso(at)[:10]


def isos(times: np.ndarray) -> list[str]:
    """`iso` of an int64 array."""
    moments = np.datetime_as_string((times // 1000).astype("datetime64[ms]"))
    strings: list[str] = np.char.add(moments, "Z").tolist()
    return strings

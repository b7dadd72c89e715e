"""Times that a log writes without a zone."""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from schemas.errors import UsageError

_OFFSET = re.compile(r"([+-])([01][0-9]|2[0-3]):?([0-5][0-9])")


class LocalTimeError(ValueError):
    """A local time that names no instant, or two; `reason` says which."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def timezone_of(text: str) -> tzinfo:
    """An IANA name, `UTC`, or an offset such as `+09:00`; raises `UsageError` for anything else."""
    if text in ("Z", "UTC"):
        return UTC
    if found := _OFFSET.fullmatch(text):
        sign, hours, minutes = found.groups()
        offset = timedelta(hours=int(hours), minutes=int(minutes))
        return timezone(-offset if sign == "-" else offset)
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            f"{text!r} is no time zone; write an IANA name like America/New_York, or an offset like +09:00"
        ) from None


def instant(local: datetime, zone: tzinfo) -> datetime:
    """The UTC instant of a naive local time.

    Raises:
        LocalTimeError: `time_nonexistent` where clocks sprang over it, `time_ambiguous` where they showed it
            twice. Neither is guessed.
    """
    first = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = local.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if first == second:
        return first
    shown = first.astimezone(zone).replace(tzinfo=None)
    raise LocalTimeError("time_ambiguous" if shown == local else "time_nonexistent")

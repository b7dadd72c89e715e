"""What a mapping is: a function from log files to contract events and to what it had to leave out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Options:
    """What the logs themselves do not say.

    `timezone` is that of times without an offset; `cluster` names the Slurm cluster where no column does.
    """

    timezone: tzinfo | None = None
    cluster: str | None = None


@dataclass(frozen=True)
class Event:
    """One contract event of a stream (`allocation`, `access` or `placement`); its null fields left out."""

    stream: str
    fields: dict[str, Any]


@dataclass(frozen=True)
class LeftOut:
    """Something in the log that became no event: where it stands, and a reason from the mapping's list."""

    where: str
    reason: str


@dataclass(frozen=True)
class Mapping:
    """A log format.

    `read` takes files in any order and yields events in any order. It raises `UsageError` where the files
    are not of the format, or the options do not suffice. `reasons` explains each reason for leaving out.
    """

    title: str
    read: Callable[[Sequence[Path], Options], Iterator[Event | LeftOut]]
    reasons: dict[str, str]


def event(stream: str, at: datetime, **fields: Any) -> Event:
    """An event at an aware time, without the fields that are None."""
    utc = at.astimezone(UTC).replace(tzinfo=None)
    known = {name: value for name, value in fields.items() if value is not None}
    return Event(stream, {**known, "occurred_at": utc.isoformat() + "Z"})

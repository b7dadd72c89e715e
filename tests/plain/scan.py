"""A directory of NDJSON files, line by line (contract section 6, `scan`)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.plain.judge import Judged, judge
from tests.plain.references import Things, Tombstone, Version
from tests.plain.tables import EVENTS, REFERENCES
from tests.plain.values import Reason, decode


@dataclass
class Scanned:
    """What a scan must land, each by (topic, offset)."""

    raw: dict[tuple[str, int], tuple[bytes, str | None]] = field(default_factory=dict)
    """payload, reason (None: accepted)"""
    versions: dict[tuple[str, int], Version | Tombstone] = field(default_factory=dict)
    events: dict[tuple[str, int], tuple[dict[str, Any], Judged]] = field(default_factory=dict)
    broker_times: dict[tuple[str, int], int] = field(default_factory=dict)
    """of the events"""
    things: dict[str, Things] = field(default_factory=dict)
    """the reference things, by kind"""


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, payload): only LF ends a line, and nothing follows the last one."""
    if not path.exists():
        return
    parts = path.read_bytes().split(b"\n")
    if parts[-1] == b"":
        parts.pop()
    yield from enumerate(parts)


def broker_time(t: int, until: int | None) -> int:
    """An event's stand-in for broker time (section 3.6)."""
    return t if until is None else min(t, until)


def scan(directory: Path, until: int | None = None) -> Scanned:
    """Read all reference files, then judge the events. `until`: µs since 1970, section 3.6."""
    scanned = Scanned()
    scanned.things = {name: Things(name) for name in REFERENCES}
    for name in REFERENCES:
        for offset, payload in lines(directory / f"{name}.ndjson"):
            read_version(scanned, name, offset, payload)
    for name in EVENTS:
        for offset, payload in lines(directory / f"{name}.ndjson"):
            read_event(scanned, name, offset, payload, lambda t: broker_time(t, until))
    return scanned


def read_version(scanned: Scanned, name: str, offset: int, payload: bytes) -> None:
    """Take a reference record; of one key the lower offsets come first."""
    at = (f"custody.{name}", offset)
    taken = scanned.things[name].read(offset, payload)
    scanned.raw[at] = (payload, taken.text if isinstance(taken, Reason) else None)
    if isinstance(taken, Version | Tombstone):
        scanned.versions[at] = taken


def read_event(
    scanned: Scanned, name: str, offset: int, payload: bytes, broker_time_of: Callable[[int], int]
) -> None:
    """Take an event, which has its broker time by its own, once all reference records are read."""
    at = (f"custody.{name}", offset)
    fields = decode(EVENTS[name], payload)
    scanned.raw[at] = (payload, fields.text if isinstance(fields, Reason) else None)
    if not isinstance(fields, Reason):
        scanned.broker_times[at] = broker_time_of(fields["occurred_at"])
        judged = judge(name, fields, scanned.broker_times[at], scanned.things)
        scanned.events[at] = (fields, judged)

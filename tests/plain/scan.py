"""A directory of NDJSON files, line by line (contract section 6, `scan`)."""

from collections.abc import Iterator
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
    things = scanned.things = {name: Things(name) for name in REFERENCES}
    for name, thing in things.items():
        for offset, payload in lines(directory / f"{name}.ndjson"):
            at = (f"custody.{name}", offset)
            taken = thing.read(offset, payload)
            scanned.raw[at] = (payload, taken.text if isinstance(taken, Reason) else None)
            if isinstance(taken, Version | Tombstone):
                scanned.versions[at] = taken
    for name, columns in EVENTS.items():
        for offset, payload in lines(directory / f"{name}.ndjson"):
            at = (f"custody.{name}", offset)
            fields = decode(columns, payload)
            scanned.raw[at] = (payload, fields.text if isinstance(fields, Reason) else None)
            if not isinstance(fields, Reason):
                judged = judge(name, fields, broker_time(fields["occurred_at"], until), things)
                scanned.events[at] = (fields, judged)
    return scanned

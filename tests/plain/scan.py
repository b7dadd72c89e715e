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


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, payload): only LF ends a line, and nothing follows the last one."""
    if not path.exists():
        return
    parts = path.read_bytes().split(b"\n")
    if parts[-1] == b"":
        parts.pop()
    yield from enumerate(parts)


def scan(directory: Path, until: int | None = None) -> Scanned:
    """Read all reference files, then judge the events. `until`: µs since 1970, section 3.6."""
    scanned = Scanned()
    things = {name: Things(name) for name in REFERENCES}
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
                t = fields["occurred_at"]
                broker_time = t if until is None else min(t, until)
                scanned.events[at] = (fields, judge(name, fields, broker_time, things))
    return scanned

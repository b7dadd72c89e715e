"""Real logs of others, mapped: found beside the checkout, where the tests find them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson

from benchmarks.versions import NOW
from schemas import sources
from schemas.sources.local_time import timezone_of
from stream.simulation.messages import Encoded

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data"
_LOGS = (
    ("cloudtrail", "cloudtrail-*/*.json", None),
    ("slurm-sacct", "xdmod-ccr/phillips.log", "America/New_York"),
    ("slurm-sacct", "slurmrestd-slurmweb/*/*job*.json", None),
)


def unavailable_reason() -> str | None:
    """Why there are none, or None when there are some."""
    return None if FOLDER.is_dir() else "the real records are not in ../shared/data"


def mapped(least: int) -> list[Encoded]:
    """Every real event by stream, all repeated until there are at least so many."""
    events: dict[str, list[bytes]] = {}
    for event in _events():
        events.setdefault(event.stream, []).append(orjson.dumps(event.fields))
    times = -(-least // sum(map(len, events.values())))
    return [
        Encoded(stream, np.full(len(values) * times, NOW), [b"real"] * len(values) * times, values * times)
        for stream, values in events.items()
    ]


def _events() -> Iterator[sources.Event]:
    for source, pattern, zone in _LOGS:
        options = sources.Options(None if zone is None else timezone_of(zone), None)
        for item in sources.mapping(source).read(sorted(FOLDER.glob(pattern)), options):
            if isinstance(item, sources.Event):
                yield item

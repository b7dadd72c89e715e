"""The simulated data centre as one value: a seed gives the same bytes every time."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from schemas.errors import UsageError
from stream.simulation import incidents, messages, selftest, world
from stream.simulation.clock import HOUR, MINUTE, SECOND, iso, micros
from stream.simulation.columns import collect
from stream.simulation.incident import Incident
from stream.simulation.messages import Encoded, Message
from stream.simulation.workload import generate

START = datetime(2026, 3, 2, tzinfo=UTC)
SHORTEST = HOUR
"""A shorter simulation has no room for the incidents that absence makes."""

MOST_EVENTS = 100_000_000
"""They are made in memory."""

EARLIEST, LATEST = micros(datetime(2000, 1, 1, tzinfo=UTC)), micros(datetime(9900, 1, 1, tzinfo=UTC))
"""Between them all that a simulation says of before and after is a time that records can hold."""

RESENT = 0.002
"""Share of the events that come twice."""


@dataclass(frozen=True)
class Settings:
    """`duration` µs; `rate` events per simulated second, on average."""

    seed: int = 1
    accelerators: int = 10_800
    duration: int = 4 * HOUR
    rate: float = 10.0
    start: int = micros(START)


@dataclass(frozen=True)
class Simulation:
    """References first, then events in order of arrival, and what must be found in them."""

    settings: Settings
    references: list[Message]
    events: list[Encoded]
    incidents: list[Incident]

    @property
    def until(self) -> int:
        return self.settings.start + self.settings.duration

    @property
    def size(self) -> int:
        """Messages, references included."""
        return len(self.references) + sum(len(stream) for stream in self.events)

    def messages(self) -> Iterator[Message]:
        yield from self.references
        yield from messages.merged(self.events)

    def story(self) -> dict[str, Any]:
        """What `incidents.json` holds."""
        counts: dict[str, int] = {}
        for message in self.references:
            counts[message.record] = counts.get(message.record, 0) + 1
        return {
            "seed": self.settings.seed,
            "accelerators": self.settings.accelerators,
            "start": iso(self.settings.start),
            "until": iso(self.until),
            "records": counts | {stream.record: len(stream) for stream in self.events},
            "incidents": [asdict(incident) for incident in self.incidents],
        }


def simulate(settings: Settings) -> Simulation:
    """Builds the world, plants the incidents, and lets the tenants work.

    Raises UsageError: the settings are beyond what can be simulated.
    """
    if settings.duration < SHORTEST:
        raise UsageError("--duration is too short: give at least 1h, so that absences can be planted")
    end = settings.start + settings.duration
    if settings.start < EARLIEST or end > LATEST:
        raise UsageError("--start and --duration lead out of the years 2000 to 9899: give others")
    if not settings.rate * settings.duration / SECOND <= MOST_EVENTS:  # it may be NaN
        raise UsageError(f"--rate and --duration make more than {MOST_EVENTS:,} events: give less")
    tenants = max(20, settings.accelerators // 200)
    built = world.build(settings.seed, settings.start, end, settings.accelerators, tenants, accounts=12)
    stages, planted = incidents.plant(built)
    stages.append(selftest.stage(built))
    rng = np.random.default_rng(settings.seed)
    events = max(1, round(settings.rate * settings.duration / SECOND))
    streams = generate(built, rng, settings.start, end, events, first=4_711_000, drain=False)
    for name, columns in streams.items():
        rows = [fields for stage in stages for stream, fields in stage.rows.values() if stream == name]
        for field, values in collect(name, rows).items():
            columns[field].extend(values)
    messages.number_events(streams, {})
    references = list(messages.references(built.references, settings.start - MINUTE))
    encoded = [_resent(rng, messages.encode(*item)) for item in streams.items()]
    return Simulation(settings, references, encoded, planted)


def _resent(rng: np.random.Generator, stream: Encoded) -> Encoded:
    """The stream as shippers send it: what was not acknowledged in time comes again, some seconds later."""
    again = np.flatnonzero(rng.random(len(stream)) < RESENT)
    delays = rng.integers(1_000, 30_000, len(again)) * 1_000
    arrivals = np.concatenate([stream.arrivals, stream.arrivals[again] + delays])
    sent = np.concatenate([np.arange(len(stream)), again])
    order = np.argsort(arrivals, kind="stable")
    which = sent[order].tolist()
    return Encoded(
        stream.record, arrivals[order], [stream.keys[i] for i in which], [stream.values[i] for i in which]
    )

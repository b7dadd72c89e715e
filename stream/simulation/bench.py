"""The fixed mixture of benchmarks: 100,000 identities, about one event in a hundred wrong.

The stream is made of blocks that follow each other in time, each from its own seed, so that any length
can be had, a longer one begins with the shorter, and memory does not grow. Its bytes are pinned by a test.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from schemas.errors import UsageError
from stream.simulation import messages, world
from stream.simulation.clock import DAY, HOUR, MINUTE, micros
from stream.simulation.columns import AT, Columns
from stream.simulation.messages import Encoded, Message
from stream.simulation.simulator import START
from stream.simulation.workload import generate
from stream.simulation.world import World

SEED = 20_260_302
BLOCK = 50_000
SPAN = 4 * HOUR
TENANTS, ACCOUNTS = 20_000, 4
ACCELERATORS = 10_800
SPOILED = 0.01
PAPERS = 20 * DAY
LIMIT = PAPERS // SPAN * BLOCK
"""More events would go beyond the papers' time."""

Spoiler = Callable[[Columns, int, int], None]


@dataclass
class Bench:
    """The world and what continues from block to block."""

    world: World
    next_seq: dict[str, int]
    first: int = 4_711_000

    def references(self) -> Iterator[Message]:
        return messages.references(self.world.references, self.world.start - MINUTE)

    def blocks(self, events: int) -> Iterator[list[Encoded]]:
        """`events` events, in blocks of at most `BLOCK`; call it once.

        Raises:
            UsageError: more than `LIMIT`.
        """
        if events > LIMIT:
            raise UsageError(f"the bench profile has at most {LIMIT:,} events")
        for index in range(-(-events // BLOCK)):
            yield self._block(index, min(BLOCK, events - index * BLOCK))

    def messages(self, events: int) -> Iterator[Message]:
        """References first, then `events` events in order of arrival; call it once."""
        yield from self.references()
        for block in self.blocks(events):
            yield from messages.merged(block)

    def _block(self, index: int, wanted: int) -> list[Encoded]:
        rng = np.random.default_rng((SEED, index))
        start = self.world.start + index * SPAN
        streams = generate(self.world, rng, start, start + SPAN, BLOCK, self.first, drain=True)
        self.first += len(streams["allocation"][AT])
        spoil(rng, streams)
        messages.number_events(streams, self.next_seq)
        encoded = [messages.encode(*item) for item in streams.items()]
        return encoded if wanted == BLOCK else _cut(encoded, wanted)


def build() -> Bench:
    """The world of the benchmark, in order for `PAPERS`."""
    start = micros(START)
    end = start + PAPERS
    return Bench(world.build(SEED, start, end, ACCELERATORS, TENANTS, ACCOUNTS, rescreened=PAPERS), {})


def digest(events: int) -> str:
    """SHA-256 over the values of all references, then of the events by arrival, each with a line feed."""
    state = hashlib.sha256()
    for message in build().messages(events):
        state.update(message.value + b"\n")
    return state.hexdigest()


def spoil(rng: np.random.Generator, streams: dict[str, Columns]) -> None:
    """Makes about one event in a hundred fire a rule, in as many ways as there are spoilers."""
    for name, spoilers in _SPOILERS.items():
        columns = streams[name]
        count = len(columns[AT])
        chosen = np.flatnonzero(rng.random(count) < SPOILED).tolist()
        for index, pick in zip(chosen, rng.integers(0, 1 << 30, len(chosen)).tolist(), strict=True):
            spoilers[pick % len(spoilers)](columns, index, pick)


def _set(**fields: object) -> Spoiler:
    def spoiler(columns: Columns, index: int, pick: int) -> None:
        for name, value in fields.items():
            columns[name][index] = value

    return spoiler


def _stranger(columns: Columns, index: int, pick: int) -> None:
    columns["principal"][index] = f"iam-isk1:guest-{pick % 5000:04d}"
    columns["party_id"][index] = None


def _foreign_broker(columns: Columns, index: int, pick: int) -> None:
    columns["method"][index] = "brokered"
    columns["broker_id"][index] = f"P-9{pick % 400:05d}"


def _abroad(columns: Columns, index: int, pick: int) -> None:
    columns["source_country"][index] = ("CN", "HK", "RU", "IR", "KP")[pick // 7 % 5]
    columns["action"][index] = "call"


def _old_permit(columns: Columns, index: int, pick: int) -> None:
    columns["authorization_id"][index] = f"AUTH-9{pick % 3000:05d}"


def _odd_serial(columns: Columns, index: int, pick: int) -> None:
    if columns["serials"][index] is None:
        columns["principal"][index] = f"slurm-isk1:guest-{pick % 900:04d}"
    else:
        columns["serials"][index] = [*columns["serials"][index][1:], f"1699999{pick % 1_000_000:06d}"]


_SPOILERS: dict[str, tuple[Spoiler, ...]] = {
    "allocation": (_odd_serial, _stranger, _set(broker_id="P-900001")),
    "access": (_stranger, _foreign_broker, _abroad, _old_permit),
    "placement": (_set(site_id="hakodate-9"), _old_permit, _set(site_id=None)),
}


def _cut(block: list[Encoded], wanted: int) -> list[Encoded]:
    """The first `wanted` messages of a block, by arrival."""
    arrivals = np.concatenate([stream.arrivals for stream in block])
    which = np.repeat(np.arange(len(block)), [len(stream) for stream in block])
    counts = np.bincount(which[np.argsort(arrivals, kind="stable")[:wanted]], minlength=len(block))
    return [
        Encoded(stream.record, stream.arrivals[:n], stream.keys[:n], stream.values[:n])
        for stream, n in zip(block, counts.tolist(), strict=True)
    ]

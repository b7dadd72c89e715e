"""A producer in a process of its own that ships events at a steady rate, with event times of now.

It does not wait for anybody: what cannot be shipped in time is shipped late, and that is told.
"""

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import orjson
from confluent_kafka import Producer

from benchmarks.live_events import LiveEvents, bench_of_today, prepare
from stream.simulation.clock import iso
from stream.simulation.world import World

CHUNK_SECONDS = 0.01  # between two looks at what is due
MOST_SECONDS = 0.05  # of events shipped in one go when behind


@dataclass(frozen=True)
class Extra:
    """A record besides the bench profile's. Times are µs since a run's start, which `encode` adds: `at` goes
    into the field `time`, `send` says when it is sent."""

    topic: str
    key: str
    fields: dict[str, Any]
    at: int
    send: int
    time: str = "occurred_at"

    def encode(self, start: float) -> bytes:
        """Its value, in a run that starts at this Unix time."""
        fields = {name: value for name, value in self.fields.items() if value is not None}
        return orjson.dumps(fields | {self.time: iso(int(start * 1e6) + self.at)})


@dataclass(frozen=True)
class Run:
    """`rate` events a second from `start` (Unix time) on; what is in `extras` besides."""

    rate: float
    seconds: float
    start: float
    extras: Sequence[Extra] = field(default=())


@dataclass(frozen=True)
class Shipped:
    """How much was shipped, from when to when (Unix time), and how many seconds late at most."""

    count: int
    start: float
    end: float
    late: float


Planter = Callable[[World], Any]


class Paced:
    """The process, for as long as the block. It makes the world and `events` events first."""

    def __init__(self, bootstrap: str, events: int, plant: Planter | None = None) -> None:
        """`plant` may add to the world before anything of it is shipped; `planted` is what it returned."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, bootstrap, events, plant), daemon=True)
        self._process.start()
        theirs.close()
        self.planted: Any = None

    def __enter__(self) -> Self:
        self.planted = self._pipe.recv()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.join()

    def references(self) -> int:
        """Ships the world's reference records; returns how many."""
        self._pipe.send("references")
        return int(self._pipe.recv())

    def begin(self, run: Run) -> None:
        """Starts shipping; `end` waits for it."""
        self._pipe.send(run)

    def end(self) -> Shipped:
        shipped: Shipped = self._pipe.recv()
        return shipped

    def ship(self, run: Run) -> Shipped:
        self.begin(run)
        return self.end()


def _serve(pipe: "Connection[Any, Any]", bootstrap: str, events: int, plant: Planter | None) -> None:
    made = bench_of_today()
    planted = plant(made.world) if plant else None
    shipper = _Shipper(bootstrap, prepare(made, events))
    references = [(f"custody.{m.record}", m.key, m.value) for m in made.references()]
    del made
    pipe.send(planted)
    while True:
        asked = pipe.recv()
        if asked == "references":
            for record in references:
                shipper.produce(*record)
            shipper.flush()
            pipe.send(len(references))
        else:
            pipe.send(shipper.run(asked))


class _Shipper:
    """One librdkafka producer, and how far it has come in the events."""

    def __init__(self, bootstrap: str, events: LiveEvents) -> None:
        settings = {"bootstrap.servers": bootstrap, "linger.ms": 5, "partitioner": "murmur2_random"}
        self._producer = Producer(settings | {"queue.buffering.max.messages": 1_000_000})
        self._events = events
        self._next = 0

    def produce(self, topic: str, key: bytes, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key)
                return
            except BufferError:
                self._producer.poll(0.05)

    def flush(self) -> None:
        assert self._producer.flush(120) == 0, "the broker did not take everything"

    def run(self, run: Run) -> Shipped:
        extras = deque(sorted(run.extras, key=lambda extra: extra.send))
        first, total = self._next, int(run.rate * run.seconds)
        base, most = run.start - first / run.rate, max(1, int(run.rate * MOST_SECONDS))
        sent, late = 0, 0.0
        while sent < total or extras:
            now = time.time() - run.start
            while extras and extras[0].send <= now * 1e6:
                each = extras.popleft()
                self.produce(each.topic, each.key.encode(), each.encode(run.start))
            due = min(total, max(0, int(now * run.rate)))
            if sent < due:
                late = max(late, now - sent / run.rate - CHUNK_SECONDS)
                self._send(first + sent, first + min(due, sent + most), base, run.rate)
            is_behind, sent = due > sent + most, min(due, sent + most)
            self._producer.poll(0)
            if not is_behind:
                time.sleep(CHUNK_SECONDS)
        self.flush()
        self._next = first + sent
        return Shipped(total + len(run.extras), run.start, time.time(), round(late, 3))

    def _send(self, first: int, last: int, start: float, rate: float) -> None:
        events, size = self._events, len(self._events)
        for number, value in enumerate(events.stamped(first, last, start, rate), first):
            self.produce(events.topics[number % size], events.keys[number % size], value)

"""A producer in a process of its own that ships events at a steady rate, with event times of now.

It does not wait for anybody: what cannot be shipped in time is shipped late, and that is told.
"""

import asyncio
import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import orjson
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from confluent_kafka import Producer

from benchmarks.live_events import Batches, LiveEvents, bench_of_today
from stream.simulation.clock import iso
from stream.simulation.world import World

CHUNK_SECONDS = 0.02  # between two looks at what is due
MOST_SECONDS = 0.05  # of events shipped in one go when behind
MOST_UNANSWERED = 32  # requests
ALL = -1  # replicas that acknowledge
TIMEOUT_MS = 30_000


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

    def __init__(self, bootstrap: str, partitions: int, events: int, plant: Planter | None = None) -> None:
        """Each event topic has so many partitions, once something is shipped. `plant` may add to the world
        before anything of it is; `planted` is what it returned."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, bootstrap, partitions, events, plant)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
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


def _serve(
    pipe: "Connection[Any, Any]", bootstrap: str, partitions: int, events: int, plant: Planter | None
) -> None:
    made = bench_of_today()
    planted = plant(made.world) if plant else None
    shipper = _Shipper(bootstrap, LiveEvents(made.blocks(events), partitions))
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
            pipe.send(asyncio.run(shipper.run(asked)))


class _Shipper:
    """Ships events as record batches that are there, all else by a librdkafka producer; knows how far it has
    come in the events."""

    def __init__(self, bootstrap: str, events: LiveEvents) -> None:
        settings = {"bootstrap.servers": bootstrap, "linger.ms": 5, "partitioner": "murmur2_random"}
        self._producer = Producer(settings | {"queue.buffering.max.messages": 1_000_000})
        self._bootstrap = bootstrap
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

    async def run(self, run: Run) -> Shipped:
        extras = deque(sorted(run.extras, key=lambda extra: extra.send))
        first, total = self._next, int(run.rate * run.seconds)
        base, most = run.start - first / run.rate, max(1, int(run.rate * MOST_SECONDS))
        sent, late = 0, 0.0
        async with _Raw(self._bootstrap) as raw:
            while sent < total or extras:
                now = time.time() - run.start
                while extras and extras[0].send <= now * 1e6:
                    each = extras.popleft()
                    self.produce(each.topic, each.key.encode(), each.encode(run.start))
                due = min(total, max(0, int(now * run.rate)), sent + most)
                if sent < due:
                    late = max(late, now - sent / run.rate - CHUNK_SECONDS)
                    for batches in self._events.sent(first + sent, first + due, base, run.rate):
                        await raw.send(batches)
                is_behind, sent = due == sent + most, due
                self._producer.poll(0)
                await asyncio.sleep(0 if is_behind else CHUNK_SECONDS)
        self.flush()
        self._next = first + sent
        return Shipped(total + len(run.extras), run.start, time.time(), round(late, 3))


class _Raw:
    """Sends record batches as they are to the only broker, a request before the last one is answered."""

    def __init__(self, bootstrap: str) -> None:
        self._client = AIOKafkaClient(bootstrap_servers=bootstrap)
        self._unanswered: deque[asyncio.Task[Any]] = deque()

    async def __aenter__(self) -> Self:
        await self._client.bootstrap()
        (self._broker,) = self._client.cluster.brokers()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Waits for all answers."""
        while self._unanswered:
            await self._answered()
        await self._client.close()

    async def send(self, batches: Batches) -> None:
        topics: dict[str, list[tuple[int, bytes]]] = {}
        for (topic, partition), batch in batches.items():
            topics.setdefault(topic, []).append((partition, batch))
        request = ProduceRequest(None, ALL, TIMEOUT_MS, list(topics.items()))
        self._unanswered.append(asyncio.create_task(self._client.send(self._broker.nodeId, request)))
        while len(self._unanswered) > MOST_UNANSWERED:
            await self._answered()

    async def _answered(self) -> None:
        answer = await self._unanswered.popleft()
        for topic, partitions in answer.topics:
            for partition, error, *_ in partitions:
                assert error == 0, f"{topic} {partition} did not take a batch: error {error}"

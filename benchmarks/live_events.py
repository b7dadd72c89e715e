"""The bench profile's events as if they happened now, cut around their event times, filled in when sent."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from stream.simulation import bench, world
from stream.simulation.bench import Bench
from stream.simulation.clock import DAY, micros
from stream.simulation.messages import Encoded

_MARK = b'"occurred_at":"'
_LENGTH = len("2026-03-02T00:00:00.000Z")
_ID = b'{"event_id":"'


def bench_of_today() -> Bench:
    """The world of the bench profile with papers that are in order for the next twenty days."""
    start = micros(datetime.now(UTC)) - DAY
    accelerators, tenants, accounts = bench.ACCELERATORS, bench.TENANTS, bench.ACCOUNTS
    end = start + bench.PAPERS
    made = world.build(bench.SEED, start, end, accelerators, tenants, accounts, rescreened=bench.PAPERS)
    return Bench(made, {})


@dataclass
class LiveEvents:
    """Events in order of arrival, each as what stands before and after its event time.

    `at` (float64) is when each happens, counted in events: at R events a second, event i is sent at second
    i / R and happened at second at[i] / R, at that time or before. What holds between the times of one
    block's events holds between these.
    """

    topics: list[str] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    tails: list[bytes] = field(default_factory=list)
    at: np.ndarray = field(default_factory=lambda: np.empty(0))

    def __len__(self) -> int:
        return len(self.topics)

    def add(self, block: Iterable[Encoded]) -> None:
        """Append a block, whose streams are each in order of arrival."""
        streams = list(block)
        arrivals = np.concatenate([stream.arrivals for stream in streams])
        order = np.argsort(arrivals, kind="stable")
        topics = [f"custody.{stream.record}" for stream in streams for _ in stream.keys]
        keys = [key for stream in streams for key in stream.keys]
        values = [value for stream in streams for value in stream.values]
        cuts = [value.index(_MARK) + len(_MARK) for value in values]
        texts = [value[cut : cut + _LENGTH - 1].decode() for value, cut in zip(values, cuts, strict=True)]
        happened = np.array(texts, "datetime64[us]").astype(np.int64)
        before = len(self)
        ranks = np.arange(len(order), dtype=np.float64)
        self.at = np.concatenate([self.at, before + np.interp(happened[order], arrivals[order], ranks)])
        for i in order.tolist():
            self.topics.append(topics[i])
            self.keys.append(keys[i])
            self.heads.append(values[i][: cuts[i]])
            self.tails.append(values[i][cuts[i] + _LENGTH - 1 :])

    def stamped(self, first: int, last: int, start: float, rate: float) -> list[bytes]:
        """The values of events first to last (excluded) at `rate` a second, the first of all sent at `start`
        (Unix time). Numbers go round: each round has event ids of its own, and everything else again."""
        size = len(self)
        number = np.arange(first, last)
        happened = start + (self.at[number % size] + number // size * size) / rate
        texts = np.datetime_as_string((happened * 1e6).astype("datetime64[us]"), unit="us")
        values = []
        for n, text in zip(range(first, last), texts.tolist(), strict=True):
            head = self.heads[n % size]
            if n >= size:
                head = b"%b%d-%b" % (_ID, n // size, head[len(_ID) :])
            values.append(b"%b%b%b" % (head, text.encode(), self.tails[n % size]))
        return values


def prepare(made: Bench, events: int) -> LiveEvents:
    """So many events of this world, to be sent."""
    live = LiveEvents()
    for block in made.blocks(events):
        live.add(block)
    return live

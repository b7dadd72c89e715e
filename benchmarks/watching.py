"""What comes out, and when it can be seen: findings on their topic, commits in the lake."""

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import orjson
from confluent_kafka import Consumer, TopicPartition

from stream.topics import FINDINGS

LOOK_SECONDS = 0.005


class _Watch(ABC):
    """A thread that looks for as long as the block."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    @abstractmethod
    def _look(self) -> None:
        """Looks until `_stopping` is set."""


class Findings(_Watch):
    """Messages of `custody.findings` from now on, each with the Unix time at which a consumer had it."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__()
        settings = {"bootstrap.servers": bootstrap, "group.id": "watching", "enable.auto.commit": False}
        self._consumer = Consumer(settings | {"fetch.wait.max.ms": 10})
        self._taken: list[tuple[float, bytes]] = []
        places = [
            TopicPartition(FINDINGS, number)
            for number in self._consumer.list_topics(FINDINGS, 30).topics[FINDINGS].partitions
        ]
        for place in places:
            place.offset = self._consumer.get_watermark_offsets(place, 30)[1]
        self._consumer.assign(places)

    @property
    def messages(self) -> list[tuple[float, dict[str, Any]]]:
        return [(seen, orjson.loads(value)) for seen, value in self._taken]

    def _look(self) -> None:
        while not self._stopping.is_set():
            for message in self._consumer.consume(1000, 0.05):
                if message.error() is None:
                    self._taken.append((time.time(), message.value()))
        self._consumer.close()


@dataclass(frozen=True)
class Seen:
    """A commit and the files it added, with the Unix time at which its log entry had its name."""

    at: float
    rows: int
    files: tuple[Path, ...]


class Commits(_Watch):
    """Commits of rows to one table of a lake from now on."""

    def __init__(self, lake: Path, table: str) -> None:
        super().__init__()
        self._table = lake / table
        entries = (self._table / "_delta_log").glob("*.json")
        self._next = max((int(entry.stem) for entry in entries), default=-1) + 1
        self.seen: list[Seen] = []

    @property
    def rows(self) -> int:
        return sum(commit.rows for commit in self.seen)

    def _look(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            entry = self._table / "_delta_log" / f"{self._next:020}.json"
            if entry.exists():
                at = time.time()
                adds = [json.loads(line).get("add") for line in entry.read_text().splitlines()]
                adds = [add for add in adds if add]
                rows = sum(json.loads(add["stats"])["numRecords"] for add in adds)
                files = tuple(self._table / unquote(add["path"]) for add in adds)
                if files:
                    self.seen.append(Seen(at, rows, files))
                self._next += 1


def wait_until(done: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    """Raises RuntimeError when something does not hold in time."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.1)

"""A broker with references and events, and a lake that has landed the references: workers can run anew."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import versions
from benchmarks.shipping import ship, ship_empty
from benchmarks.worker_run import Taken, land
from deploy.local_kafka import LocalKafka
from schemas.reference import REFERENCES
from sinks.lake import Lake
from stream.simulation import shipping
from stream.simulation.messages import Message


@dataclass
class Filled:
    """`events` of them wait behind `references` landed ones."""

    kafka: LocalKafka
    folder: Path
    partitions: int
    references: int
    events: int
    runs: int = 0

    def land(self, *options: str, workers: int = 1) -> Taken:
        """Lands all events with a new worker, or several, in a lake that has the references only."""
        folder = self.folder / f"run-{self.runs}"
        self.runs += 1
        shutil.copytree(self.folder / "lake", folder / "lake")
        total = self.references + self.events
        taken = land(
            self.kafka.bootstrap, folder, total, self.references, self.partitions, *options, workers=workers
        )
        shutil.rmtree(folder)
        return taken


@contextmanager
def filled(
    partitions: int,
    references: Iterable[Message],
    events: Iterable[Message],
    settings: Mapping[str, str] | None = None,
) -> Iterator[Filled]:
    """A broker of its own with both, its topics in so many partitions each; `settings` are the broker's."""
    with _broker(settings) as (kafka, folder):
        shipping.prepare(_connection(kafka), partitions)
        known = ship(kafka.bootstrap, references)
        land(kafka.bootstrap, folder, known, 0, partitions)
        yield Filled(kafka, folder, partitions, known, ship(kafka.bootstrap, events))


@contextmanager
def with_versions(partitions: int, count: int, events: Iterable[Message]) -> Iterator[Filled]:
    """A broker of its own with events, in so many partitions, and a lake with `count` reference versions.

    They are in the lake only: in their topics stands something empty for each, which no worker reads.
    """
    with _broker() as (kafka, folder):
        kafka.create_topics(dict.fromkeys(REFERENCES, 1), {"retention.ms": "-1"})
        shipping.prepare(_connection(kafka), partitions)
        ends = versions.land(Lake.open(folder / "lake"), count)
        ship_empty(kafka.bootstrap, ends)
        yield Filled(kafka, folder, partitions, sum(ends.values()), ship(kafka.bootstrap, events))


@contextmanager
def _broker(settings: Mapping[str, str] | None = None) -> Iterator[tuple[LocalKafka, Path]]:
    folder = Path(tempfile.mkdtemp(prefix="sekisho-bench-"))
    try:
        with LocalKafka(settings=settings) as kafka:
            yield kafka, folder
    finally:
        shutil.rmtree(folder)


def _connection(kafka: LocalKafka) -> dict[str, object]:
    return {"bootstrap_servers": [kafka.bootstrap]}

"""A broker with references and events, and a lake that has landed the references: workers can run anew."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.shipping import ship
from benchmarks.worker_run import Taken, land
from deploy.local_kafka import LocalKafka
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

    def land(self, *options: str) -> Taken:
        """Lands all events with a new worker, in a lake that has the references only."""
        folder = self.folder / f"run-{self.runs}"
        self.runs += 1
        shutil.copytree(self.folder / "lake", folder / "lake")
        total = self.references + self.events
        taken = land(self.kafka.bootstrap, folder, total, self.references, self.partitions, *options)
        shutil.rmtree(folder)
        return taken


@contextmanager
def filled(partitions: int, references: Iterable[Message], events: Iterable[Message]) -> Iterator[Filled]:
    """A broker of its own with both, its topics in so many partitions each."""
    folder = Path(tempfile.mkdtemp(prefix="sekisho-bench-"))
    try:
        with LocalKafka() as kafka:
            shipping.prepare({"bootstrap_servers": [kafka.bootstrap]}, partitions)
            known = ship(kafka.bootstrap, references)
            land(kafka.bootstrap, folder, known, 0, partitions)
            yield Filled(kafka, folder, partitions, known, ship(kafka.bootstrap, events))
    finally:
        shutil.rmtree(folder)

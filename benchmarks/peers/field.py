"""Where systems are measured: topics of a broker, and the lakes that they read versions from or land in."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.findings import Findings, compare, count
from benchmarks.peers.running import Load, run_peer
from benchmarks.peers.systems import SEKISHO, Kind, System
from benchmarks.shipping import ship, ship_shares
from benchmarks.worker_run import Taken, land
from deploy.local_kafka import create_topics
from stream.simulation import bench, shipping
from stream.simulation.messages import merged

PARTITIONS = 4
WHOLE = "custody."


@dataclass(frozen=True)
class Run:
    """What a system took on once, and what it found, if it judges."""

    taken: Taken
    findings: Findings | None = None

    @property
    def per_second(self) -> float:
        return self.taken.events_per_second

    @property
    def cpu(self) -> float:
        """µs per event, all threads of the process."""
        return self.taken.cpu_us_per_event


class Field:
    """One broker with `events` events of the bench profile; `fill` it before the first run."""

    def __init__(self, bootstrap: str, folder: Path, events: int) -> None:
        self._bootstrap, self._folder, self._events = bootstrap, folder, events
        self._references = 0
        self._runs = 0
        self._judged = folder / "judged"  # the lake that peers are compared with

    def fill(self, shares: Iterable[float]) -> None:
        """Ships and lands the reference versions; ships the events, and the first of them for each share."""
        shipping.prepare({"bootstrap_servers": [self._bootstrap]}, PARTITIONS)
        made = bench.build()
        self._references = ship(self._bootstrap, made.references())
        land(self._bootstrap, self._new("references"), self._references, 0, PARTITIONS)
        loads = {load.prefix: load for load in map(self._load, (1.0, *shares))}
        for prefix, load in loads.items():
            if prefix != WHOLE:
                topics = dict.fromkeys(load.topics.values(), PARTITIONS)
                create_topics(self._bootstrap, topics, {"retention.ms": "-1"})
        events = (message for block in made.blocks(self._events) for message in merged(block))
        ship_shares(self._bootstrap, events, {prefix: load.events for prefix, load in loads.items()})

    def run(self, system: System) -> Run:
        """Runs the system once. Sekisho must be the first."""
        self._runs += 1
        folder = self._new(f"{self._runs}-{system.name}")
        if system is SEKISHO:
            return self._run_own(folder)
        taken = run_peer(system, self._load(system.share), self._folder / "references" / "lake", folder)
        findings = compare(folder, self._judged / "lake") if system.kind is Kind.WORK else None
        shutil.rmtree(folder)
        return Run(taken, findings)

    def _run_own(self, folder: Path) -> Run:
        shutil.copytree(self._folder / "references" / "lake", folder / "lake")
        total = self._references + self._events
        taken = land(self._bootstrap, folder, total, self._references, PARTITIONS)
        shutil.rmtree(self._judged, ignore_errors=True)
        folder.rename(self._judged)
        return Run(taken, count(self._judged / "lake"))

    def _load(self, share: float) -> Load:
        events = round(self._events * share)
        return Load(self._bootstrap, events, WHOLE if share == 1 else f"first-{events}.")

    def _new(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir()
        return folder

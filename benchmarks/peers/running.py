"""Runs one peer as a process of its own on topics that hold exactly the events it is to take."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.systems import System
from benchmarks.worker_run import Taken
from schemas.events import EVENTS

SECONDS = 600.0
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Load:
    """The first `events` events, in topics of their own whose records have the offsets of the whole."""

    bootstrap: str
    events: int
    prefix: str

    @property
    def topics(self) -> dict[str, str]:
        return {record.name: f"{self.prefix}{record.name}" for record in EVENTS.values()}


def run_peer(system: System, load: Load, references: Path, folder: Path) -> Taken:
    """Runs the system once; it writes into `folder`, which must be there.

    `references` is a lake with every reference version. Raises RuntimeError when the system fails.
    """
    result = folder / "result.json"
    environment: Mapping[str, str] = os.environ | {
        "BENCH_BROKERS": load.bootstrap,
        "BENCH_TOPICS": json.dumps(load.topics),
        "BENCH_EVENTS": str(load.events),
        "BENCH_FOLDER": str(folder),
        "BENCH_REFERENCES": str(references),
        "BENCH_RESULT": str(result),
        "PYTHONPATH": str(CHECKOUT),
    }
    command = [sys.executable, "-m", f"benchmarks.peers.{system.module}", *system.arguments]
    with (folder / "log").open("wb") as log, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command, env=environment, stdout=log, stderr=log, check=False, timeout=SECONDS, cwd=folder
        )
    if not result.exists():
        end = (folder / "log").read_text(errors="replace")[-800:]
        raise RuntimeError(f"{system.name} failed, or was not done within {SECONDS:.0f} s: {end}")
    figures = json.loads(result.read_text())
    return Taken(figures["events"], figures["seconds"], figures["cpu_seconds"], figures["rss_mb"])

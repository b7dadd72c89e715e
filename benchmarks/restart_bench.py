"""`restart`: how long a worker takes from its start to its first landed event, by its reference versions.

The versions are in the lake already; a thousand events wait, which is what the worker finds after a stop.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.broker import Filled, with_versions
from benchmarks.changed_events import among
from benchmarks.criteria import at_most, show_criteria
from benchmarks.processes import cpu_seconds, machine, peak_mb
from benchmarks.running import Running
from benchmarks.shipping import ship
from benchmarks.size import Size
from benchmarks.spread import spread
from stream.simulation import bench
from stream.simulation.messages import Encoded, merged

ASKED, LIMIT = 1_000_000, 5.0  # versions, and seconds to the first landed event
EVENTS = 1_000  # that wait at each start
LAND_SECONDS = 60.0
AMOUNTS = {
    Size.QUICK: ((ASKED,), 1),
    Size.USUAL: ((10_000, ASKED), 5),
    Size.FULL: ((10_000, 100_000, ASKED, 10_000_000), 9),
}
"""Numbers of versions, and how often a worker starts with each."""


@dataclass(frozen=True)
class Start:
    """Seconds from the start to knowing all versions, and to the first landed event; what that cost."""

    known_seconds: float
    landed_seconds: float
    cpu_seconds: float
    peak_mb: float


def run(size: Size) -> dict[str, Any]:
    """By number of versions, what each start took."""
    (numbers, runs), about = AMOUNTS[size], machine()
    (block,) = bench.build().blocks(bench.BLOCK)
    starts = {number: _spreads(_starts(number, block, runs)) for number in numbers}
    found = starts[ASKED]["landed_seconds"]["median"]
    return {
        "machine": about,
        "versions": {f"{number:,}": figures for number, figures in starts.items()},
        "criteria": [at_most(f"start to first landed event, {ASKED:,} versions", LIMIT, found, "s")],
    }


def show(results: Mapping[str, Any]) -> None:
    """Prints a table, and what was asked."""
    columns = ("versions", "s until they are known", "s to the first landed event", "CPU s", "MB")
    table = Table(*columns, title=f"{results['machine']['cpu']}, {results['machine']['cores']} cores")
    for column in table.columns:
        column.justify = "right"
    for number, found in results["versions"].items():
        cells = (f"{f['median']:,.2f} ({f['min']:,.2f}–{f['max']:,.2f})" for f in found.values())
        table.add_row(number, *cells)
    Console().print(table)
    show_criteria(results["criteria"])


def _starts(versions: int, block: list[Encoded], runs: int) -> list[Start]:
    """The first start is not counted: it is of a group that nobody was in, on files that nobody read."""
    messages = list(merged(among(block, versions, 0)))
    with with_versions(1, versions, ()) as broker:
        starts = []
        for number in range(runs + 1):
            ship(broker.kafka.bootstrap, messages[number * EVENTS : (number + 1) * EVENTS])
            starts.append(_start(broker))
    return starts[1:]


def _start(broker: Filled) -> Start:
    log, lake = broker.folder / "worker.log", broker.folder / "lake"
    before, began = _commits(lake), time.monotonic()
    options = ("--brokers", broker.kafka.bootstrap, "--lake", str(lake), "--partitions", "1")
    with Running(log, "worker", *options, "--commit-seconds", "0.05") as worker:
        known = time.monotonic() - began
        while _commits(lake) == before:
            if time.monotonic() - began > LAND_SECONDS + known:
                raise RuntimeError(f"no event has landed: {worker.said}")
            time.sleep(0.01)
        landed = time.monotonic() - began
        return Start(known, landed, cpu_seconds(worker.pid), peak_mb(worker.pid))


def _commits(lake: Path) -> int:
    """How many batches the lake has."""
    log = lake / "raw" / "_delta_log"
    return next(number for number in count() if not (log / f"{number:020}.json").exists())


def _spreads(starts: list[Start]) -> dict[str, Any]:
    return {
        name: spread([getattr(start, name) for start in starts])
        for name in ("known_seconds", "landed_seconds", "cpu_seconds", "peak_mb")
    }

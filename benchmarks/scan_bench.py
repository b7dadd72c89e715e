"""`scan` and `replay` beside the live worker on the same events: events a second of one core.

python -m benchmarks scan [--quick | --full]
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from rich.table import Table

from benchmarks.broker import filled
from benchmarks.processes import machine
from benchmarks.size import Size
from benchmarks.spread import spread
from rules.rule import load_all
from rules.suppressions import load_suppressions
from stream import memory, replay, scan
from stream.simulation import bench, files
from stream.simulation.messages import Message, merged

EVENTS = {Size.QUICK: 200_000, Size.USUAL: 400_000, Size.FULL: 4_000_000}
WARMING = 20_000  # events before anything is measured, for what only a first run costs
RUNS = {Size.QUICK: 1, Size.USUAL: 3, Size.FULL: 3}
PARTITIONS = 4
AIM = 1.2  # times the live rate per core

Split = tuple[float, float]
"""CPU seconds without the reconciler, and of the reconciler."""


def run(size: Size) -> dict[str, Any]:
    """Lands the same events live, from files and from a lake, in turn; the reconciler's share apart."""
    events, about = EVENTS[size], machine()
    taken: dict[str, list[float]] = {
        name: [] for name in ("live", "scan", "replay", "scan_reconciler", "replay_reconciler")
    }
    made = bench.build()
    blocks = list(made.blocks(events))

    def first(number: int) -> Iterator[Message]:
        return islice((message for block in blocks for message in merged(block)), number)

    with (
        tempfile.TemporaryDirectory(prefix="sekisho-bench-") as scratch,
        filled(PARTITIONS, made.references(), first(events)) as broker,
    ):
        folders = {number: Path(scratch) / f"{number}" for number in (WARMING, 0, events)}
        for number, folder in folders.items():
            files.write(chain(made.references(), first(number)), folder)
        blocks.clear()
        _files(folders[WARMING])
        for _ in range(RUNS[size]):
            taken["live"].append(broker.land().cpu_us_per_event)
            # what the papers alone take is taken off: live, they are there beforehand
            papers, all_of_it = _files(folders[0]), _files(folders[events])
            for name, before, after in zip(("scan", "replay"), papers, all_of_it, strict=True):
                taken[name].append((after[0] - before[0]) / events * 1e6)
                taken[f"{name}_reconciler"].append((after[1] - before[1]) / events * 1e6)
    live = spread(taken["live"])["median"]
    ratios = {name: round(live / spread(taken[name])["median"], 2) for name in ("scan", "replay")}
    return {
        "machine": about,
        "events": events,
        "cpu_us_per_event": {name: spread(values) for name, values in taken.items()},
        "times_live_rate_per_core": ratios,
        "criteria": [
            {
                "what": f"{name}: times the live rate per core",
                "limit": AIM,
                "found": found,
                "met": found >= AIM,
            }
            for name, found in ratios.items()
        ],
    }


def show(results: Mapping[str, Any]) -> None:
    """Prints a table."""
    table = Table("what", "µs CPU/event", "from", "to", title=f"{results['events']:,} events")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, s in results["cpu_us_per_event"].items():
        table.add_row(name, f"{s['median']:.2f}", f"{s['min']:.2f}", f"{s['max']:.2f}")
    Console().print(table)
    for name, ratio in results["times_live_rate_per_core"].items():
        print(f"{name}: {ratio:.2f} times the live rate per core, without the reconciler (aim: {AIM})")


def _files(folder: Path) -> tuple[Split, Split]:
    """What it takes to scan the files of a folder, and to replay the lake."""
    memory.tune()  # as the commands do
    _say(f"scanning and replaying {folder.name} events and their papers")
    with tempfile.TemporaryDirectory(prefix="sekisho-bench-") as scratch:
        lake = Path(scratch) / "lake"
        with _timed(scan) as scanned:
            scan.scan(folder, lake, load_all())
        with _timed(replay) as replayed:
            replay.replay(lake, Path(scratch) / "again", load_all(), load_suppressions())
    return (scanned[0], scanned[1]), (replayed[0], replayed[1])


@contextlib.contextmanager
def _timed(module: Any) -> Iterator[list[float]]:
    """Yields a list that has a `Split` after the block; the reconciler's share is the module's `conclude`."""
    conclude: Callable[..., Any] = module.conclude
    apart = 0.0
    split: list[float] = []

    def timed(*arguments: Any, **named: Any) -> Any:
        nonlocal apart
        began = time.process_time()
        result = conclude(*arguments, **named)
        apart += time.process_time() - began
        return result

    began = time.process_time()
    with mock.patch.object(module, "conclude", timed):
        yield split
    split += [time.process_time() - began - apart, apart]


def _say(text: str) -> None:
    print(f"  {text} …", file=sys.stderr, flush=True)

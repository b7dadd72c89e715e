"""What the reconciler costs per event on a lake landed beforehand, as the history behind it grows.

python -m benchmarks reconciler [--quick | --full]

With jemalloc, as `sekisho reconciler` runs where that is installed; with `LD_PRELOAD=` before it, without.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.fleet_lake import PARTIES, START, land, land_versions
from benchmarks.processes import machine, peak_mb
from benchmarks.settling import Step, settle
from benchmarks.size import Size
from deploy import install_jemalloc
from rules.reconciler.step import Reconciler
from rules.rule import load_all
from schemas.reference import PARTY
from sinks.lake import Lake
from stream import jemalloc, memory
from stream.steps import MOST_ROWS

AMOUNTS = {
    Size.QUICK: (3_000_000, 200_000),
    Size.USUAL: (8_000_000, 1_000_000),
    Size.FULL: (50_000_000, 1_000_000),
}
"""Events, and allocations that stay open."""
MILESTONES = (1, 3, 5, 8, 10, 20, 30, 40, 50)  # millions of landed events at which a step's cost is told
LATE_PARTIES = 2  # whose papers turn out to be other ones: each is in one event of PARTIES


def run(size: Size) -> dict[str, Any]:
    """Lands a fleet's events, settles them step by step on one core, then lands versions that reach back."""
    try:
        jemalloc.use(install_jemalloc.install())
    except RuntimeError as error:
        print(f"  without jemalloc: {error}", file=sys.stderr)
    events, standing = AMOUNTS[size]
    pa.set_cpu_count(1)
    memory.tune()
    folder = Path(tempfile.mkdtemp(prefix="sekisho-bench-"))
    try:
        land(folder / "lake", events, standing)
        bench = _Bench(folder, standing)
        steps = list(bench.settle_all())
        late = bench.reach_back()
    finally:
        shutil.rmtree(folder)
    return {
        "machine": machine(),
        "malloc": Path(os.environ.get("LD_PRELOAD") or "the system's").name,
        "events": events,
        "open_allocations": standing,
        "history": [_milestone(steps, n * 1_000_000) for n in MILESTONES if n * 1_000_000 <= events],
        "rss_mb": late["rss_mb"],
        "late_version": late,
    }


def show(results: Mapping[str, Any]) -> None:
    """Prints a table."""
    columns = ("landed events", "events/s", "µs CPU/event", "slowest step, s")
    about = results["machine"]
    title = f"{about['cpu']}, one of {about['cores']} cores, memory from {results['malloc']}"
    table = Table(*columns, title=title)
    for column in table.columns:
        column.justify = "right"
    for point in results["history"]:
        if point is not None:
            figures = (f"{point['landed']:,}", f"{point['events_per_second']:,}")
            table.add_row(
                *figures, f"{point['cpu_us_per_event']:.2f}", f"{point['slowest_step_seconds']:.2f}"
            )
    Console().print(table)
    late = results["late_version"]
    print(
        f"{results['open_allocations']:,} allocations stayed open; {late['rss_mb']:,} MB at most. "
        f"Versions that reach back changed {late['events_changed']:,} of {late['of_landed']:,} "
        f"in {late['seconds']:.1f} s."
    )


def _milestone(steps: list[Step], landed: int) -> dict[str, Any] | None:
    """The mean of the five steps that end at so many landed events, None where there were fewer."""
    near = [step for step in steps if step.landed <= landed][-5:]
    if not near or near[-1].landed < landed - MOST_ROWS:
        return None
    rows, seconds = sum(s.rows for s in near), sum(s.cpu for s in near)
    return {
        "landed": landed,
        "events_per_second": round(rows / seconds),
        "cpu_us_per_event": round(seconds / rows * 1e6, 2),
        "slowest_step_seconds": round(max(s.wall for s in near), 2),
    }


class _Bench:
    def __init__(self, folder: Path, standing: int) -> None:
        self._lake = Lake.open(folder / "lake")
        state = folder / "state"
        state.mkdir()
        self._engine = Reconciler(state, load_all())
        self._landed = 0

    def settle_all(self) -> Iterator[Step]:
        """Settles what has landed, and yields what each step took."""
        for step in settle(self._lake, self._engine, datetime.now(UTC), self._landed):
            self._landed = step.landed
            yield step

    def reach_back(self) -> dict[str, Any]:
        """Suspends some parties from before the first event on; what that touches is judged again."""
        rows: list[dict[str, object]] = [
            {
                "party_id": f"P-{n}",
                "version": 2,
                "valid_from": START,
                "status": "suspended",
                "hq_country": "JP",
            }
            | {"screened_at": START}
            for n in range(7, 7 + LATE_PARTIES)
        ]
        land_versions(self._lake, PARTY, rows, PARTIES)
        (step,) = self.settle_all()
        return {
            "events_changed": step.changed,
            "of_landed": self._landed,
            "seconds": round(step.wall, 2),
            "cpu_seconds": round(step.cpu, 2),
            "rss_mb": round(peak_mb()),
        }

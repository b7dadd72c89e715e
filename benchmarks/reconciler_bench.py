"""What the reconciler costs per event on a lake landed beforehand, as the history behind it grows.

python -m benchmarks reconciler [--quick]
"""

import shutil
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks.fleet_lake import PARTIES, START, land, land_versions
from benchmarks.processes import machine, peak_mb
from benchmarks.size import Size
from rules.reconciler.step import Reconciler
from rules.rule import load_all
from schemas.reference import PARTY
from sinks.lake import Lake, Settled
from stream.steps import groups, read_step

STEP_ROWS = 200_000
LATE_PARTIES = 2  # whose papers turn out to be other ones: each is in one event of PARTIES


def run(size: Size) -> dict[str, Any]:
    """Lands a fleet's events, settles them step by step on one core, then lands versions that reach back."""
    events, standing = (3_000_000, 200_000) if size is Size.QUICK else (50_000_000, 1_000_000)
    pa.set_cpu_count(1)
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
        "events": events,
        "open_allocations": standing,
        "history": [_milestone(steps, million * 1_000_000) for million in (1, 3, 10, 50)],
        "rss_mb": late["rss_mb"],
        "late_version": late,
    }


def show(results: Mapping[str, Any]) -> None:
    """Prints a table."""
    columns = ("landed events", "events/s", "µs CPU/event", "slowest step, s")
    table = Table(*columns, title=f"{results['machine']['cpu']}, one of {results['machine']['cores']} cores")
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


def _milestone(steps: list[dict[str, Any]], landed: int) -> dict[str, Any] | None:
    """The mean of the five steps that end at so many landed events, None where there were fewer."""
    near = [step for step in steps if step["landed"] <= landed][-5:]
    if not near or near[-1]["landed"] < landed - STEP_ROWS:
        return None
    rows, seconds = sum(s["rows"] for s in near), sum(s["cpu"] for s in near)
    return {
        "landed": landed,
        "events_per_second": round(rows / seconds),
        "cpu_us_per_event": round(seconds / rows * 1e6, 2),
        "slowest_step_seconds": round(max(s["wall"] for s in near), 2),
    }


class _Bench:
    def __init__(self, folder: Path, standing: int) -> None:
        self._lake = Lake.open(folder / "lake")
        state = folder / "state"
        state.mkdir()
        self._engine = Reconciler(state, load_all())
        self._landed = 0

    def settle_all(self) -> Any:
        """Settles what has landed, and yields what each step took: reading, judging, settling, keeping."""
        for commits in groups(self._lake.commits(self._engine.position), STEP_ROWS):
            cpu, wall = time.process_time(), time.monotonic()
            given = read_step(commits)
            output = self._engine.step(given, settle=True, at=datetime.now(UTC))
            before = self._lake.settled()
            step = 1 if before is None else before.step + 1
            tables = {
                "finding_event": output.events,
                "finding_history": output.history,
                "duplicate": output.duplicates,
                "coverage": output.coverage,
            }
            settled = Settled(
                step, given.raw_version, output.watermark, output.latest_broker_time, output.late
            )
            self._lake.settle(settled, tables, datetime.now(UTC))
            self._engine.commit(step)
            rows = sum(table.num_rows for table in given.events.values())
            self._landed += rows
            yield {
                "landed": self._landed,
                "rows": rows,
                "cpu": time.process_time() - cpu,
                "wall": time.monotonic() - wall,
                "changed": output.events.num_rows,
            }

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
            "events_changed": step["changed"],
            "of_landed": self._landed,
            "seconds": round(step["wall"], 2),
            "cpu_seconds": round(step["cpu"], 2),
            "rss_mb": round(peak_mb()),
        }

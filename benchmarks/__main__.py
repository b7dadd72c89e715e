"""`python -m benchmarks [NAME] [--json] [--quick]`: measure, and print a table or JSON."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def peers(quick: bool) -> dict[str, Any]:
    """Sekisho's worker beside a tutorial Faust agent and a Quix Streams app."""
    from benchmarks.throughput import run

    return run(quick)


def reconciler(quick: bool) -> dict[str, Any]:
    """The reconciler's events a second on one core as the history grows, and a version that reaches back."""
    from benchmarks.reconciler import run

    return run(quick)


BENCHMARKS = {"peers": peers, "reconciler": reconciler}


def main() -> None:
    """Run one benchmark."""
    names = "; ".join(f"{name}: {function.__doc__}" for name, function in BENCHMARKS.items())
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=names)
    parser.add_argument("name", nargs="?", default="peers", choices=sorted(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer events: a look, not a figure to quote")
    arguments = parser.parse_args()
    results = BENCHMARKS[arguments.name](arguments.quick)
    if arguments.json:
        print(json.dumps(results))
    elif arguments.name == "reconciler":
        _show_history(results)
    else:
        _show_peers(arguments.name, results)


def _show_history(results: Mapping[str, Any]) -> None:
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


def _show_peers(name: str, results: Mapping[str, Any]) -> None:
    systems = {key: value for key, value in results.items() if key != "machine"}
    columns = ("events", "events/s", "µs CPU/event", "MB", "sekisho is × faster", "× CPU of sekisho")
    table = Table(name, *columns, title=f"{results['machine']['cpu']}, {results['machine']['cores']} cores")
    for column in table.columns[1:]:
        column.justify = "right"
    for system, r in systems.items():
        figures = (f"{r['events']:,}", f"{r['events_per_second']:,}", f"{r['cpu_us_per_event']:.1f}")
        table.add_row(system, *figures, f"{r['rss_mb']:,}", f"{r['ratio']:.1f}", f"{r['cpu_ratio']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()

"""`workers`: one, two and three worker processes on one topic; what fleets need; with `--full`, a worker's
memory over twenty minutes.

Two cores that also carry the broker cannot show that three workers are faster than one: what several cost per
event, beside what one costs, is the figure to look at.
"""

from collections.abc import Mapping
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.broker import filled
from benchmarks.criteria import at_most, show_criteria
from benchmarks.memory import soak
from benchmarks.processes import machine
from benchmarks.size import Size
from benchmarks.sizing import FILLED, PEAK, sizing
from benchmarks.spread import spread
from stream.simulation import bench
from stream.simulation.messages import merged

PARTITIONS = 12
WORKERS = (1, 2, 3)
GATHER = {"group.initial.rebalance.delay.ms": "3000"}
"""The group waits for all its workers before the first of them reads."""
EVENTS = {Size.QUICK: 200_000, Size.USUAL: 300_000, Size.FULL: 3_000_000}
ROUNDS = {Size.QUICK: 1, Size.USUAL: 3, Size.FULL: 5}
SOAK_RATE = 20_000.0
SOAK_SECONDS, LOOK_SECONDS = 1200.0, 10.0
FLAT_PERCENT = 3.0


def run(size: Size) -> dict[str, Any]:
    """Everything in turn, each on a broker of its own."""
    about, events = machine(), EVENTS[size]
    made = bench.build()
    stream = (message for block in made.blocks(events) for message in merged(block))
    with filled(PARTITIONS, made.references(), stream, GATHER) as broker:
        rounds = [{count: broker.land(workers=count) for count in WORKERS} for _ in range(ROUNDS[size])]
    del made
    figures = {
        str(count): {
            "events_per_second": spread([each[count].events_per_second for each in rounds], 0),
            "cpu_us_per_event": spread([each[count].cpu_us_per_event for each in rounds]),
            "rss_mb_each": round(max(each[count].rss_mb for each in rounds)),
        }
        for count in WORKERS
    }
    most = max(median(each[count].events_per_second for each in rounds) for count in WORKERS)
    bytes_per_event = round(rounds[0][1].disk_bytes / events)
    one = median(each[1].cpu_us_per_event for each in rounds)
    memory = soak(SOAK_RATE, SOAK_SECONDS, LOOK_SECONDS, PARTITIONS) if size is Size.FULL else None
    return {
        "machine": about,
        "events": events,
        "workers": figures,
        "bytes_per_event": bytes_per_event,
        "memory": memory,
        "sizing": sizing(one, bytes_per_event, most),
        "criteria": _criteria(memory) if memory else [],
    }


def _criteria(memory: Mapping[str, Any]) -> list[dict[str, Any]]:
    what = f"growth of resident memory over {memory['seconds'] // 60} min"
    return [at_most(what, FLAT_PERCENT, memory["growth_percent"], "%")]


def show(results: Mapping[str, Any]) -> None:
    """Prints tables."""
    about = results["machine"]
    title = f"{about['cpu']}, {about['cores']} cores, load {about['load_before']} before"
    table = Table("workers", "events/s in all", "µs CPU/event", "MB each at most", title=title)
    for count, figures in results["workers"].items():
        speed, cpu = figures["events_per_second"], figures["cpu_us_per_event"]
        cells = (f"{speed['median']:,.0f}", f"{cpu['median']:.1f}", f"{figures['rss_mb_each']:,}")
        table.add_row(count, *cells)
    Console().print(table)
    if memory := results["memory"]:
        print(
            f"At {memory['events_per_second']:,} events/s for {memory['seconds']} s: {memory['mb']:,} MB, "
            f"{memory['growth_percent']:+.1f} % from the first third to the last, "
            f"{memory['mb_an_hour']:+.0f} MB an hour."
        )
    _show_sizing(results)
    show_criteria(results["criteria"])


def _show_sizing(results: Mapping[str, Any]) -> None:
    title = f"peak {PEAK:.0f} x the mean, cores {FILLED:.0%} filled; * extrapolated beyond what was measured"
    table = Table("accelerators", "events", "events/s", "at the peak", "cores", "GB a day", title=title)
    for need in results["sizing"]:
        mark = " *" if need["extrapolated"] else ""
        cells = (f"{need['events_per_second']:,}", f"{need['peak_per_second']:,}{mark}")
        more = (f"{need['worker_cores']:,}", f"{need['disk_gb_a_day']:,}")
        table.add_row(f"{need['accelerators']:,}", need["load"], *cells, *more)
    Console().print(table)

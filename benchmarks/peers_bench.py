"""`peers`: Sekisho's worker beside other stream processors, on one Apache Kafka, in interleaved rounds.

Some do the contract's work, some a look-up, some only consume (`peers/systems.py` says what each does and
skips). All read the same records: those that are slow take the first of them, from topics that hold no more.
"""

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.peers.field import Field, Run
from benchmarks.peers.systems import SEKISHO, SYSTEMS, Kind, System
from benchmarks.processes import machine
from benchmarks.size import Size
from benchmarks.spread import spread
from deploy.local_kafka import LocalKafka


@dataclass(frozen=True)
class Amount:
    """Events of the whole, and how often each system runs."""

    events: int
    rounds: int


AMOUNTS = {Size.QUICK: Amount(300_000, 1), Size.USUAL: Amount(1_000_000, 3), Size.FULL: Amount(4_000_000, 5)}
BARS = {
    "events_per_second_over_tutorial_faust": (">=", 20.0),
    "events_per_second_over_best_python_peer": (">=", 2.0),
    "cpu_over_whole_fetch_consume": ("<=", 3.5),
}
"""What is aimed at: Sekisho, with all its work, over the look-up of tutorial Faust, over the fastest Python
peer whatever that one leaves out, and its CPU per event over that of merely consuming with its transport."""

Runs = Mapping[str, Sequence[Run]]


def run(size: Size) -> dict[str, Any]:
    """Everything on one broker; figures by system, ratios, and the machine."""
    amount, about = AMOUNTS[size], machine()
    runs: dict[str, list[Run]] = defaultdict(list)
    with LocalKafka() as kafka, tempfile.TemporaryDirectory(prefix="sekisho-bench-") as scratch:
        field = Field(kafka.bootstrap, Path(scratch), amount.events)
        _say(f"shipping {amount.events:,} events and the reference versions")
        field.fill({system.share for system in SYSTEMS})
        for number in range(1, amount.rounds + 1):
            for system in (SEKISHO, *SYSTEMS):
                _say(f"round {number} of {amount.rounds}: {system.name}")
                runs[system.name].append(field.run(system))
    by_name = {system.name: system for system in (SEKISHO, *SYSTEMS)}
    results = {name: _result(by_name[name], taken, runs[SEKISHO.name]) for name, taken in runs.items()}
    return results | {"machine": about, "ratios": _ratios(runs)}


def show(results: Mapping[str, Any]) -> None:
    """Prints the systems and the ratios aimed at."""
    about = results["machine"]
    columns = ("work", "events", "events/s", "µs CPU/event", "MB", "findings", "× faster", "× CPU")
    table = Table("system", *columns, title=f"{about['cpu']}, {about['cores']} cores")
    for column in table.columns[2:]:
        column.justify = "right"
    for name, r in results.items():
        if name not in ("machine", "ratios"):
            table.add_row(name, *_row(r))
    Console().print(table)
    for name, (sign, bar) in BARS.items():
        r = results["ratios"][name]
        Console().print(f"{name}: {r['median']} ({r['min']} to {r['max']}), aimed at {sign} {bar:g}")
    Console().print("× faster, × CPU: Sekisho against it, in the median round. MB: largest resident size.")


def _row(r: Mapping[str, Any]) -> list[str]:
    findings = "" if r["findings"] is None else f"{r['findings']:,}"
    if r["findings_differing"]:
        findings += f" ({r['findings_differing']:,} differ)"
    return [
        r["kind"],
        f"{r['events']:,}",
        f"{r['events_per_second']['median']:,.0f}",
        f"{r['cpu_us_per_event']['median']:.1f}",
        f"{r['rss_mb']['median']:,.0f}",
        findings,
        f"{r['sekisho_times_faster']['median']:.1f}",
        f"{r['cpu_times_sekisho']['median']:.1f}",
    ]


def _result(system: System, runs: Sequence[Run], own: Sequence[Run]) -> dict[str, Any]:
    last = runs[-1]
    return {
        "kind": system.kind.value,
        "events": last.taken.events,
        "events_per_second": spread([run.per_second for run in runs], 0),
        "cpu_us_per_event": spread([run.cpu for run in runs]),
        "rss_mb": spread([run.taken.rss_mb for run in runs], 0),
        "findings": None if last.findings is None else last.findings.found,
        "findings_of_sekisho": None if last.findings is None else last.findings.sekisho,
        "findings_differing": None if last.findings is None else last.findings.differing,
        "sekisho_times_faster": _over(own, runs, lambda run: run.per_second),
        "cpu_times_sekisho": _over(runs, own, lambda run: run.cpu),
        "does": system.does,
        "skips": system.skips,
    }


def _ratios(runs: Runs) -> dict[str, Any]:
    own, fetch = runs[SEKISHO.name], runs["whole_fetch_consume"]
    peers = [runs[s.name] for s in SYSTEMS if s.is_python and s.kind is not Kind.CONSUME and s.name in runs]
    best = [max(round_, key=lambda run: run.per_second) for round_ in zip(*peers, strict=True)]
    by_name = {
        "events_per_second_over_tutorial_faust": _over(own, runs["faust_lookup"], lambda run: run.per_second),
        "events_per_second_over_best_python_peer": _over(own, best, lambda run: run.per_second),
        "cpu_over_whole_fetch_consume": _over(own, fetch, lambda run: run.cpu),
    }
    assert by_name.keys() == BARS.keys()
    return by_name


def _over(ours: Sequence[Run], theirs: Sequence[Run], figure: Callable[[Run], float]) -> dict[str, Any]:
    """The ratio in each round: what a busy machine does to both falls out."""
    return spread([figure(a) / figure(b) for a, b in zip(ours, theirs, strict=True)])


def _say(text: str) -> None:
    print(f"  {text} …", file=sys.stderr, flush=True)

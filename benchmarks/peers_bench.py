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

from rich.box import SIMPLE_HEAD
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
    with LocalKafka() as kafka, tempfile.TemporaryDirectory(prefix="sekisho-bench-") as scratch:
        field = Field(kafka.bootstrap, Path(scratch), amount.events)
        _say(f"shipping {amount.events:,} events and the reference versions")
        field.fill({system.share for system in SYSTEMS})
        runs, left_out = _measure(field, amount.rounds)
    by_name = {system.name: system for system in (SEKISHO, *SYSTEMS)}
    results = {name: _result(by_name[name], taken, runs[SEKISHO.name]) for name, taken in runs.items()}
    return results | {"machine": about, "ratios": _ratios(runs), "left_out": left_out}


def _measure(field: Field, rounds: int) -> tuple[Runs, dict[str, str]]:
    """Runs by system, and why which optional systems could not run."""
    runs: dict[str, list[Run]] = defaultdict(list)
    left_out: dict[str, str] = {}
    for number in range(1, rounds + 1):
        for system in (SEKISHO, *SYSTEMS):
            if system.name in left_out or (system.runs_once and number > 1):
                continue
            _say(f"round {number} of {rounds}: {system.name}")
            try:
                runs[system.name].append(field.run(system))
            except RuntimeError as error:
                if not system.is_optional:
                    raise
                left_out[system.name] = str(error)
                runs.pop(system.name, None)
    return runs, left_out


def show(results: Mapping[str, Any]) -> None:
    """Prints the systems and the ratios aimed at."""
    about = results["machine"]
    table = Table(title=f"{about['cpu']}, {about['cores']} cores", box=SIMPLE_HEAD, padding=0)
    table.add_column("system", no_wrap=True)
    for column in ("events", "events/s", "µs CPU", "MB", "findings", "faster", "CPU"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, r in results.items():
        if name not in ("machine", "ratios", "left_out"):
            table.add_row(name, *_row(r))
    Console().print(table)
    for name, (sign, bar) in BARS.items():
        r = results["ratios"][name]
        Console().print(f"{name}: {r['median']} ({r['min']} to {r['max']}), aimed at {sign} {bar:g}")
    for name, reason in results["left_out"].items():
        Console().print(f"{name} was left out: {reason}")
    Console().print(
        "µs CPU: per event. faster: how many times Sekisho is. CPU: how many times Sekisho's it takes."
    )


def _row(r: Mapping[str, Any]) -> list[str]:
    findings = "" if r["findings"] is None else f"{r['findings']:,}"
    if r["findings_differing"]:
        findings += f" ({r['findings_differing']:,} differ)"
    return [
        f"{r['events']:,}",
        f"{r['events_per_second']:,.0f}",
        f"{r['cpu_us_per_event']:.1f}",
        f"{r['rss_mb']:,}",
        findings,
        f"{r['sekisho_times_faster']['median']:.1f}",
        f"{r['cpu_times_sekisho']['median']:.1f}",
    ]


def _result(system: System, runs: Sequence[Run], own: Sequence[Run]) -> dict[str, Any]:
    last = runs[-1]
    rate, cpu = spread([run.per_second for run in runs], 0), spread([run.cpu for run in runs])
    return {
        "kind": system.kind.value,
        "events": last.taken.events,
        "events_per_second": rate["median"],
        "events_per_second_spread": rate,
        "cpu_us_per_event": cpu["median"],
        "cpu_us_per_event_spread": cpu,
        "rss_mb": round(max(run.taken.rss_mb for run in runs)),
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
    """The ratio in each round that both ran in: what a busy machine does to both falls out."""
    return spread([figure(a) / figure(b) for a, b in zip(ours, theirs, strict=False)])


def _say(text: str) -> None:
    print(f"  {text} …", file=sys.stderr, flush=True)

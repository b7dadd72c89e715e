"""`latency`: how long a record takes from the broker's log to a finding, and to a row that others can read.

Topics stamp records with the broker's time of append, as `sekisho worker --partitions` creates them. One
worker with its defaults reads 48 event partitions. A producer that waits for nobody ships the bench
profile's events, with event times of now, and among them a hundred a second that certainly make a new
finding. The clock of a finding stops when a consumer of `custody.findings` has it, that of a row when the
entry of raw's Delta log that names its file has its name.
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from kafka.admin import KafkaAdminClient
from rich.console import Console
from rich.table import Table

from benchmarks.criteria import at_most, show_criteria
from benchmarks.paced import Extra, Paced, Run
from benchmarks.percentiles import percentiles
from benchmarks.processes import machine
from benchmarks.running import Running, Share
from benchmarks.size import Size
from benchmarks.waits import finding_waits, row_waits, rows
from benchmarks.watching import Commits, Findings, wait_until
from benchmarks.worker_run import land
from deploy.local_kafka import LocalKafka
from schemas.events import EVENTS
from schemas.reference import REFERENCES
from stream.topics import FINDINGS, TICK, create_missing

PARTITIONS = 16  # of each event topic, 48 in all
POOL = 200_000  # different events; then they come again with other ids
BACKLOG = 600_000  # events from which the most that a worker can take is told
PROBES = 100  # events a second that make a finding of their own
MOST = 100_000
SETTLE_SECONDS = 10.0  # for the worker to join its group
KEPT_UP_SECONDS = 8.0  # by which everything has landed that was shipped: a commit is due every four
DRAIN_SECONDS = 300.0
SECONDS = {Size.QUICK: 10.0, Size.USUAL: 12.0, Size.FULL: 120.0}


def run(size: Size) -> dict[str, Any]:
    """One broker, one lake: first the most a worker takes, then one rate after the other."""
    about = machine()
    with LocalKafka() as kafka, tempfile.TemporaryDirectory(prefix="sekisho-bench-") as scratch:
        _make_topics(kafka.bootstrap)
        folder = Path(scratch)
        with Paced(kafka.bootstrap, PARTITIONS, POOL) as producer:
            most = _saturation(kafka.bootstrap, folder, producer)
            rates = sorted({1_000.0, 10_000.0, float(MOST), most / 2, most * 0.8})
            with _Watched(kafka.bootstrap, folder) as watched:
                figures = [watched.phase(producer, rate, SECONDS[size]) for rate in rates]
    return {
        "machine": about,
        "events_per_second_at_most": round(most),
        "rates": figures,
        "criteria": _criteria(figures, most),
    }


def show(results: Mapping[str, Any]) -> None:
    """Prints tables."""
    about = results["machine"]
    title = f"{about['cpu']}, {about['cores']} cores, load {about['load_before']} before"
    columns = ("events/s", "finding, ms", "row, ms", "batch, ms", "commit, ms", "worker, %", "kept up")
    table = Table(*columns, title=title, caption="waits: 50 %, 99 %, 99.9 %; batch and commit: mean")
    for column in table.columns:
        column.justify = "right"
    for rate in results["rates"]:
        times = ["–" if rate[name] is None else f"{rate[name]:.0f}" for name in ("batch_ms", "commit_ms")]
        table.add_row(
            *(f"{rate['rate']:,}", _listed(rate["finding_ms"]), _listed(rate["row_ms"]), *times),
            *(f"{rate['worker_cpu_percent']:.0f}", "yes" if rate["kept_up"] else "no"),
        )
    Console().print(table)
    print(f"The most it takes of a backlog: {results['events_per_second_at_most']:,} events/s.")
    show_criteria(results["criteria"])


def _listed(waits: Mapping[str, Any] | None) -> str:
    return "–" if waits is None else "  ".join(f"{waits[name]:,.0f}" for name in ("p50", "p99", "p99.9"))


def _make_topics(bootstrap: str) -> None:
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        create_missing(admin, EVENTS, PARTITIONS)
        create_missing(admin, [*REFERENCES, FINDINGS, TICK], 1)


def _saturation(bootstrap: str, folder: Path, producer: Paced) -> float:
    """Events a second that one worker takes when as many as it wants are there."""
    references = producer.references()
    land(bootstrap, folder, references, 0, PARTITIONS)
    producer.ship(Run(1e9, BACKLOG / 1e9, time.time()))
    return land(bootstrap, folder, references + BACKLOG, references, PARTITIONS).events_per_second


def _probes(rate: float, seconds: float) -> list[Extra]:
    """Refused log-ins of accounts that nobody has onboarded, each once."""
    made = f"{time.time_ns():x}"
    common = {"source": "iam/ishikari-1", "action": "denied", "method": "remote"}
    probes = []
    for number in range(int(rate * seconds)):
        name, at = f"probe-{made}-{number}", int(number / rate * 1e6)
        fields = common | {"event_id": name, "principal": f"iam-isk1:{name}"}
        probes.append(Extra("custody.access", name, fields, at, at))
    return probes


class _Watched:
    """A worker that runs, and what is seen of it."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        lake = folder / "lake"
        options = ("--brokers", bootstrap, "--lake", str(lake))
        self._worker = Running(folder / "worker.log", "worker", *options)
        self._findings = Findings(bootstrap)
        self._commits = Commits(lake, "raw")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for each in (self._worker, self._findings, self._commits):
            self._stack.enter_context(each)
        time.sleep(SETTLE_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def phase(self, producer: Paced, rate: float, seconds: float) -> dict[str, Any]:
        """Ships at this rate, waits until all has landed, and tells how long that took."""
        before, first = self._commits.rows, len(self._commits.seen)
        heard = len(self._findings.messages)
        start = time.time() + 0.5
        producer.begin(Run(rate - PROBES, seconds, start, _probes(PROBES, seconds)))
        time.sleep(start - time.time())
        share, spent = Share(self._worker.pid), self._spent()
        time.sleep(seconds)
        percent, shipped = share.percent(), producer.end()
        wait_until(lambda: self._commits.rows >= before + shipped.count, "all events land", DRAIN_SECONDS)
        behind = self._commits.seen[-1].at - shipped.end
        landed = rows(self._commits.seen[first:])
        waits = finding_waits(landed, self._findings.messages[heard:])
        means = {name: now.mean_ms_since(spent[name]) for name, now in self._spent().items()}
        reached = shipped.count / (shipped.end - shipped.start)
        return {
            "rate": round(rate),
            "shipped_per_second": round(reached),
            "finding_ms": percentiles(waits * 1e3),
            "row_ms": percentiles(row_waits(landed) * 1e3),
            "worker_cpu_percent": percent,
            **means,
            "kept_up": reached > 0.95 * rate and behind < KEPT_UP_SECONDS,
        }

    def _spent(self) -> dict[str, "_Spent"]:
        """What judging and writing a batch, and a commit, have taken so far: others wait for these."""
        return {
            f"{name}_ms": _Spent(
                *(self._worker.metric(f"custody_{name}_seconds_{part}") for part in ("sum", "count"))
            )
            for name in ("batch", "commit")
        }


@dataclass(frozen=True)
class _Spent:
    seconds: float
    count: float

    def mean_ms_since(self, before: "_Spent") -> float | None:
        count = self.count - before.count
        return round(1e3 * (self.seconds - before.seconds) / count, 1) if count else None


def _criteria(rates: Sequence[Mapping[str, Any]], most: float) -> list[dict[str, Any]]:
    rate = round(min(MOST, most / 2))
    (asked,) = (each for each in rates if each["rate"] == rate)
    idle = rates[0]
    return [
        at_most(f"99 % of findings at {rate:,} events/s", 250, _p99(asked["finding_ms"]), "ms"),
        at_most(f"99 % of rows at {rate:,} events/s", 5_000, _p99(asked["row_ms"]), "ms"),
        at_most(
            f"a worker at {idle['rate']:,} events/s over {len(EVENTS) * PARTITIONS} partitions",
            10,
            idle["worker_cpu_percent"],
            "% of a core",
        ),
    ]


def _p99(waits: Mapping[str, Any] | None) -> float | None:
    return None if waits is None else waits["p99"]

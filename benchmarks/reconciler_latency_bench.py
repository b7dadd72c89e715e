"""`reconciler_latency`: how long until the reconciler finds what one record alone does not show.

One worker and one reconciler with their defaults; 10,000 events a second whose event times are real time, so
the watermark runs the lateness behind. Incidents are planted so that what decides them happens during the
run (`planted.py`). The clock starts when the broker has the last record that it takes, when the commit with
an allocation can be seen, or when the brokers have what brings the watermark to a due time. It stops when a
consumer of `custody.findings` has the finding.
"""

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from kafka.admin import KafkaAdminClient
from rich.console import Console
from rich.table import Table

from benchmarks.criteria import at_most, show_criteria
from benchmarks.delays import Delays, told
from benchmarks.paced import Paced, Run, Shipped
from benchmarks.percentiles import percentiles
from benchmarks.planted import LATENESS, Incident, Planted, plant
from benchmarks.processes import machine
from benchmarks.running import Running, Share
from benchmarks.size import Size
from benchmarks.watching import Commits, Findings, wait_until
from deploy.local_kafka import LocalKafka
from stream.topics import FINDINGS, create_missing
from stream.worker import TOPICS

PARTITIONS = 4
RATE = 10_000
SECONDS = {Size.QUICK: 90, Size.USUAL: 90, Size.FULL: 600}
SORTS = 4  # incidents of each sort
FIRST, LAST = 40.0, 30.0  # seconds from the start to the first ones, and from the last ones to the end
AFTER_SECONDS = 30.0
KINDS = ("sweep", "through", "deadline", "silence")


def run(size: Size) -> dict[str, Any]:
    """Lands the world, then ships events and incidents and watches what becomes of them."""
    about, seconds = machine(), SECONDS[size]
    moments = np.linspace(FIRST, seconds - LAST, SORTS).tolist()
    with ExitStack() as stack:
        kafka = stack.enter_context(LocalKafka())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sekisho-bench-")))
        with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as admin:
            create_missing(admin, [*TOPICS, FINDINGS], PARTITIONS)
        planter = partial(plant, moments=moments, until=seconds)
        producer = stack.enter_context(Paced(kafka.bootstrap, PARTITIONS, RATE * seconds, planter))
        watched = stack.enter_context(_Watched(kafka.bootstrap, folder, producer))
        shipped, shares = watched.through(producer, seconds)
        with closing(
            Delays(folder / "lake", watched.landed.seen, watched.found.seen, producer.planted.incidents)
        ) as delays:
            planted = list(_planted(producer.planted, shipped, watched, delays))
            natural = {kind: _natural(delays, kind) for kind in ("row", "sweep")}
    return {
        "machine": about,
        "events": shipped.count,
        "events_per_second": round(shipped.count / (shipped.end - shipped.start)),
        "shipped_late_seconds": shipped.late,
        **shares,
        "planted": planted,
        "of_the_profile": natural,
        "criteria": _criteria(planted, natural),
    }


class _Watched(ExitStack):
    """A worker and a reconciler that have taken the world in, and what is seen of them."""

    def __init__(self, bootstrap: str, folder: Path, producer: Paced) -> None:
        super().__init__()
        lake = folder / "lake"
        options = ("--brokers", bootstrap, "--lake", str(lake))
        references = producer.references()
        with ExitStack() as stack:
            self.landed = stack.enter_context(Commits(lake, "raw"))
            self.found = stack.enter_context(Commits(lake, "finding_event"))
            self.settled = stack.enter_context(Commits(lake, "watermark"))
            self.findings = stack.enter_context(Findings(bootstrap))
            self.worker = stack.enter_context(Running(folder / "worker.log", "worker", *options))
            wait_until(lambda: self.landed.rows >= references, "all reference records land", 300)
            self.reconciler = stack.enter_context(Running(folder / "reconciler.log", "reconciler", *options))
            wait_until(lambda: len(self.settled.seen) > 1, "the reconciler settles", 300)
            self.push(stack.pop_all())

    def through(self, producer: Paced, seconds: float) -> tuple[Shipped, dict[str, Any]]:
        """Ships everything; returns how that went, and what the processes took meanwhile."""
        start, steps = time.time() + 1.0, len(self.settled.seen)
        spent = self.reconciler.metric("custody_step_seconds_sum")
        producer.begin(Run(RATE, seconds, start, producer.planted.extras))
        shares = Share(self.worker.pid), Share(self.reconciler.pid)
        shipped = producer.end()
        percents = [share.percent() for share in shares]
        time.sleep(AFTER_SECONDS)
        steps = len(self.settled.seen) - steps
        spent = self.reconciler.metric("custody_step_seconds_sum") - spent
        return shipped, {
            "worker_cpu_percent": percents[0],
            "reconciler_cpu_percent": percents[1],
            "steps": steps,
            "step_seconds": round(spent / steps, 2),
        }


def _planted(
    planted: Planted, shipped: Shipped, watched: _Watched, delays: Delays
) -> Iterator[dict[str, Any]]:
    """Each incident with the seconds until it was found, None where it never was."""
    had: dict[tuple[str, str], float] = {}
    for at, finding in watched.findings.messages:
        had.setdefault((finding["rule_id"], finding["subject"].partition("|since:")[0]), at)
    for incident in planted.incidents:
        at = shipped.start + incident.at / 1e6
        found = had.get((incident.rule_id, incident.subject), math.inf)
        waits = {"seconds": found - _since(incident, at, delays)}
        if incident.kind == "deadline":
            waits["after_table_seconds"] = found - told(watched.settled.seen, at)
        rounded = {name: round(wait, 2) if math.isfinite(wait) else None for name, wait in waits.items()}
        yield {"kind": incident.kind, "rule_id": incident.rule_id} | rounded


def _since(incident: Incident, at: float, delays: Delays) -> float:
    """When what decides the incident was there; `at` is its time as a Unix time."""
    if incident.kind == "deadline":
        return delays.reached(at, LATENESS / 1e6)
    if incident.kind == "through":
        return delays.landed(incident.through)
    return at


def _natural(delays: Delays, kind: str) -> dict[str, Any]:
    since_append, since_landing = delays.found(kind)
    return {
        "since_append_seconds": percentiles(since_append, 2),
        "since_landing_seconds": percentiles(since_landing, 2),
    }


def _criteria(
    planted: Sequence[Mapping[str, Any]], natural: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    worst = {kind: _worst(planted, kind) for kind in KINDS}
    through, sweeps = natural["row"]["since_landing_seconds"], natural["sweep"]["since_append_seconds"]
    return [
        at_most("sweeps, from the last record's append", 60, worst["sweep"], "s"),
        at_most("sweeps of the profile's events", 60, sweeps and sweeps["max"], "s"),
        at_most("through the allocation, from its landing", 10, worst["through"], "s"),
        at_most("through allocations of the profile", 10, through and through["max"], "s"),
        at_most("deadlines, from when the brokers have what they wait for", 15, worst["deadline"], "s"),
        at_most("silences, from the end of the limit in broker time", 15, worst["silence"], "s"),
    ]


def _worst(planted: Sequence[Mapping[str, Any]], kind: str) -> float | None:
    """The longest wait, None where one was never found."""
    waits = [each["seconds"] for each in planted if each["kind"] == kind]
    return None if None in waits else max(waits)


def show(results: Mapping[str, Any]) -> None:
    """Prints tables."""
    about = results["machine"]
    title = f"{about['cpu']}, {about['cores']} cores, load {about['load_before']} before"
    table = Table("decided by", "rule", "seconds until found", "after table `watermark`", title=title)
    table.columns[1].no_wrap = True
    for kind in KINDS:
        for rule_id in sorted({each["rule_id"] for each in results["planted"] if each["kind"] == kind}):
            mine = [each for each in results["planted"] if (each["kind"], each["rule_id"]) == (kind, rule_id)]
            table.add_row(kind, rule_id, _listed(mine, "seconds"), _listed(mine, "after_table_seconds"))
    Console().print(table)
    shares = (
        f"worker {results['worker_cpu_percent']:.0f} %, reconciler {results['reconciler_cpu_percent']:.0f} %"
    )
    print(
        f"{results['events']:,} events at {results['events_per_second']:,} a second; of a core {shares}; "
        f"{results['steps']} steps of {results['step_seconds']:.2f} s."
    )
    show_criteria(results["criteria"])


def _listed(incidents: Sequence[Mapping[str, Any]], name: str) -> str:
    waits = [each.get(name, "") for each in incidents]
    return ", ".join("never" if wait is None else f"{wait}" for wait in waits if wait != "")

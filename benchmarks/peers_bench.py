"""`peers`: Sekisho's worker, a tutorial Faust agent and a Quix Streams app on one Apache Kafka, in turn.

Sekisho does its whole work: strict decoding, as-of join with 100,000 identities, all row rules, findings,
raw and typed tables, exactly once. The peers read JSON, look up one dictionary, and write nothing.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.processes import machine
from benchmarks.shipping import ship
from benchmarks.size import Size
from benchmarks.worker_run import Taken, land
from deploy.local_kafka import LocalKafka
from stream.simulation import bench, shipping
from stream.simulation.messages import merged

PARTITIONS = 4
PEERS = {
    "faust": ["-m", "benchmarks.peers.faust_tutorial", "worker", "--without-web", "--loglevel", "ERROR"],
    "quix": ["-m", "benchmarks.peers.quix_app"],
}
PEER_SECONDS = 300.0


@dataclass(frozen=True)
class Amount:
    """How many events each system takes; the rate is what counts."""

    sekisho: int
    peers: int


FULL, QUICK = Amount(2_000_000, 200_000), Amount(400_000, 50_000)


@dataclass(frozen=True)
class Result:
    """`ratio`: how many times as many events a second Sekisho takes; `cpu_ratio`: of its CPU per event."""

    events: int
    events_per_second: float
    cpu_us_per_event: float
    rss_mb: float
    ratio: float = 1.0
    cpu_ratio: float = 1.0


def run(size: Size) -> dict[str, Any]:
    """Everything on one broker; returns figures by system, and the machine."""
    amount, about = QUICK if size is Size.QUICK else FULL, machine()
    made = bench.build()
    with LocalKafka() as kafka, tempfile.TemporaryDirectory(prefix="sekisho-bench-") as scratch:
        folder = Path(scratch)
        shipping.prepare({"bootstrap_servers": [kafka.bootstrap]}, PARTITIONS)
        _say("shipping reference records")
        references = ship(kafka.bootstrap, made.references())
        _say(f"landing {references:,} reference records")
        land(kafka.bootstrap, folder, references, 0, PARTITIONS)
        _say(f"shipping {amount.sekisho:,} events")
        events = (message for block in made.blocks(amount.sekisho) for message in merged(block))
        ship(kafka.bootstrap, events)
        statuses = folder / "statuses.json"
        statuses.write_text(json.dumps(_statuses(made)))
        del made
        _say("measuring sekisho")
        results = {
            "sekisho": _result(
                land(kafka.bootstrap, folder, references + amount.sekisho, references, PARTITIONS)
            )
        }
        for name in PEERS:
            _say(f"measuring {name}")
            results[name] = _peer(name, kafka.bootstrap, statuses, amount.peers)
    return {name: _against(result, results["sekisho"]) for name, result in results.items()} | {
        "machine": about
    }


def show(results: Mapping[str, Any]) -> None:
    """Prints a table."""
    systems = {key: value for key, value in results.items() if key != "machine"}
    columns = ("events", "events/s", "µs CPU/event", "MB", "sekisho is × faster", "× CPU of sekisho")
    table = Table(
        "peers", *columns, title=f"{results['machine']['cpu']}, {results['machine']['cores']} cores"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for system, r in systems.items():
        figures = (f"{r['events']:,}", f"{r['events_per_second']:,}", f"{r['cpu_us_per_event']:.1f}")
        table.add_row(system, *figures, f"{r['rss_mb']:,}", f"{r['ratio']:.1f}", f"{r['cpu_ratio']:.1f}")
    Console().print(table)


def _result(taken: Taken) -> Result:
    return Result(
        taken.events, round(taken.events_per_second), round(taken.cpu_us_per_event, 2), round(taken.rss_mb)
    )


def _against(result: Result, own: Result) -> dict[str, Any]:
    ratio = own.events_per_second / result.events_per_second
    cpu = result.cpu_us_per_event / own.cpu_us_per_event
    return asdict(result) | {"ratio": round(ratio, 1), "cpu_ratio": round(cpu, 1)}


def _statuses(made: bench.Bench) -> dict[str, str]:
    party = {fields["party_id"]: fields["status"] for fields in made.world.references["party"]}
    return {f["principal"]: party[f["party_id"]] for f in made.world.references["principal"]}


def _peer(name: str, bootstrap: str, statuses: Path, events: int) -> Result:
    result = statuses.with_name(f"{name}.json")
    environment: Mapping[str, str] = os.environ | {
        "BENCH_BROKERS": bootstrap,
        "BENCH_EVENTS": str(events),
        "BENCH_PARTIES": str(statuses),
        "BENCH_RESULT": str(result),
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    done = subprocess.run(
        [sys.executable, *PEERS[name]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PEER_SECONDS,
        cwd=statuses.parent,
    )
    if done.returncode or not result.exists():
        raise RuntimeError(f"{name} failed: {done.stderr[-800:]}")
    figures = json.loads(result.read_text())
    per_second, cpu = events / figures["seconds"], figures["cpu_seconds"] / events * 1e6
    return Result(events, round(per_second), round(cpu, 2), round(figures["rss_mb"]))


def _say(text: str) -> None:
    print(f"  {text} …", file=sys.stderr, flush=True)

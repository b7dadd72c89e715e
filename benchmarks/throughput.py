"""`peers`: Sekisho's worker, a tutorial Faust agent and a Quix Streams app on one Apache Kafka, in turn.

Sekisho does its whole work: strict decoding, as-of join with 100,000 identities, all row rules, findings,
raw and typed tables, exactly once. The peers read JSON, look up one dictionary, and write nothing.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from benchmarks.processes import cpu_seconds, machine, peak_mb
from deploy.local_kafka import LocalKafka
from sinks.views import connect
from stream.processes import sekisho
from stream.simulation import bench, shipping
from stream.simulation.messages import Message, merged

PARTITIONS = 4
PEERS = {
    "faust": ["-m", "benchmarks.peers.faust_tutorial", "worker", "--without-web", "--loglevel", "ERROR"],
    "quix": ["-m", "benchmarks.peers.quix_app"],
}
PEER_SECONDS = 300.0
LAND_SECONDS = 600.0


@dataclass(frozen=True)
class Size:
    """How many events each system takes; the rate is what counts."""

    sekisho: int
    peers: int


FULL, QUICK = Size(2_000_000, 200_000), Size(400_000, 50_000)


@dataclass(frozen=True)
class Result:
    """`ratio`: how many times as many events a second Sekisho takes; `cpu_ratio`: of its CPU per event."""

    events: int
    events_per_second: float
    cpu_us_per_event: float
    rss_mb: float
    ratio: float = 1.0
    cpu_ratio: float = 1.0


def run(quick: bool) -> dict[str, Any]:
    """Everything on one broker; returns figures by system, and the machine."""
    size, about = QUICK if quick else FULL, machine()
    made = bench.build()
    with LocalKafka() as kafka, tempfile.TemporaryDirectory(prefix="sekisho-bench-") as scratch:
        folder = Path(scratch)
        shipping.prepare({"bootstrap_servers": [kafka.bootstrap]}, PARTITIONS)
        _say("shipping reference records")
        references = _ship(kafka.bootstrap, made.references())
        _say(f"landing {references:,} reference records")
        _land(kafka.bootstrap, folder, references, 0)
        _say(f"shipping {size.sekisho:,} events")
        events = (message for block in made.blocks(size.sekisho) for message in merged(block))
        _ship(kafka.bootstrap, events)
        statuses = folder / "statuses.json"
        statuses.write_text(json.dumps(_statuses(made)))
        del made
        _say("measuring sekisho")
        results = {"sekisho": _land(kafka.bootstrap, folder, references + size.sekisho, references)}
        for name in PEERS:
            _say(f"measuring {name}")
            results[name] = _peer(name, kafka.bootstrap, statuses, size.peers)
    return {name: _against(result, results["sekisho"]) for name, result in results.items()} | {
        "machine": about
    }


def _against(result: Result, own: Result) -> dict[str, Any]:
    ratio = own.events_per_second / result.events_per_second
    cpu = result.cpu_us_per_event / own.cpu_us_per_event
    return asdict(result) | {"ratio": round(ratio, 1), "cpu_ratio": round(cpu, 1)}


def _ship(bootstrap: str, messages: Iterable[Message]) -> int:
    """librdkafka ships ten times as fast as kafka-python; how records got there is not measured."""
    settings = {"bootstrap.servers": bootstrap, "linger.ms": 50, "batch.size": 1 << 20}
    producer = Producer(settings | {"queue.buffering.max.messages": 500_000, "partitioner": "murmur2_random"})
    count = 0
    for count, message in enumerate(messages, 1):
        topic, at = f"custody.{message.record}", message.arrival // 1000
        while True:
            try:
                producer.produce(topic, message.value, message.key, timestamp=at)
                break
            except BufferError:
                producer.poll(0.1)
        if count % 10_000 == 0:
            producer.poll(0)
    assert producer.flush(120) == 0, "the broker did not take everything"
    return count


def _statuses(made: bench.Bench) -> dict[str, str]:
    party = {fields["party_id"]: fields["status"] for fields in made.world.references["party"]}
    return {f["principal"]: party[f["party_id"]] for f in made.world.references["principal"]}


def _land(bootstrap: str, folder: Path, total: int, before: int) -> Result:
    """Runs one worker until the lake has `total` records, `before` of them from earlier.

    Measured from its first read to its end in good order, the last commit included.
    """
    lake = folder / "lake"
    command = sekisho(
        "worker", "--brokers", bootstrap, "--lake", str(lake), "--metrics", "127.0.0.1:0",
        "--partitions", str(PARTITIONS),
    )  # fmt: skip
    with (folder / "worker.log").open("ab") as log:
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert worker.stdout is not None
        found = re.search(r"http://\S+/metrics", worker.stdout.readline())
        if found is None:
            raise RuntimeError(f"the worker did not start: {_end_of(folder / 'worker.log')}")
        at, first = _when_read(worker, found[0], 1)
        start = cpu_seconds(worker.pid)
        _when_read(worker, found[0], total - before)
        rss = peak_mb(worker.pid)
    finally:
        worker.send_signal(signal.SIGTERM)  # it lands what it has read
        _, status, spent = os.wait4(worker.pid, 0)
    seconds = time.monotonic() - at
    if status != 0 or _rows(lake) != total:
        raise RuntimeError(f"the worker did not land everything: {_end_of(folder / 'worker.log')}")
    events = total - before - first
    cpu = spent.ru_utime + spent.ru_stime - start
    return Result(events, round(events / seconds), round(cpu / events * 1e6, 2), round(rss))


def _when_read(worker: subprocess.Popen[str], url: str, wanted: int) -> tuple[float, int]:
    """Waits until the worker says that it has read as many; returns when, and how many it had read."""
    deadline = time.monotonic() + LAND_SECONDS
    while time.monotonic() < deadline and worker.poll() is None:
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode()
        counts = re.findall(r"^custody_events_read_total\{.*\} (\S+)$", text, re.MULTILINE)
        if (read := sum(int(float(count)) for count in counts)) >= wanted:
            return time.monotonic(), read
        time.sleep(0.2 if wanted > 1 else 0.02)
    raise RuntimeError(f"the worker has not read {wanted:,} records within {LAND_SECONDS:.0f} s")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-500:]


def _rows(lake: Path) -> int:
    with contextlib.closing(connect(lake)) as connection:
        row = connection.execute("SELECT count(*) FROM raw").fetchone()
    assert row is not None
    return int(row[0])


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

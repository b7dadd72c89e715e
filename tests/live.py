"""Records through Kafka: two workers, two reconcilers, and whatever may happen to them.

For debugging: `python -m tests.live --seed 7 --kills 5` prints where the lake in the end differs from the
plain implementation's answer. What happens when is up to the machine, not to the seed.
"""

import asyncio
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from deltalake import DeltaTable
from kafka.admin import KafkaAdminClient

from deploy.local_kafka import LocalKafka
from rules.rule import load_all
from stream.replay import replay
from stream.topics import TICK, create_missing
from tests.arrivals import Arrival, Plan, arrivals, expected
from tests.chains import generate_chains
from tests.compare_history import differences_of
from tests.emissions import repetitions
from tests.flow import landed, make_topics
from tests.lake_rows import rows
from tests.one_answer import latest_of, plan_of
from tests.ship import Shipped, ship
from tests.topics import delete_custody_topics
from tests.worker_process import ReconcilerProcess, WorkerProcess

PARTITIONS = 3
MOST_BYTES = 900_000  # of a value; the brokers take a mebibyte a batch
CHUNK = 60  # records between which there is an order


def shipped(records: Sequence[Arrival]) -> list[Shipped]:
    return [
        Shipped(each.topic, each.partition, each.payload, each.key, each.broker_time // 1000)
        for each in records
    ]


def prepare(bootstrap: str) -> None:
    """All topics, empty."""
    delete_custody_topics(bootstrap)
    make_topics(bootstrap, PARTITIONS)
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        kept = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}
        create_missing(admin, [TICK], 1, overrides=kept)


class Live:
    """Two workers and two reconcilers on one lake."""

    def __init__(self, kafka: LocalKafka, lake: Path, stack: ExitStack, seed: int) -> None:
        self._kafka = kafka
        self._lake = lake
        self._rng = random.Random(seed)
        self._workers = [
            stack.enter_context(WorkerProcess(kafka.bootstrap, lake, instance_id=name, batch_rows=100))
            for name in ("one", "two")
        ]
        self._reconcilers = [
            stack.enter_context(ReconcilerProcess(kafka.bootstrap, lake, lake.parent / f"state-{name}"))
            for name in ("one", "two")
        ]
        self.happened: Counter[str] = Counter()

    def run(self, records: Sequence[Arrival], kills: int) -> None:
        """Ship all and let it be settled; processes are killed at random moments meanwhile."""
        for worker in self._workers:
            worker.until_ready()
        chunks = [records[start : start + CHUNK] for start in range(0, len(records), CHUNK)]
        blows = Counter(self._rng.choices(range(len(chunks)), k=kills))
        for number, chunk in enumerate(chunks):
            asyncio.run(ship(self._kafka.bootstrap, shipped(chunk)))
            for _ in range(blows[number]):
                time.sleep(self._rng.uniform(0, 2))
                self._kill()
        ticks = sum(record.topic == TICK for record in records)
        self._wait(lambda: sum(landed(self._lake).values()) == len(records) - ticks)
        self._wait(lambda: ticks_landed(self._lake) == ticks)
        self._wait(lambda: is_settled(self._lake))
        for process in (*self._reconcilers, *self._workers):
            process.send(signal.SIGTERM)
            assert process.wait(60) == 0, process.output

    def _kill(self) -> None:
        process = self._rng.choice([*self._workers, *self._reconcilers])
        process.kill()
        what = "worker"
        if isinstance(process, ReconcilerProcess):
            what = "reconciler"
            if self._rng.random() < 0.5:
                what = "reconciler and its state"
                shutil.rmtree(process.state, ignore_errors=True)
        self.happened[what] += 1
        process.restart()

    def _wait(self, done: Callable[[], bool], seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            for process in (*self._workers, *self._reconcilers):
                assert process.process.poll() is None, process.output
            assert time.monotonic() < deadline, [
                process.output for process in (*self._workers, *self._reconcilers)
            ]
            time.sleep(0.2)


def is_settled(lake: Path) -> bool:
    """Whether the last commit of raw is covered by a step; looks on and completes nothing."""
    reached = max((row["raw_version"] for row in rows(lake, "watermark")), default=0)
    return bool(reached == DeltaTable(lake / "raw").version())


def ticks_landed(lake: Path) -> int:
    return DeltaTable(lake / "raw").transaction_version(f"{TICK}:0") or 0


def compare(kafka: LocalKafka, folder: Path, seed: int, events: int = 400, kills: int = 0) -> Iterator[str]:
    """Generate records, send them through Kafka, and yield the differences of the lake and of its replay."""
    generated = generate_chains(folder / "in", seed, events)
    plan = plan_of(seed, generated.until, latest_of(folder / "in"))
    plan.partitions, plan.grain, plan.most_bytes = PARTITIONS, 1000, MOST_BYTES
    records = arrivals(folder / "in", plan)
    prepare(kafka.bootstrap)
    with ExitStack() as stack:
        live = Live(kafka, folder / "lake", stack, seed)
        live.run(records, kills)
    print(f"seed {seed}: {len(records)} records, killed {dict(live.happened)}")
    yield from lake_differences(records, plan, folder / "lake")
    replay(folder / "lake", folder / "again", load_all())
    for difference in lake_differences(records, plan, folder / "again"):
        yield f"replay: {difference}"


def lake_differences(records: Sequence[Arrival], plan: Plan, lake: Path) -> Iterator[str]:
    reached = max((row["watermark"] or 0 for row in rows(lake, "watermark")), default=0)
    yield from differences_of(expected(records, plan.until, reached), lake)
    yield from repetitions(lake)


@click.command()
@click.option("--seed", type=int, required=True)
@click.option("--seeds", type=int, default=1, help="So many, from --seed on.")
@click.option("--events", type=int, default=400)
@click.option("--kills", type=int, default=0)
@click.option("--most", type=int, default=20, help="Differences to print.")
def main(seed: int, seeds: int, events: int, kills: int, most: int) -> None:
    """Print where records sent through Kafka are answered otherwise than by the plain implementation."""
    wrong = 0
    with LocalKafka(brief=True) as kafka:
        for one in range(seed, seed + seeds):
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                found = list(compare(kafka, Path(folder), one, events, kills))
            for difference in found[:most]:
                click.echo(difference)
            click.echo(f"seed {one}: {len(found)} differences, {time.monotonic() - began:.0f} s")
            wrong += len(found)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()

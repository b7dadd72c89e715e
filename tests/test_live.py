"""Workers, a reconciler and Kafka together find what is planted, and a replay of the lake finds the same."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Self

import pytest
from kafka.admin import KafkaAdminClient

from deploy.local_kafka import LocalKafka
from rules.rule import load_all
from sinks.lake import Lake, Settled
from sinks.views import connect
from stream.replay import compare, replay
from stream.simulation.clock import HOUR
from stream.simulation.simulator import Settings, Simulation, simulate
from stream.ticks import tick
from stream.topics import TICK, create_missing
from tests.flow import dealt, landed, make_topics
from tests.ship import Shipped, ship
from tests.worker_process import WorkerProcess

PARTITIONS = 2
VERB = "import sys; from stream.cli import main; sys.argv[0] = 'sekisho'; main()"


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(Settings(seed=5, accelerators=1024, duration=HOUR, rate=1))


@pytest.fixture
def fresh(can_run_kafka: None) -> Iterator[LocalKafka]:
    """A broker of this test's own with all topics."""
    with LocalKafka(brief=True) as broker:
        make_topics(broker.bootstrap, PARTITIONS)
        with KafkaAdminClient(bootstrap_servers=broker.bootstrap) as admin:
            create_missing(admin, [TICK], 1)
        yield broker


class Reconciler:
    """A `sekisho reconciler` in a process of its own, killed at the end of the block."""

    def __init__(self, kafka: LocalKafka, lake: Path) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed with the block
        self.process = subprocess.Popen(
            [sys.executable, "-c", VERB, "reconciler", "--tick-seconds", "0"],
            env={
                **os.environ,
                "SEKISHO_BROKERS": kafka.bootstrap,
                "SEKISHO_LAKE": str(lake),
                "SEKISHO_METRICS": "off",
            },
            stdout=self._output,
            stderr=self._output,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._output.close()

    @property
    def output(self) -> str:
        return os.pread(self._output.fileno(), 1 << 20, 0).decode()

    def until(self, done: Callable[[], bool], seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, f"not within {seconds} s: {self.output}"
            time.sleep(0.2)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.output


def settled(lake: Path) -> Settled | None:
    return Lake.open(lake).settled()


def has_settled(lake: Path, until: int) -> bool:
    last = settled(lake)
    return last is not None and (last.latest_broker_time or 0) >= until


def found(lake: Path) -> set[tuple[str, str, str]]:
    with connect(lake) as views:
        rows = views.sql("SELECT rule_id, subject, state FROM finding").fetchall()
    return {(rule, subject, state) for rule, subject, state in rows if state in ("provisional", "confirmed")}


def planted(simulation: Simulation) -> set[tuple[str, str, str]]:
    return {(each["rule_id"], each["subject"], each["state"]) for each in simulation.story()["incidents"]}


def last_tick(simulation: Simulation) -> Shipped:
    at = datetime.fromtimestamp(simulation.until / 1e6, UTC)
    return Shipped(TICK, 0, tick(at), None, simulation.until // 1000)


@pytest.mark.parametrize("kills", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_live_finds_what_is_planted_and_replay_the_same(
    fresh: LocalKafka, simulation: Simulation, tmp_path: Path, kills: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.flow.EVERY", 1 << 40)  # nothing is broken but what is planted
    lake = tmp_path / "lake"
    records = list(dealt(simulation.messages(), PARTITIONS))
    cuts = [len(records) * n // (kills + 1) for n in range(kills + 2)]
    parts = [records[start:end] for start, end in pairwise(cuts)]
    with WorkerProcess(fresh.bootstrap, lake) as worker:
        worker.until_ready()
        for part in parts[:-1]:
            with Reconciler(fresh, lake) as one:
                before = settled(lake)
                asyncio.run(ship(fresh.bootstrap, part))
                one.until(lambda before=before: settled(lake) != before)  # type: ignore[misc]
        with Reconciler(fresh, lake) as one:
            asyncio.run(ship(fresh.bootstrap, [*parts[-1], last_tick(simulation)]))
            one.until(lambda: has_settled(lake, simulation.until))
            worker.until(lambda: sum(landed(lake).values()) == len(records))
            one.stop()
    assert found(lake) == planted(simulation)
    replay(lake, tmp_path / "again", load_all())
    difference = compare(lake, tmp_path / "again")
    assert not difference, difference.as_json()

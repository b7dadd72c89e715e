"""The large kill test: a million events through real Kafka while everything is killed in turn.

    python -m tests.soak --events 1000000 --kills 20 --seed 1

Two workers share 3 x 8 event partitions, two reconcilers the lake. All are killed with SIGKILL at random
moments, a reconciler's state is lost now and then, a worker leaves in good order and rejoins, the broker is
killed and restarted. In the end every offset must be in `raw` exactly once, every accepted event once in its
table, each row, verdict and firing as the pure pipeline and `sekisho scan` have it, and the findings as a
replay of the lake has them, nothing said twice.
"""

import argparse
import asyncio
import logging
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from deploy.local_kafka import LocalKafka
from rules.rule import load_all
from schemas.reference import REFERENCES
from stream.replay import compare, replay
from stream.simulation import bench
from tests.emissions import repetitions
from tests.flow import Expected, dealt, landed, make_topics
from tests.live import is_settled
from tests.ship import Shipped, ship
from tests.worker_process import ReconcilerProcess, WorkerProcess

PARTITIONS = 8


class Soak:
    """One run; `log` says what happens when."""

    def __init__(self, events: int, kills: int, seed: int, rate: float) -> None:
        self.kills, self.rate = kills, rate
        self.random = random.Random(seed)
        self.started = time.monotonic()
        sent = list(dealt(bench.build().messages(events), PARTITIONS))
        self.references = [record for record in sent if record.topic in REFERENCES]
        self.events = [record for record in sent if record.topic not in REFERENCES]
        self.sent = 0
        self.unexpected: list[str] = []

    def log(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:7.1f} s  {text}", flush=True)

    def run(self, kafka: LocalKafka, lake: Path) -> list[str]:
        """What is wrong in the end."""
        self.log(
            f"{len(self.references):,} reference records, {len(self.events):,} events, {self.kills} kills"
        )
        asyncio.run(ship(kafka.bootstrap, self.references))
        settings = {"batch_rows": 20_000, "commit_seconds": 2}
        with (
            WorkerProcess(kafka.bootstrap, lake, instance_id="one", **settings) as one,
            WorkerProcess(kafka.bootstrap, lake, instance_id="two", **settings) as two,
            ReconcilerProcess(kafka.bootstrap, lake, lake.parent / "state-three") as three,
            ReconcilerProcess(kafka.bootstrap, lake, lake.parent / "state-four") as four,
        ):
            processes = {"one": one, "two": two, "three": three, "four": four}
            shipper = threading.Thread(target=self._ship, args=(kafka.bootstrap,), daemon=True)
            shipper.start()
            self._torment(kafka, processes, lake)
            shipper.join()
            everything = len(self.events) + len(self.references)
            self._wait(processes, lambda: sum(landed(lake).values()) >= everything)
            self.log("all has landed")
            self._wait(processes, lambda: is_settled(lake), 2.0)
            self.log("all is settled")
            self._watch(processes, 10.0)  # those just restarted get up
            for name, process in processes.items():
                process.send(signal.SIGTERM)
                if process.wait(120) != 0:
                    self.unexpected.append(f"{name} did not stop in good order: {process.output[-500:]}")
        sent = [*self.references, *self.events]
        expected = Expected(sent)
        self.log("the pure pipeline has judged the same records")
        unlike = [*expected.differences(lake), *expected.unlike_scan(sent, lake.parent)]
        self.log("scan has judged the same records")
        replay(lake, lake.parent / "replayed", load_all())
        difference = compare(lake, lake.parent / "replayed")
        self.log(f"a replay finds {difference.same:,} of the findings as they are")
        for row in (*difference.new, *difference.gone, *difference.changed):
            unlike.append(f"a replay finds otherwise: {row!r}")
        return [*self.unexpected, *unlike, *repetitions(lake)]

    def _ship(self, bootstrap: str) -> None:
        asyncio.run(ship(bootstrap, self._counted(), self.rate))
        self.log("all has been sent")

    def _counted(self) -> Iterator[Shipped]:
        for record in self.events:
            self.sent += 1
            yield record

    def _torment(self, kafka: LocalKafka, processes: dict[str, WorkerProcess], lake: Path) -> None:
        mean = len(self.events) / self.rate / (self.kills + 2)
        for kill in range(1, self.kills + 1):
            self._watch(processes, self.random.uniform(0.3, 1.7) * mean)
            name, process = self.random.choice(sorted(processes.items()))
            self.log(f"kill {kill}: {name}; open: {self._open(lake)}")
            process.kill()
            if isinstance(process, ReconcilerProcess) and self.random.random() < 0.3:
                self.log(f"{name} has lost its state")
                shutil.rmtree(process.state, ignore_errors=True)
            process.restart()
            if kill == self.kills // 3:
                self._leave(processes)
            if kill == 2 * self.kills // 3:
                self.log("killing the broker")
                kafka.restart(kill=True)
                self.log("the broker is back")

    def _leave(self, processes: dict[str, WorkerProcess]) -> None:
        self._watch(processes, 6.0)
        two = processes["two"]
        self.log("worker two leaves")
        two.send(signal.SIGTERM)
        if two.wait() != 0:
            self.unexpected.append(f"worker two did not leave in good order: {two.output[-500:]}")
        time.sleep(3)
        two.restart()
        self.log("worker two is back")

    def _open(self, lake: Path) -> str:
        """How much is read or waiting and not committed."""
        done = sum(landed(lake).values())
        return f"{self.sent + len(self.references) - done:,} of {self.sent:,} events sent have not landed"

    def _watch(self, processes: dict[str, WorkerProcess], seconds: float) -> None:
        end = time.monotonic() + seconds
        self._wait(processes, lambda: time.monotonic() > end)

    def _wait(
        self, processes: dict[str, WorkerProcess], done: Callable[[], bool], seconds: float = 0.2
    ) -> None:
        """Wait, and restart processes that end on their own, which counts against the run."""
        while not done():
            time.sleep(seconds)
            for name, process in processes.items():
                if process.process.poll() is not None:
                    line = f"{name} ended by itself: {process.output[-500:]}"
                    self.log(line)
                    self.unexpected.append(line)
                    process.restart()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--rate", type=float, default=3000.0, help="events a second")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the shipper waits the broker out
    soak = Soak(arguments.events, arguments.kills, arguments.seed, arguments.rate)
    with tempfile.TemporaryDirectory(prefix="sekisho-soak-") as folder, LocalKafka() as kafka:
        make_topics(kafka.bootstrap, PARTITIONS)
        wrong = soak.run(kafka, Path(folder) / "lake")
    for line in wrong:
        print("WRONG", line)
    soak.log("nothing lost, nothing twice, verdicts equal" if not wrong else f"{len(wrong)} things are wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

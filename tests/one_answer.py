"""Records that arrive bit by bit, land by two workers and are reconciled in steps cut anywhere.

For debugging: `python -m tests.one_answer --seed 7` prints where the lake in the end differs from the plain
implementation's answer.
"""

import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import click
import pyarrow as pa

from rules.judge import Judge
from rules.reconciler import accesses, chain, completed, coverage_log, coverage_open
from rules.reconciler.given import StepInput
from rules.reconciler.step import Reconciler
from rules.rule import Rule, load_all
from sinks.lake import Conflict, Lake
from stream import known
from stream.reconciling import Reconciling
from tests.arrivals import Arrival, Plan, arrivals, expected
from tests.chain_writer import DAY, HOUR
from tests.chains import generate_chains
from tests.compare_history import differences_of
from tests.emissions import repetitions
from tests.generate import KH, generate
from tests.lake_rows import rows
from tests.plain.history import History
from tests.plain.landed import landed
from tests.plain.scan import scan
from tests.plain.sources import LATENESS, watermark
from tests.plain.values import time
from tests.two_workers import Workers

AT = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)


class Stumbling(Reconciler):
    """Takes some of its steps back and does them again."""

    rng: random.Random

    def take(self, given: StepInput) -> pa.Table:
        if self.rng.random() < 0.2:
            super().take(given)
            if self.rng.random() < 0.5:
                super().settle(AT)
            self.rollback()
        return super().take(given)


class Life:
    """One lake, its workers, and its reconciler, to whom anything may happen between two steps."""

    def __init__(self, folder: Path, seed: int, rules: Sequence[Rule]) -> None:
        self._folder = folder
        self._rng = random.Random(seed)
        self._rules = rules
        self._judge = Judge(rules)
        self.lake = folder / "lake"
        self._lake = Lake.open(self.lake)
        self._workers = Workers(self._lake, self._judge, self._rng)
        self._states = 0
        self._snapshot: Path | None = None
        self._at = AT
        self.happened: list[str] = []
        self._reconciling, self._engine = self._start(self._new_state())

    def _new_state(self) -> Path:
        self._states += 1
        state = self._folder / f"state-{self._states}"
        state.mkdir()
        return state

    def _start(self, state: Path) -> tuple[Reconciling, Stumbling]:
        engine = Stumbling(state, self._rules, (), self._judge)
        engine.rng = self._rng
        lake = Lake.open(self.lake)
        reconciling = Reconciling(lake, engine)
        known.load(engine.references, lake, lake.offsets())
        self._state = state
        reconciling.follow()
        return reconciling, engine

    def live(self, records: list[Arrival]) -> None:
        """Let all arrive, land and be settled."""
        start = 0
        while start < len(records):
            end = start + self._rng.choice([1, 5, 20, 50])
            self._workers.arrive(records[start:end])
            start = end
            for number in self._rng.sample([0, 1], self._rng.choice([0, 1, 1, 2])):
                self._workers.land(number)
            if self._rng.random() < 0.1:
                self._workers.rebalance()
            if self._rng.random() < 0.6:
                self._something_happens()
                self._turn()
        self._workers.rebalance()
        for number in (0, 1):
            self._workers.land(number, everything=True)
        self._something_happens()
        self._turn(final=True)
        self._reconciling.close()

    def _turn(self, final: bool = False) -> None:
        self._at += timedelta(seconds=self._rng.choice([0, 1, 30, 120]))
        is_due = final or self._rng.random() < 0.3
        self._reconciling.turn(self._workers.ends, self._at, is_due=is_due, final=final)

    def _something_happens(self) -> None:
        dice = self._rng.random()
        if dice < 0.05:
            self._note("opened again")
            self._reconciling.close()
            self._reconciling, self._engine = self._start(self._state)
        elif dice < 0.10:
            self._note("made anew")
            self._reconciling.close()
            self._reconciling, self._engine = self._start(self._new_state())
        elif dice < 0.15:
            self._keep_snapshot()
        elif dice < 0.20:
            self._take_over()

    def _keep_snapshot(self) -> None:
        self._engine.checkpoint()
        self._snapshot = self._folder / "snapshot"
        shutil.rmtree(self._snapshot, ignore_errors=True)
        shutil.copytree(self._state, self._snapshot)

    def _take_over(self) -> None:
        """Another one starts from a snapshot, and is first to settle the next step."""
        state = self._new_state()
        if self._snapshot is not None:
            shutil.rmtree(state)
            shutil.copytree(self._snapshot, state)
        self._note(f"taken over, {'from a snapshot' if self._snapshot else 'from nothing'}")
        before = self._reconciling
        self._reconciling, self._engine = self._start(state)
        self._reconciling.turn(self._workers.ends, self._at, is_due=True)
        try:
            before.turn(self._workers.ends, self._at, is_due=True)
        except Conflict:
            before.close()
        else:
            raise AssertionError("two reconcilers have settled the same step")

    def _note(self, what: str) -> None:
        self.happened.append(f"step {self._engine.settled_step}: {what}")


def plan_of(seed: int, generated_until: str | None, latest: int) -> Plan:
    rng = random.Random(seed)
    until = time(generated_until) if generated_until else latest + rng.choice([0, HOUR, 3 * HOUR])
    assert until is not None
    lateness = {0: 0, 5: 3 * DAY, 6: 30 * DAY}.get(seed % 8, LATENESS)
    return Plan(rng, until, rng.choice([1, 2, 3, 4]) if seed % 2 else 1, lateness=lateness)


@contextmanager
def small_files(seed: int) -> Iterator[None]:
    """By the seed, what usually takes thousands of rows happens with a few: files, letting go, and judging
    in several batches."""
    with (
        patch.object(accesses, "FILE_ROWS", (1, 20, accesses.FILE_ROWS)[seed % 3]),
        patch.object(coverage_log, "FILE_BYTES", (1, 200, coverage_log.FILE_BYTES)[seed % 3]),
        patch.object(chain, "LEAST", (0, chain.LEAST)[seed % 2]),
        patch.object(coverage_open, "LEAST", (-5, 0, coverage_open.LEAST)[seed % 3]),
        patch.object(completed, "BATCH_ROWS", (5, completed.BATCH_ROWS)[seed // 2 % 2]),
    ):
        yield


def compare(
    folder: Path, seed: int, events: int = 600, wild: bool = False, quiet: bool = True
) -> Iterator[str]:
    """Generate records, let them arrive and be reconciled in `folder`, and yield the differences."""
    generated = (generate if wild else generate_chains)(folder / "in", seed, events)
    plan = plan_of(seed, generated.until, latest_of(folder / "in"))
    records = arrivals(folder / "in", plan)
    with small_files(seed):
        life = Life(folder, seed, load_all())
        life.live(records)
    if not quiet:
        print(*life.happened, sep="\n")
    reached = max((row["watermark"] or 0 for row in rows(life.lake, "watermark")), default=0)
    history = expected(records, plan.until, reached)
    yield from watermark_differences(records, plan, history, reached)
    yield from differences_of(history, life.lake)
    yield from repetitions(life.lake)


def watermark_differences(
    records: list[Arrival], plan: Plan, history: History, reached: int
) -> Iterator[str]:
    """It is where `scan` has it where all came in order.

    Where sources speak for the first time, or again after they had left the minimum, it may have been further
    already, by less than the lateness. Events that are later than that find it anywhere, and so do those that
    are `future`: they bring their source back into the minimum with what it had said long before. So does a
    version that comes after a source's events and gives it a longer limit; such sources bound nothing.
    """
    if plan.lateness > LATENESS or any(judged.future for _, judged in history.scanned.events.values()):
        return
    mark = expected(records, plan.until).watermark
    late = {record.key for record in records if record.topic == "custody.source" and record.arrives > 0}
    steady = [event for event in landed(history.scanned, {}) if event.source.encode() not in late]
    most = watermark(history.scanned, steady, plan.until)
    assert mark is not None and most is not None
    if not mark <= reached <= most + plan.lateness:
        yield f"watermark: {reached}, expected {mark}, {(reached - mark) / 60e6} minutes ahead"


def latest_of(directory: Path) -> int:
    """The latest event time, but for such as are centuries ahead."""
    times = (fields["occurred_at"] for fields, _ in scan(directory).events.values())
    return max(t for t in times if t < KH + 365 * DAY)


@click.command()
@click.option("--seed", type=int, required=True)
@click.option("--events", type=int, default=600)
@click.option("--wild", is_flag=True, help="Events of tests.generate, which hang together by chance.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder to leave everything in.")
@click.option("--most", type=int, default=20, help="Differences to print.")
def main(seed: int, events: int, wild: bool, keep: Path | None, most: int) -> None:
    """Print where arriving bit by bit differs from the plain implementation for one seed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        found = list(compare(folder, seed, events, wild, quiet=False))
    for difference in found[:most]:
        click.echo(difference)
    click.echo(f"{len(found)} differences")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()

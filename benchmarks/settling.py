"""Settles a lake that has landed, step by step, as the reconciler's process does, and says what it took."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from rules.reconciler.step import Reconciler
from sinks.lake import Lake, Settled
from stream.steps import MOST_ROWS, groups, read_step


@dataclass(frozen=True)
class Step:
    """`landed`: events settled up to and with this step, of which it has `rows`; CPU and wall seconds of
    reading, judging, settling and keeping; `changed`: rows written to finding_event."""

    landed: int
    rows: int
    cpu: float
    wall: float
    changed: int


def settle(lake: Lake, engine: Reconciler, at: datetime, landed: int = 0) -> Iterator[Step]:
    """Settles what the engine has not covered yet; `landed` events lie behind it."""
    for commits in groups(lake.commits(engine.position), MOST_ROWS):
        cpu, wall = time.process_time(), time.monotonic()
        given = read_step(commits)
        rows = sum(table.num_rows for table in given.events.values())
        duplicates = engine.take(given)
        del given
        output = engine.settle(at)
        before = lake.settled()
        step = 1 if before is None else before.step + 1
        tables = {
            "finding_event": output.events,
            "finding_history": output.history,
            "duplicate": duplicates,
            "coverage": output.coverage,
        }
        settled = Settled(step, engine.position, output.watermark, output.latest_broker_time, output.late)
        lake.settle(settled, tables, at)
        engine.commit(step)
        landed += rows
        taken = (time.process_time() - cpu, time.monotonic() - wall)
        yield Step(landed, rows, *taken, output.events.num_rows)

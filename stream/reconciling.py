"""The reconciler without Kafka: from the lake's commits through the engine back into the lake.

A *silent* step only brings the state forward; a *settling* step says what was found out. The lake's commit
comes first and the state's second, so a state is at most behind the lake, never ahead of it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice, takewhile
from typing import Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.reconciler.given import Clock, Partition, StepInput, StepOutput
from rules.references import References
from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.tables import COORDINATES
from sinks.lake import Commit, Lake, Settled
from stream.settlements import absorbed, history
from stream.steps import groups, read_step

AHEAD = 500  # commits looked at in one turn


class Engine(Protocol):
    """`rules.reconciler.step.Reconciler`."""

    references: References

    @property
    def position(self) -> int: ...
    @property
    def settled_step(self) -> int: ...
    def take(self, given: StepInput) -> pa.Table: ...
    def settle(self, at: datetime, final: bool = False) -> StepOutput: ...
    def commit(self, settled_step: int | None = None) -> None: ...
    def rollback(self) -> None: ...
    def absorb(self, events: pa.Table, history: pa.Table, step: int, clock: Clock) -> None: ...
    def checkpoint(self) -> None: ...
    def close(self) -> None: ...


class Halted(Exception):  # noqa: N818
    """Following was told to end; the state is as after the last step taken in."""


@dataclass
class Skimmed:
    """What silent steps leave to the settling one: duplicates, and the greatest times read (µs)."""

    duplicates: list[pa.Table] = field(default_factory=list)
    event_times: list[int] = field(default_factory=list)
    broker_times: list[int] = field(default_factory=list)

    def add(self, given: StepInput, duplicates: pa.Table) -> None:
        self.duplicates.append(duplicates)
        greatest = [pc.max(events["occurred_at"]) for events in given.events.values()]
        self.event_times += [time.value for time in greatest if time.is_valid]
        if given.broker_last is not None:
            self.broker_times.append(given.broker_last)

    @property
    def clock(self) -> Clock:
        return Clock(max(self.event_times, default=None), max(self.broker_times, default=None))


class Reconciling:
    """One engine on one lake. One call at a time, from any thread."""

    def __init__(self, lake: Lake, engine: Engine, experimental: Collection[str] = ()) -> None:
        """`experimental` are the ids of rules whose findings are not published."""
        self._lake = lake
        self._experimental = pa.array(sorted(experimental), pa.string())
        self._engine = engine
        self._latest: int | None = (
            None  # broker time (µs) the lake had come to; a scan's tick is in no record
        )
        self.halted = False  # set from any thread: following ends before the next step
        self.behind = False  # whether the lake held more than the last turn has settled

    @property
    def position(self) -> int:
        """The last commit of raw that the state covers, 0 for none."""
        return self._engine.position

    def follow(self) -> Settled | None:
        """Bring the state silently to where the lake has been settled, by whomever; returns the last step.

        The state must not be ahead of the lake. Raises Halted when `halted` was set.
        """
        settled = self._lake.settled()
        if settled is not None:
            self._latest = settled.latest_broker_time
        if settled is None or settled.step == self._engine.settled_step:
            return settled
        after, until = self._engine.position, settled.raw_version
        self.skim(takewhile(lambda commit: commit.version <= until, self._lake.commits(after)))
        for findings in absorbed(self._lake, self._engine.settled_step, settled.step):
            with self._taken_back_on_error():
                self._engine.absorb(findings.events, findings.history, findings.step, findings.clock)
        return settled

    def skim(self, commits: Iterable[Commit]) -> Skimmed:
        """Take commits in without saying anything; nothing is decided by them until a settling step."""
        skimmed = Skimmed()
        for group in groups(commits):
            if self.halted:
                raise Halted
            given = replace(read_step(group), clock=Clock(None, None))
            with self._taken_back_on_error():
                duplicates = self._engine.take(given)
                self._engine.commit()
            skimmed.add(given, duplicates)
        return skimmed

    def conclude(self, at: datetime, until: int | None = None, clock: Clock | None = None) -> StepOutput:
        """Take in all that has landed and settle it in one step: the end of a scan or a replay.

        Time is as after a last tick at `until` (µs), else what `clock` says, else the greatest event time and
        broker time that were read.
        """
        skimmed = self.skim(self._lake.commits(self._engine.position))
        if until is not None:
            given = StepInput(self.position, broker_first=until, broker_last=until, tick=until)
        else:
            given = StepInput(self.position, clock=clock or skimmed.clock)
        with self._taken_back_on_error():
            duplicates = self._engine.take(given)
            return self._settle(at, final=True, duplicates=[*skimmed.duplicates, duplicates])

    def turn(
        self, ends: Mapping[Partition, int], at: datetime, is_due: bool = False, final: bool = False
    ) -> StepOutput | None:
        """Settle one step of what has landed since the last, None if there is nothing new.

        A step that `is_due` is settled even so, as a sign of life; a `final` one holds no row back. `ends`
        are the end offsets of the event topics as Kafka told them before this call. Raises Conflict when
        another reconciler has settled meanwhile: `follow` then.
        """
        landed = self._lake.offsets()
        listed = list(islice(self._lake.commits(self._engine.position), AHEAD))
        group = next(groups(listed), [])
        rest = listed[len(group) :]
        self.behind = bool(rest) or len(listed) == AHEAD
        unread = {place for place, end in ends.items() if end > landed.get(place, 0)}
        unread |= {place for commit in rest for place in commit.batch.ranges if place[0] in EVENTS}
        if len(listed) == AHEAD:  # what comes behind was not looked at
            unread |= {place for place in (*landed, *ends) if place[0] in EVENTS}
        if not group and not is_due:
            return None
        given = read_step(group) if group else StepInput(self.position)
        known = [time for time in (given.broker_last, self._latest) if time is not None]
        given = replace(given, unread=frozenset(unread), broker_last=max(known, default=None))
        with self._taken_back_on_error():
            duplicates = self._engine.take(given)
            del given  # much of a step's memory, which settling needs for other things
            return self._settle(at, final, [duplicates])

    def _settle(self, at: datetime, final: bool, duplicates: Sequence[pa.Table]) -> StepOutput:
        """Settle what was taken in: engine, lake, then the state. Raises Conflict when the lake has moved on.

        `duplicates` are what was found in the steps to be settled.
        """
        step = self._engine.settled_step + 1
        output = replace(self._engine.settle(at, final), duplicates=_latest(duplicates))
        settled = Settled(step, self.position, output.watermark, output.latest_broker_time, output.late)
        tables = {
            "finding_event": output.events,
            "finding_history": output.history,
            "duplicate": output.duplicates,
            "coverage": output.coverage,
        }
        self._lake.settle(settled, tables, at)
        self._engine.commit(step)
        return output

    def last_history(self) -> pa.Table:
        """The published rows of finding_history that the lake's last step wrote."""
        rows = history(self._lake, self._engine.settled_step)
        kept = pc.and_not(pc.invert(rows["suppressed"]), pc.is_in(rows["rule_id"], self._experimental))
        return rows.filter(kept)

    def close(self) -> None:
        self._engine.close()

    @contextmanager
    def _taken_back_on_error(self) -> Iterator[None]:
        """Undo the step where something in the block fails."""
        with told_of_state():
            try:
                yield
            except BaseException:
                with suppress(duckdb.Error):  # what failed may have ended the transaction
                    self._engine.rollback()
                raise


@contextmanager
def told_of_state() -> Iterator[None]:
    """Turns a full disk or memory in the block into a SekishoError; damage stays what it is."""
    try:
        yield
    except (duckdb.OperationalError, duckdb.FatalException, OSError) as error:  # some of it is in plain files
        if is_damage(error):
            raise
        line = str(error).partition("\n")[0]
        raise SekishoError(
            f"the reconciler's state cannot be kept: {line}; free disk or memory and start again, "
            "nothing is lost"
        ) from error


def is_damage(error: Exception) -> bool:
    """Whether the state's file is not what was written to it."""
    return isinstance(error, duckdb.Error) and "Corrupt" in str(error)


def _latest(duplicates: Sequence[pa.Table]) -> pa.Table:
    """One row for each duplicate, the last: a lower original may have been found later."""
    rows = pa.concat_tables(duplicates)
    if len([table for table in duplicates if table.num_rows]) < 2:
        return rows
    rows = rows.append_column("place", pa.array(np.arange(rows.num_rows)))
    last = rows.group_by(COORDINATES.names).aggregate([("place", "max")])
    return rows.take(last["place_max"]).drop("place")

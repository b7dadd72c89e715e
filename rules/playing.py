"""Plays timelines: records land in order of arrival, and the reconciler takes a step around each late one.

This is the live way in small: the same pure middle judges what lands (`rules.pipeline`), and the same engine
finds the rest (`rules.reconciler.step`). What counts is what holds at the end.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from rules.judge import Judge
from rules.pipeline import Landing, admit_references, decode_events, judge_events
from rules.reconciler.given import REJECTED, Clock, StepInput, before_landing, event_schema
from rules.reconciler.step import Reconciler
from rules.references import References
from rules.rule import Rule, RuleTest
from rules.timeline import BEGINNING, Baseline, Step, Timeline, TimelineError, parse
from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.record import Record
from schemas.tables import FETCHED, FINDING_EVENT

HOLDING = ("provisional", "confirmed")
CEASED = ("withdrawn", "superseded")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Outcome:
    """How one test went: what does not hold and should, what holds and should not, or why it cannot run."""

    rule_id: str
    test: str
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    error: str | None = None

    @property
    def passed(self) -> bool:
        return not (self.missing or self.unexpected or self.error)


def run_test(rule: Rule, test: RuleTest, rules: Sequence[Rule], baseline: Baseline) -> Outcome:
    """Plays one timeline under all the rules; the whole set of what holds at its end must be as stated."""
    try:
        return compare(rule, test, play(parse(test.timeline, baseline), rules))
    except SekishoError as error:
        return Outcome(rule.id, test.name, error=str(error))


def compare(rule: Rule, test: RuleTest, states: Mapping[str, str]) -> Outcome:
    """Holds the states at the end (`rule_id subject` to state) against what a test says.

    A line of `fires` may end in a state: `… (provisional)` and `… (confirmed)` hold in that state, `…
    (withdrawn)` and `… (superseded)` no longer hold.
    """
    wanted = [(line, *_line_and_state(line)) for line in test.fires]
    missing = [
        line for line, name, state in wanted if states.get(name) not in ((state,) if state else HOLDING)
    ]
    expected = {name for _, name, state in wanted if state not in CEASED}
    unexpected = [
        f"{name} ({state})" for name, state in states.items() if state in HOLDING and name not in expected
    ]
    return Outcome(rule.id, test.name, tuple(missing), tuple(sorted(unexpected)))


def _line_and_state(line: str) -> tuple[str, str]:
    for state in (*HOLDING, *CEASED):
        if line.endswith(f" ({state})"):
            return line.removesuffix(f" ({state})"), state
    return line, ""


def play(timeline: Timeline, rules: Sequence[Rule]) -> dict[str, str]:
    """The state at the end of everything that was ever found, by `rule_id subject`.

    Raises:
        TimelineError: a record is rejected that the timeline does not call so, or the other way round.
    """
    judge = _judge(tuple(rules))
    engine = Reconciler(None, rules, judge=judge)
    states: dict[str, str] = {}
    try:
        for given in _inputs(timeline, judge):
            engine.take(given)
            output = engine.settle(_EPOCH, final=True)
            engine.commit()
            found = output.history.select(["rule_id", "subject", "revision", "state"]).to_pylist()
            for row in sorted(found, key=lambda row: row["revision"]):
                states[f"{row['rule_id']} {row['subject']}"] = row["state"]
    finally:
        engine.close()
    return states


@lru_cache(maxsize=1)
def _judge(rules: tuple[Rule, ...]) -> Judge:
    """One judge for the timelines of one set of rules."""
    return Judge(rules)


def land(timeline: Timeline, judge: Judge) -> set[str]:
    """The `rule_id subject` of all that fires at landing.

    Raises:
        TimelineError: as `play`.
    """
    topics = _Topics(judge)
    found = [landed.landing.findings for episode in _episodes(timeline) for landed in topics.land(episode)]
    columns = [(one["rule_id"].to_pylist(), one["subject"].to_pylist()) for one in found]
    return {
        f"{rule} {subject}" for ids, subjects in columns for rule, subject in zip(ids, subjects, strict=True)
    }


def _episodes(timeline: Timeline) -> list[list[Step]]:
    """The records in order of arrival, cut around every arrival that a line states.

    Between those cuts everything arrives when it happens, and one step of the engine is as good as many.
    """
    episodes: list[list[Step]] = []
    open_end = False
    for _, group in groupby(timeline.steps, key=lambda step: step.arrival):
        arrived = list(group)
        late = any(step.late for step in arrived)
        if open_end and not late:
            episodes[-1] += arrived
        else:
            episodes.append(arrived)
        open_end = not late
    return episodes


@dataclass(frozen=True)
class _Landed:
    """One batch as it landed, and what had been read of the references when it was judged (next offsets)."""

    landing: Landing
    known: Mapping[tuple[str, int], int]


class _Topics:
    """Lands records one after the other, as a single worker would."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._references = References(judge.columns)
        self._offsets: dict[str, int] = {}

    def land(self, episode: Sequence[Step]) -> list[_Landed]:
        """What becomes of each run of records of one kind."""
        groups = groupby(episode, key=lambda step: step.record.topic)
        return [self._land(list(group)) for _, group in groups]

    def _land(self, batch: Sequence[Step]) -> _Landed:
        record, known = batch[0].record, dict(self._references.known)
        first = self._offsets.get(record.topic, 0)
        self._offsets[record.topic] = first + len(batch)
        rows = fetched(record, batch, first)
        if record.is_event:
            landing = judge_events(decode_events(record, rows), self._references, self._judge)
        else:
            landing = admit_references(record, rows, self._references)
            self._references.add(record, landing.typed)
            self._references.note_read(record.topic, 0, self._offsets[record.topic])
        _check_rejected(landing, batch)
        return _Landed(landing, known)


def fetched(record: Record, steps: Sequence[Step], first_offset: int) -> pa.RecordBatch:
    """The steps of one record kind as read from partition 0 of its topic (columns of FETCHED)."""
    rows: list[dict[str, object]] = [
        {
            "topic": record.topic,
            "topic_id": "timeline",
            "partition": 0,
            "offset": offset,
            "broker_time": step.arrival,
            "key": step.key.encode(),
            "headers": [],
            "value": step.bytes,
        }
        for offset, step in enumerate(steps, first_offset)
    ]
    return pa.RecordBatch.from_pylist(rows, schema=FETCHED)


def _check_rejected(landing: Landing, batch: Sequence[Step]) -> None:
    for step, reason in zip(batch, landing.raw["reason"].to_pylist(), strict=True):
        if reason is not None and not step.rejected:
            raise TimelineError(
                f"line {step.line}: the {step.record.name} record is rejected as {reason};"
                " correct it, or write `rejected` after its kind"
            )
        if reason is None and step.rejected:
            raise TimelineError(
                f"line {step.line}: the {step.record.name} record is not rejected; correct one"
            )


def _inputs(timeline: Timeline, judge: Judge) -> Iterator[StepInput]:
    """The reconciler's input after each episode; the last one brings the end's clock."""
    topics = _Topics(judge)
    steps = [
        _input(number, episode, topics.land(episode)) for number, episode in enumerate(_episodes(timeline), 1)
    ]
    if timeline.until is None:
        steps[-1] = replace(steps[-1], clock=_end(steps))
    yield from steps
    if timeline.until is not None:
        tick = _micros(timeline.until)
        yield StepInput(len(steps) + 1, broker_first=tick, broker_last=tick, tick=tick)


def _end(steps: Sequence[StepInput]) -> Clock:
    """The clock at the end of files: the greatest event time is the watermark (contract 3.6)."""
    times = [
        pc.max(events["occurred_at"]).value
        for step in steps
        for events in step.events.values()
        if events.num_rows
    ]
    broker = [step.broker_last for step in steps if step.broker_last is not None]
    return Clock(max(times, default=None), max(broker, default=None))


def _input(number: int, episode: Sequence[Step], landed: Sequence[_Landed]) -> StepInput:
    """All that arrived in one episode, each batch a commit. What was there before has no broker time."""
    times = [_micros(step.arrival) for step in episode if step.arrival != BEGINNING]
    landings = [one.landing for one in landed]
    references = [landing for landing in landings if not landing.record.is_event]
    found = [pa.Table.from_batches([one.findings]) for one in landings if one.record.is_event]
    return StepInput(
        number,
        events={record.name: _events(record, landings) for record in EVENTS.values()},
        firings=_concat(found, before_landing(FINDING_EVENT)),
        rejected=_concat([_rejected(landing) for landing in landings], REJECTED),
        references=[(landing.record, landing.typed) for landing in references],
        read={(one.record.topic, 0): one.raw["offset"][-1].as_py() + 1 for one in references},
        known=[one.known for one in landed],
        broker_first=min(times, default=None),
        broker_last=max(times, default=None),
    )


def _events(record: Record, landings: Sequence[Landing]) -> pa.Table:
    """The accepted events of a stream, with the index of their commit."""
    tables = []
    for index, landing in enumerate(landings):
        if landing.record is record:
            rows = pa.Table.from_batches([landing.typed])
            tables.append(
                rows.append_column("commit", pa.repeat(pa.scalar(index, pa.int32()), rows.num_rows))
            )
    return _concat(tables, event_schema(record))


def _rejected(landing: Landing) -> pa.Table:
    raw = pa.Table.from_batches([landing.raw])
    return raw.filter(pc.is_valid(raw["reason"]))


def _concat(tables: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    named = [table.select(schema.names).cast(schema) for table in tables]
    return pa.concat_tables([schema.empty_table(), *named])


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND

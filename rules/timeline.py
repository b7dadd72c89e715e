"""Timelines: the rules' own tests as readable text, run through the same pure middle as live records.

A timeline is lines of `[time] [@arrival] record [tombstone] [{fields}]`, e.g.

    party {"status": "suspended"}
    10:00 @10:20 access {"action": "call"}

Fields are merged over the good world of `baseline.toml`; null takes one out. docs/writing-a-rule.md has the
rest.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from itertools import groupby
from pathlib import Path

import orjson
import pyarrow as pa

from rules.judge import Judge
from rules.pipeline import Landing, admit_references, judge_events
from rules.references import References
from rules.rule import Rule, RuleTest
from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.record import Record
from schemas.reference import REFERENCES
from schemas.tables import FETCHED

_RECORDS: Mapping[str, Record] = {r.name: r for r in (*EVENTS.values(), *REFERENCES.values())}
_LINE = re.compile(
    r"(?:(?P<at>\d\S*)\s+)?(?:@(?P<arrival>\d\S*)\s+)?"
    r"(?P<record>[a-z]+)(?P<tombstone>\s+tombstone)?(?:\s+(?P<fields>\{.*\}))?"
)


class TimelineError(SekishoError):
    """A timeline that says nothing a record could say; the text names the line."""


@dataclass(frozen=True)
class Step:
    """One record of a timeline. `value` None is a tombstone; `arrival` is when the broker gets it."""

    line: int
    record: Record
    key: str
    value: Mapping[str, object] | None
    arrival: datetime

    @property
    def bytes(self) -> bytes | None:
        return None if self.value is None else orjson.dumps(self.value)


@dataclass(frozen=True)
class Baseline:
    """The good world: reference records by kind, the first being its template, and one event a stream."""

    day: date
    references: Mapping[str, tuple[Mapping[str, object], ...]]
    events: Mapping[str, Mapping[str, object]]

    def template(self, record: Record) -> Mapping[str, object]:
        if record.is_event:
            return self.events[record.name]
        return self.references[record.name][0] if self.references.get(record.name) else {}

    @property
    def beginning(self) -> datetime:
        """The arrival of reference records whose line says none."""
        return datetime(1970, 1, 1, tzinfo=UTC)


def load_baseline(path: Path = Path(__file__).parent / "baseline.toml") -> Baseline:
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    return Baseline(
        day=document["day"],
        references={name: tuple(rows) for name, rows in document.items() if isinstance(rows, list)},
        events={name: row for name, row in document.items() if isinstance(row, dict)},
    )


def parse(timeline: str, baseline: Baseline) -> list[Step]:
    """The records of a timeline with those of the baseline that it does not replace, in order of arrival.

    A reference line replaces the baseline's record of the same id; further lines of that id are its next
    versions. References come before events that arrive at the same time, else lines keep their order.

    Raises:
        TimelineError: a line cannot be read.
    """
    steps: list[Step] = []
    versions: dict[tuple[str, str], int] = {}
    for number, text in enumerate(timeline.splitlines(), 1):
        if text.strip() and not text.lstrip().startswith("#"):
            steps.append(_step(number, text.strip(), baseline, versions))
    steps += _rest_of_world(baseline, {key for key, count in versions.items() if count})
    return sorted(steps, key=lambda step: (step.arrival, step.record.is_event, step.line))


def _rest_of_world(baseline: Baseline, replaced: set[tuple[str, str]]) -> list[Step]:
    steps = []
    for name, rows in baseline.references.items():
        record = _RECORDS[name]
        for row in rows:
            key = _key(record, row)
            if (name, key) not in replaced:
                steps.append(Step(0, record, key, row, baseline.beginning))
    return steps


def _step(number: int, text: str, baseline: Baseline, versions: dict[tuple[str, str], int]) -> Step:
    match = _LINE.fullmatch(text)
    record = _RECORDS.get(match["record"]) if match else None
    if match is None or record is None:
        raise TimelineError(
            f"line {number}: write [time] [@arrival] record {{fields}}, record one of {_names()}"
        )
    at = _moment(match["at"], baseline.day, number)
    arrival = _moment(match["arrival"], baseline.day, number)
    fields = _fields(match["fields"], number)
    if record.is_event:
        if at is None or match["tombstone"]:
            raise TimelineError(f"line {number}: an event needs a time and is no tombstone; correct it")
        start: dict[str, object] = {"event_id": f"e{number}", "occurred_at": _text(at)}
        value = _merge({**start, **baseline.template(record)}, fields)
        return Step(number, record, _event_key(value), value, arrival or at)
    value = _merge(baseline.template(record), fields)
    key = (record.name, _key(record, value))
    if match["tombstone"]:
        if arrival is None:
            raise TimelineError(f"line {number}: a tombstone needs its arrival, e.g. @10:00; add it")
        return Step(number, record, key[1], None, arrival)
    versions[key] = versions.get(key, 0) + 1
    value = _merge({**value, "version": versions[key]}, {"version": fields.get("version", versions[key])})
    if at is not None:
        value["valid_from"] = _text(at)
    return Step(number, record, key[1], value, arrival or baseline.beginning)


def _names() -> str:
    return ", ".join(_RECORDS)


def _fields(text: str | None, number: int) -> dict[str, object]:
    try:
        value: dict[str, object] = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise TimelineError(
            f"line {number}: the fields are not one JSON object ({error}); correct them"
        ) from None
    return value


def _merge(template: Mapping[str, object], fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in {**template, **fields}.items() if value is not None}


def _key(record: Record, value: Mapping[str, object]) -> str:
    return "|".join(str(value.get(part, "")) for part in record.key)


def _event_key(value: Mapping[str, object]) -> str:
    return str(value.get("allocation_id") or value.get("workload_id") or value.get("principal") or "")


def _moment(text: str | None, day: date, number: int) -> datetime | None:
    """`10:00[:30[.5]]` on the baseline's day, or a full time with its offset."""
    if text is None:
        return None
    try:
        if "T" in text:
            full = datetime.fromisoformat(text)
            if full.tzinfo is None:
                raise ValueError
            return full.astimezone(UTC)
        return datetime.combine(day, time.fromisoformat(text), tzinfo=UTC)
    except ValueError:
        raise TimelineError(f"line {number}: {text} is no time like 10:00 or 2026-03-02T10:00:00Z") from None


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds")


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


def play(steps: Iterable[Step], judge: Judge) -> set[str]:
    """Lets the records arrive in order and returns the `rule_id subject` of all that fired at landing.

    Raises:
        TimelineError: a record is rejected, which a timeline never means.
    """
    references = References(judge.columns)
    offsets: dict[str, int] = {}
    fired: set[str] = set()
    for record, group in groupby(steps, key=lambda step: step.record):
        batch = list(group)
        first = offsets.get(record.topic, 0)
        offsets[record.topic] = first + len(batch)
        rows = fetched(record, batch, first)
        if record.is_event:
            landing = judge_events(record, rows, references, judge)
        else:
            landing = admit_references(record, rows, references)
            references.add(record, landing.typed)
        _refuse_rejected(landing, batch)
        found = landing.findings
        fired |= {
            f"{rule} {about}"
            for rule, about in zip(*map(_list, (found["rule_id"], found["subject"])), strict=True)
        }
    return fired


def _list(column: pa.Array) -> list[str]:
    values: list[str] = column.to_pylist()
    return values


def _refuse_rejected(landing: Landing, batch: Sequence[Step]) -> None:
    for step, reason in zip(batch, landing.raw["reason"].to_pylist(), strict=True):
        if reason is not None:
            raise TimelineError(
                f"line {step.line}: the {step.record.name} record is rejected as {reason}; correct it"
            )


@dataclass(frozen=True)
class Outcome:
    """How one test went: what did not fire and should, what fired and should not, or why it cannot run."""

    rule_id: str
    test: str
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    error: str | None = None

    @property
    def passed(self) -> bool:
        return not (self.missing or self.unexpected or self.error)


def run_test(rule: Rule, test: RuleTest, judge: Judge, baseline: Baseline) -> Outcome:
    """Plays one timeline; every rule of `judge` is judged on it, and the whole set must be as stated."""
    try:
        fired = play(parse(test.timeline, baseline), judge)
    except SekishoError as error:
        return Outcome(rule.id, test.name, error=str(error))
    expected = set(test.fires)
    return Outcome(rule.id, test.name, tuple(sorted(expected - fired)), tuple(sorted(fired - expected)))

"""Timelines: the rules' own tests as readable text; `rules.playing` plays them.

A timeline is lines of `[time] [@arrival] record [tombstone|rejected] [{fields}]`, perhaps closed by a last
tick, e.g.

    party {"status": "suspended"}
    10:00 @10:20 access {"action": "call"}
    until 11:00

Fields are merged over the good world of `baseline.toml`; null takes one out. docs/writing-a-rule.md has the
rest.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from pathlib import Path

import orjson

from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.record import Record
from schemas.reference import REFERENCES

_RECORDS: Mapping[str, Record] = {r.name: r for r in (*EVENTS.values(), *REFERENCES.values())}
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""The arrival of reference records whose line says none."""

_LINE = re.compile(
    r"(?:(?P<at>\d\S*)\s+)?(?:@(?P<arrival>\d\S*)\s+)?"
    r"(?P<record>[a-z]+)(?:\s+(?P<mark>tombstone|rejected))?(?:\s+(?P<fields>\{.*\}))?"
)
_UNTIL = re.compile(r"until\s+(?P<at>\d\S*)")


class TimelineError(SekishoError):
    """A timeline that says nothing a record could say; the text names the line."""


@dataclass(frozen=True)
class Step:
    """One record of a timeline.

    `value` None is a tombstone; `arrival` is when the broker gets it, `late` whether its line says so;
    `rejected` means that the contract refuses it, and that the timeline knows.
    """

    line: int
    record: Record
    key: str
    value: Mapping[str, object] | None
    arrival: datetime
    late: bool = False
    rejected: bool = False

    @property
    def bytes(self) -> bytes | None:
        return None if self.value is None else orjson.dumps(self.value)


@dataclass(frozen=True)
class Timeline:
    """Records in order of arrival, and the last tick.

    Without a tick the watermark is the greatest event time at the end, as in a scan of files.
    """

    steps: tuple[Step, ...]
    until: datetime | None = None


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


def load_baseline(path: Path = Path(__file__).parent / "baseline.toml") -> Baseline:
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    return Baseline(
        day=document["day"],
        references={name: tuple(rows) for name, rows in document.items() if isinstance(rows, list)},
        events={name: row for name, row in document.items() if isinstance(row, dict)},
    )


def parse(timeline: str, baseline: Baseline) -> Timeline:
    """The records of a timeline with those of the baseline that it does not replace, in order of arrival.

    A reference line replaces the baseline's record of the same id; further lines of that id are its next
    versions. References come before events that arrive at the same time, else lines keep their order.

    Raises:
        TimelineError: a line cannot be read.
    """
    steps: list[Step] = []
    versions: dict[tuple[str, str], int] = {}
    until: datetime | None = None
    for number, line in enumerate(timeline.splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if until is not None:
            raise TimelineError(f"line {number}: nothing comes after until; move it up")
        last = _UNTIL.fullmatch(text)
        if last is not None:
            until = _moment(last["at"], baseline.day, number)
        else:
            steps.append(_step(number, text, baseline, versions))
    steps += _rest_of_world(baseline, {key for key, count in versions.items() if count})
    ordered = sorted(steps, key=lambda step: (step.arrival, step.record.is_event, step.line))
    return Timeline(tuple(ordered), until)


def _rest_of_world(baseline: Baseline, replaced: set[tuple[str, str]]) -> list[Step]:
    steps = []
    for name, rows in baseline.references.items():
        record = _RECORDS[name]
        for row in rows:
            key = _key(record, row)
            if (name, key) not in replaced:
                steps.append(Step(0, record, key, row, BEGINNING))
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
    rejected = match["mark"] == "rejected"
    if record.is_event:
        if at is None or match["mark"] == "tombstone":
            raise TimelineError(f"line {number}: an event needs a time and is no tombstone; correct it")
        start: dict[str, object] = {"event_id": f"e{number}", "occurred_at": _text(at)}
        value = _merge({**start, **baseline.template(record)}, fields)
        return Step(number, record, _event_key(value), value, arrival or at, arrival is not None, rejected)
    value = _merge(baseline.template(record), fields)
    key = (record.name, _key(record, value))
    if match["mark"] == "tombstone":
        if arrival is None:
            raise TimelineError(f"line {number}: a tombstone needs its arrival, e.g. @10:00; add it")
        return Step(number, record, key[1], None, arrival, late=True)
    versions[key] = versions.get(key, 0) + (not rejected)
    value = _merge({**value, "version": versions[key]}, {"version": fields.get("version", versions[key])})
    if at is not None:
        value["valid_from"] = _text(at)
    return Step(number, record, key[1], value, arrival or BEGINNING, arrival is not None, rejected)


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

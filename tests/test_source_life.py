"""Sequence holes and silences against a plain reading of the contract, in any order and any steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.reconciler import accesses, sources, state, store
from rules.reconciler.duplicates import GONE
from rules.reconciler.given import before_landing, event_schema
from schemas.events import ACCESS, EVENTS
from schemas.reference import SOURCE
from schemas.tables import typed

SECOND = 1_000_000
BASE = 1_770_000_000 * SECOND
FOREVER = 1 << 62
Place = tuple[str, int, int]


@dataclass(frozen=True)
class Event:
    """A non-duplicate event; times in µs."""

    offset: int
    source: str
    seq: int | None
    t: int
    broker_time: int
    partition: int = 0
    future: bool = False

    @property
    def place(self) -> Place:
        return "custody.access", self.partition, self.offset

    @property
    def rank(self) -> tuple[int, Place]:
        return self.t, self.place


@dataclass(frozen=True)
class Version:
    """A version of a source, or with `number` None a tombstone at `end`."""

    offset: int
    source: str
    number: int | None
    start: int
    end: int | None
    limit_s: int | None = None
    sequenced: bool | None = None


def take(con: duckdb.DuckDBPyConnection, new: Sequence[Event], gone: Sequence[Event]) -> dict[str, pa.Table]:
    """What a step does first: `new_event` and `gone_event`, which is not kept any more. Returns the new."""
    rows = [
        {
            "topic": "custody.access",
            "partition": e.partition,
            "offset": e.offset,
            "source": e.source,
            "event_id": f"e{e.offset}",
            "source_seq": e.seq,
            "occurred_at": e.t,
            "broker_time": e.broker_time,
            "future": e.future,
        }
        for e in new
    ]
    originals = {record.name: event_schema(record).empty_table() for record in EVENTS.values()}
    originals[ACCESS.name] = pa.Table.from_pylist(rows, event_schema(ACCESS))
    taken = store.take_new(con, originals)
    left = [
        {
            "stream": "access",
            "topic": "custody.access",
            "partition": e.partition,
            "offset": e.offset,
            "source": e.source,
            "event_id": f"e{e.offset}",
            "source_seq": e.seq,
            "t": e.t,
            "broker_time": e.broker_time,
            "future": e.future,
        }
        for e in gone
    ]
    store.take_gone(con, pa.Table.from_pylist(left, GONE))
    return taken


def versions_batch(versions: Sequence[Version]) -> pa.RecordBatch:
    rows = [
        {
            "source": v.source,
            "version": v.number,
            "topic": SOURCE.topic,
            "partition": 0,
            "offset": v.offset,
            "sha256": bytes(32),
            "silence_limit_s": v.limit_s,
            "sequenced": v.sequenced,
            **({"tombstone_at": v.end} if v.number is None else {"valid_from": v.start, "valid_to": v.end}),
        }
        for v in versions
    ]
    return pa.RecordBatch.from_pylist(rows, schema=before_landing(typed(SOURCE)))


@pytest.fixture(autouse=True)
def _every_step_writes_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesses, "FILE_ROWS", 1)


class Engine:
    """The module under test, and what its findings would be; in a folder accesses lie in files."""

    def __init__(self, folder: Path | None = None) -> None:
        self.con = state.connect(folder)
        store.create(self.con)
        sources.create(self.con)
        self.found: dict[str, tuple[Place | None, int | None]] = {}  # subject → event, due

    def step(
        self,
        new: Sequence[Event] = (),
        gone: Sequence[Event] = (),
        versions: Sequence[Version] = (),
        first: int | None = None,
        latest: int | None = None,
    ) -> None:
        con = self.con
        con.execute("BEGIN")
        con.execute("CREATE OR REPLACE TEMP TABLE judged_subject (rule_id VARCHAR, subject VARCHAR)")
        taken = take(con, new, gone)
        sources.add_versions(con, versions_batch(versions))
        sources.add(con)
        sources.judge(con, first, latest)
        store.keep(con, ACCESS, taken[ACCESS.name])
        for (subject,) in con.execute("SELECT subject FROM judged_subject").fetchall():
            self.found.pop(subject, None)
        self._take_holes()
        self._take_silences()
        con.execute("COMMIT")

    def _take_holes(self) -> None:
        for row in self.con.execute(
            'SELECT topic, "partition", "offset", event_id, source, first, epoch_us(next_at), epoch_us(t) '
            "FROM scope_sequence_gap WHERE sequenced IS NOT false"
        ).fetchall():
            subject = f"source:{row[4]}|first:{row[5]}"
            assert self._judged(subject) and row[3] == f"e{row[2]}"
            self.found[subject] = (row[:3], row[6])

    def _take_silences(self) -> None:
        for row in self.con.execute(
            'SELECT topic, "partition", "offset", source, '
            "strftime(since, '%Y-%m-%dT%H:%M:%S.%fZ') FROM scope_silence "
            "WHERE to_at > from_at + to_seconds(least(coalesce(limit_s, 3600), 1000000000000))"
        ).fetchall():
            subject = f"source:{row[3]}|since:{row[4]}"
            assert self._judged(subject)
            self.found[subject] = (None if row[0] is None else row[:3], None)

    def _judged(self, subject: str) -> bool:
        return bool(self.con.execute("SELECT 1 FROM judged_subject WHERE subject = ?", [subject]).fetchall())


def text(time: int) -> str:
    return (datetime(1970, 1, 1) + timedelta(microseconds=time)).isoformat(timespec="microseconds") + "Z"


class Model:
    """The contract, said plainly."""

    def __init__(
        self, events: Sequence[Event], versions: Sequence[Version], first: int | None, latest: int | None
    ) -> None:
        self.events, self.versions, self.first, self.latest = events, versions, first, latest

    def in_force(self, source: str, time: int) -> Version | None:
        covering = [v for v in self.ever(source) if v.start <= time < self.end(v)]
        return max(covering, key=lambda v: v.number or 0, default=None)

    def ever(self, source: str) -> list[Version]:
        return [v for v in self.versions if v.source == source and v.number and v.start < self.end(v)]

    def end(self, version: Version) -> int:
        ends = [FOREVER if version.end is None else version.end]
        ends += [
            v.end or 0
            for v in self.versions
            if v.number is None and v.source == version.source and v.offset > version.offset
        ]
        return min(ends)

    def found(self) -> dict[str, tuple[Place | None, int | None]]:
        names = {e.source for e in self.events} | {v.source for v in self.versions}
        found: dict[str, tuple[Place | None, int | None]] = {}
        for name in names:
            mine = [e for e in self.events if e.source == name]
            found |= self.holes(name, mine) | self.silences(name, mine)
        return found

    def holes(self, name: str, mine: list[Event]) -> dict[str, tuple[Place | None, int | None]]:
        numbers = sorted({e.seq for e in mine if e.seq is not None})
        found: dict[str, tuple[Place | None, int | None]] = {}
        for a, b in pairwise(numbers):
            after = min((e for e in mine if e.seq == b), key=lambda e: e.rank)
            version = self.in_force(name, after.t)
            if b > a + 1 and not (version and version.sequenced is False):
                before = max((e for e in mine if e.seq == a), key=lambda e: e.rank)
                found[f"source:{name}|first:{a + 1}"] = (before.place, after.t)
        return found

    def silences(self, name: str, mine: list[Event]) -> dict[str, tuple[Place | None, int | None]]:
        if self.latest is None or self.first is None:
            return {}
        ever = self.ever(name)
        last_end = max((self.end(v) for v in ever), default=FOREVER)
        beats = sorted({e.broker_time for e in mine})
        gaps = [
            (b, b, end, max((e for e in mine if e.broker_time == b), key=lambda e: e.rank).place)
            for b, end in zip(beats, [*beats[1:], self.latest][: len(beats)], strict=True)
        ]
        spans: list[tuple[int, int, int, Place | None]] = [*gaps]
        if ever:
            earliest = min(v.start for v in ever)
            spans.append((earliest, max(earliest, self.first), [*beats, self.latest][0], None))
        found: dict[str, tuple[Place | None, int | None]] = {}
        for since, start, end, place in spans:
            version = self.in_force(name, start)
            limit = 3600 if version is None or version.limit_s is None else version.limit_s
            if min(end, last_end) - start > limit * SECOND:
                found[f"source:{name}|since:{text(since)}"] = (place, None)
        return found


_SOURCES = st.sampled_from(["a", "b"])
_MOMENTS = st.sampled_from([0, 1, 30, 60, 61, 3600, 3661, 7200, 7261, 9000, 20_000]).map(
    lambda seconds: BASE + seconds * SECOND
)
_NUMBERS = st.one_of(
    st.none(), st.integers(0, 8), st.sampled_from([-(1 << 63), (1 << 63) - 1, (1 << 63) - 3, 100])
)


@st.composite
def event_lists(draw: st.DrawFn) -> list[Event]:
    count = draw(st.integers(0, 12))
    return [
        Event(
            offset,
            draw(_SOURCES),
            draw(_NUMBERS),
            draw(_MOMENTS),
            draw(_MOMENTS) + draw(st.integers(0, 1)),
            draw(st.integers(1, 2)),
        )
        for offset in draw(st.permutations(range(count)))
    ]


@st.composite
def version_lists(draw: st.DrawFn) -> list[Version]:
    versions = []
    for offset in range(draw(st.integers(0, 4))):
        if draw(st.integers(0, 4)) == 0:
            versions.append(Version(offset, draw(_SOURCES), None, 0, draw(_MOMENTS)))
        else:
            start, end = draw(_MOMENTS), draw(st.one_of(st.none(), st.none(), _MOMENTS))
            limit = draw(st.sampled_from([None, 1, 60, 3600, 4000, (1 << 63) - 1]))
            sequenced = draw(st.sampled_from([None, True, False]))
            versions.append(Version(offset, draw(_SOURCES), offset + 1, start, end, limit, sequenced))
    return versions


@settings(max_examples=25)
@given(event_lists(), version_lists(), st.data())
def test_as_the_contract_says_in_any_order_and_any_steps(
    events: list[Event], versions: list[Version], data: st.DataObject
) -> None:
    if data.draw(st.booleans()):
        _steps_as_the_contract_says(Engine(), events, versions, data)
        return
    with TemporaryDirectory() as folder:
        engine = Engine(Path(folder))
        _steps_as_the_contract_says(engine, events, versions, data)
        engine.con.close()


def _steps_as_the_contract_says(
    engine: Engine, events: list[Event], versions: list[Version], data: st.DataObject
) -> None:
    present: list[Event] = []
    known: list[Version] = []
    first: int | None = None
    latest: int | None = None
    while True:
        take = data.draw(st.integers(1, 6))
        new, events = events[:take], events[take:]
        gone = data.draw(st.lists(st.sampled_from(present), max_size=2, unique=True)) if present else []
        new += [
            replace(e, partition=0, broker_time=data.draw(_MOMENTS)) for e in gone if e.partition
        ]  # the same event with a lower coordinate
        gone = [e for e in gone if e.partition]
        learned = versions[: data.draw(st.integers(0, 2))] if events else versions
        versions = versions[len(learned) :]
        present = [e for e in present if e not in gone] + new
        known += learned
        read = [e.broker_time for e in new] + [
            data.draw(_MOMENTS) for _ in range(data.draw(st.integers(0, 1)))
        ]
        first = min([*read, *([] if first is None else [first])], default=None)
        latest = max([*read, *([] if latest is None else [latest])], default=None)
        engine.step(new, gone, learned, first, latest)
        assert engine.found == Model(present, known, first, latest).found()
        if not events and not versions:
            break


def test_a_lower_limit_finds_silences_between_accesses_in_files(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    events = [Event(n, "s", None, BASE, BASE + n * 600 * SECOND) for n in range(4)]
    first, latest = BASE, events[-1].broker_time
    engine.step(events, first=first, latest=latest)
    assert engine.found == {}
    version = Version(1, "s", 1, 0, None, limit_s=300)
    engine.step(versions=[version], first=first, latest=latest)
    assert engine.found == Model(events, [version], first, latest).found() != {}


def test_one_number_on_both_sides_and_ties() -> None:
    engine = Engine()
    engine.step(
        [Event(1, "s", 1, 10, 1), Event(2, "s", 3, 30, 1), Event(3, "s", 5, 50, 1)], first=1, latest=1
    )
    assert engine.found == {
        "source:s|first:2": (("custody.access", 0, 1), 30),
        "source:s|first:4": (("custody.access", 0, 2), 50),
    }
    engine.step([Event(4, "s", 3, 30, 1), Event(5, "s", 5, 40, 1)], first=1, latest=1)
    assert engine.found == {
        "source:s|first:2": (("custody.access", 0, 1), 30),
        "source:s|first:4": (("custody.access", 0, 4), 40),
    }
    engine.step([Event(6, "s", 2, 20, 1), Event(7, "s", 4, 20, 1)], first=1, latest=1)
    assert engine.found == {}


def test_a_source_that_speaks_again_after_it_was_found_silent() -> None:
    engine = Engine()
    hour = 3600 * SECOND
    engine.step([Event(1, "s", None, BASE, BASE)], first=BASE, latest=BASE + hour)
    assert engine.found == {}
    engine.step(first=BASE, latest=BASE + hour + 1)
    silent = {f"source:s|since:{text(BASE)}": (("custody.access", 0, 1), None)}
    assert engine.found == silent
    engine.step([Event(2, "s", None, BASE, BASE + hour + 2)], first=BASE, latest=BASE + hour + 2)
    assert engine.found == silent
    engine.step([Event(3, "s", None, BASE, BASE + hour)], first=BASE, latest=BASE + hour + 2)
    assert engine.found == {}


@pytest.mark.parametrize("seed", range(6))
def test_numbers_and_times_that_come_almost_in_order(seed: int) -> None:
    random = Random(seed)
    events = [
        Event(offset, source, number, BASE + number, BASE + number * minutes * 60 * SECOND, offset % 2)
        for source, minutes in (("a", 1), ("b", 40), ("c", 61))
        for offset, number in enumerate(sorted(random.choices(range(40), k=60)))
    ]
    late = {event: event.broker_time + random.choice([0, 0, 0, 1, 300]) * 60 * SECOND for event in events}
    events.sort(key=lambda event: late[event])
    engine = Engine()
    present: list[Event] = []
    while events:
        size = random.randint(1, 30)
        present += events[:size]
        latest = max(event.broker_time for event in present)
        first = min(event.broker_time for event in present)
        engine.step(events[:size], first=first, latest=latest)
        events = events[size:]
        assert engine.found == Model(present, [], first, latest).found()

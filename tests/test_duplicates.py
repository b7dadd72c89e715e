"""Duplicates and conflicts against a plain reading of the contract, in any order and any steps."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.join import FUTURE_US
from rules.reconciler import duplicates, store
from rules.reconciler.given import before_landing
from rules.reconciler.seen import Seen
from schemas.events import EVENTS
from schemas.tables import typed

DAY = 86_400_000_000
BASE = 1_770_000_000_000_000
Place = tuple[str, int, int]

_SETUP = "CREATE OR REPLACE TEMP TABLE judged_id (source VARCHAR, event_id VARCHAR)"


@dataclass(frozen=True)
class Event:
    """An event as sent, and where it was read; what is not named here is null."""

    stream: str
    partition: int
    offset: int
    event_id: str
    t: int
    fields: tuple[tuple[str, Any], ...] = ()
    source: str = "s"
    broker_time: int | None = None

    @property
    def place(self) -> Place:
        return f"custody.{self.stream}", self.partition, self.offset

    @property
    def content(self) -> str:
        """Equal where all named fields are, an empty list being null."""
        given_fields = sorted((name, value) for name, value in self.fields if value not in (None, []))
        return repr((self.stream, self.source, self.event_id, self.t, given_fields))


def table(stream: str, events: list[Event]) -> pa.Table:
    """The events of one stream as they land."""
    rows = [
        {
            **{{"party_id": "party_id_sent"}.get(name, name): value for name, value in event.fields},
            "event_id": event.event_id,
            "source": event.source,
            "occurred_at": event.t,
            "broker_time": event.broker_time,
            "topic": event.place[0],
            "partition": event.partition,
            "offset": event.offset,
            "party_id": "resolved",
            "future": event.broker_time is not None and event.t > event.broker_time + FUTURE_US,
        }
        for event in events
        if event.stream == stream
    ]
    return pa.Table.from_pylist(rows, schema=before_landing(typed(EVENTS[f"custody.{stream}"])))


class Engine:
    """The module under test, one transaction per step, with what it has said so far."""

    def __init__(self) -> None:
        self.con = duckdb.connect(config={"threads": "1"})
        store.create(self.con)
        duplicates.create(self.con)
        self.seen = Seen(self.con)
        self.originals: set[Place] = set()
        self.of: dict[Place, Place] = {}
        self.apart: dict[tuple[str, str], dict[Place, int | None]] = {}

    def step(self, events: list[Event]) -> duplicates.Found:
        self.con.execute("BEGIN")
        self.con.execute(_SETUP)
        streams = [record.name for record in EVENTS.values()]
        landed = {name: table(name, events) for name in streams}
        found = duplicates.find(self.con, self.seen, landed)
        new = store.take_new(
            self.con, {name: rows.filter(pa.array(found.original[name])) for name, rows in landed.items()}
        )
        store.take_gone(self.con, found.gone)
        for record in EVENTS.values():
            store.keep(self.con, record, new[record.name])
        self.con.execute("COMMIT")
        for name in streams:
            mine = [event for event in events if event.stream == name]
            self.originals |= {
                e.place for e, keep in zip(mine, found.original[name].tolist(), strict=True) if keep
            }
        for row in found.gone.to_pylist():
            self.originals.remove((row["topic"], row["partition"], row["offset"]))
        for row in found.duplicates.to_pylist():
            topic, partition, offset, *of = row.values()
            self.of[topic, partition, offset] = tuple(of)
        for source, event_id in self.con.execute("FROM judged_id").fetchall():
            self.apart[source, event_id] = {}
        for row in self.con.execute("FROM scope_same_id").fetchall():
            self.apart[row[3], row[4]][row[0], row[1], row[2]] = row[8]
        return found


def originals(events: list[Event]) -> dict[str, Event]:
    """By content, the event with the lowest coordinates."""
    lowest: dict[str, Event] = {}
    for event in sorted(events, key=lambda one: one.place):
        lowest.setdefault(event.content, event)
    return lowest


def conflicts(events: list[Event]) -> set[Place]:
    kept = originals(events).values()
    return {
        one.place
        for one in kept
        for other in kept
        if one is not other
        and (one.source, one.event_id) == (other.source, other.event_id)
        and abs(one.t - other.t) <= duplicates.CONFLICT_WINDOW_US
    }


_FIELDS = st.sampled_from(
    [
        ("node", None),
        ("node", "n"),
        ("site_id", "n"),
        ("principal", "n"),
        ("party_id", "p"),
        ("source_seq", 0),
        ("source_seq", -1),
        ("serials", None),
        ("serials", []),
        ("serials", [""]),
        ("serials", ["a", "b"]),
        ("serials", ["b", "a"]),
        ("serials", ["ab"]),
        ("mfa", False),
        ("bytes_out", 0),
    ]
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Event], list[int]]:
    """Events in an order of arrival, and the sizes of steps."""
    events = []
    count = draw(st.integers(1, 14))
    for offset in draw(st.permutations(range(count))):
        stream = draw(st.sampled_from(["allocation", "access", "placement"]))
        name, value = draw(_FIELDS)
        if name not in EVENTS[f"custody.{stream}"].by_name:
            name, value = "node", None
        events.append(
            Event(
                stream,
                draw(st.integers(0, 2)),
                offset,
                draw(st.sampled_from(["1", "2"])),
                BASE + draw(st.sampled_from([0, 5 * DAY, 7 * DAY, 7 * DAY + 1, 30 * DAY])),
                ((name, value),),
                draw(st.sampled_from(["s", "s", "s2"])),
            )
        )
    return events, draw(st.lists(st.integers(0, 5), max_size=6))


def cut(events: list[Event], sizes: list[int]) -> Iterator[list[Event]]:
    for size in sizes:
        yield events[:size]
        events = events[size:]
    yield events


@settings(max_examples=25)
@given(histories())
def test_as_the_contract_says_in_any_order_and_any_steps(history: tuple[list[Event], list[int]]) -> None:
    events, sizes = history
    engine = Engine()
    for step in cut(events, sizes):
        engine.step(step)
    lowest = originals(events)
    assert engine.originals == {event.place for event in lowest.values()}
    assert engine.of == {
        event.place: lowest[event.content].place for event in events if lowest[event.content] is not event
    }
    known = set(engine.con.execute("FROM known_duplicate").fetchall())
    assert known == {(*place, *of) for place, of in engine.of.items()}
    within = duplicates.CONFLICT_WINDOW_US
    found = {
        place
        for judged in engine.apart.values()
        for place, apart in judged.items()
        if apart is not None and apart <= within
    }
    assert found == conflicts(events)


def test_a_lower_coordinate_takes_over_with_its_own_broker_time() -> None:
    engine = Engine()
    fields = (("allocation_id", "A"), ("action", "opened"), ("source_seq", 7))
    late = BASE + 10 * 60_000_000
    engine.step([Event("access", 2, 5, "1", late, fields, broker_time=late)])
    engine.step([Event("access", 3, 1, "1", late, fields, broker_time=late)])
    found = engine.step([Event("access", 1, 9, "1", late, fields, broker_time=BASE)])
    assert found.gone.to_pylist() == [
        {
            "stream": "access",
            "topic": "custody.access",
            "partition": 2,
            "offset": 5,
            "source": "s",
            "event_id": "1",
            "source_seq": 7,
            "t": found.gone["t"][0].as_py(),
            "broker_time": found.gone["broker_time"][0].as_py(),
            "future": False,
            "allocation_id": "A",
            "action": "opened",
        }
    ]
    assert found.gone["t"].cast(pa.int64()).to_pylist() == [late]
    assert found.gone["broker_time"].cast(pa.int64()).to_pylist() == [late]
    assert [tuple(row.values()) for row in found.duplicates.to_pylist()] == [
        ("custody.access", 2, 5, "custody.access", 1, 9),
        ("custody.access", 3, 1, "custody.access", 1, 9),
    ]


@pytest.mark.parametrize("broker_time, future", [(None, False), (BASE, True), (BASE + 1, False)])
def test_a_gone_event_is_future_by_its_own_broker_time(broker_time: int | None, future: bool) -> None:
    engine = Engine()
    t = BASE + 5 * 60_000_000 + 1
    engine.step([Event("access", 0, 5, "1", t, broker_time=broker_time)])
    found = engine.step([Event("access", 0, 4, "1", t, broker_time=t)])
    assert found.gone["future"].to_pylist() == [future]


def test_nothing_at_all() -> None:
    engine = Engine()
    found = engine.step([])
    assert len(found.duplicates) == len(found.gone) == 0
    assert [len(mask) for mask in found.original.values()] == [0, 0, 0]


def test_a_rollback_takes_the_step_back() -> None:
    engine = Engine()
    event = Event("access", 0, 5, "1", BASE)
    engine.con.execute("BEGIN")
    engine.con.execute(_SETUP)
    landed = {record.name: table(record.name, [event]) for record in EVENTS.values()}
    duplicates.find(engine.con, engine.seen, landed)
    engine.con.execute("ROLLBACK")
    engine.step([event])
    assert engine.originals == {event.place}
    assert engine.of == {}


def test_equal_hashes_of_different_ids_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "hashes", lambda con, rows: np.full(len(rows), 7, np.uint64))
    engine = Engine()
    old = [Event("access", 0, 3, "1", BASE), Event("placement", 0, 1, "2", BASE)]
    engine.step(old)
    same = Event("access", 1, 3, "1", BASE)
    other = [Event("access", 0, 4, "3", BASE), Event("access", 0, 5, "1", BASE, source="s2")]
    clash = Event("access", 0, 6, "2", BASE)
    engine.step([same, *other, clash])
    assert engine.originals == {event.place for event in [*old, *other, clash]}
    assert engine.of == {same.place: old[0].place}
    assert engine.apart == {("s", "2"): {old[1].place: 0, clash.place: 0}}


def test_a_hash_is_the_same_wherever_the_row_is() -> None:
    con = duckdb.connect()
    rows = pa.table({"source": ["a", "a", "ab", "a"], "event_id": ["b", "c", "", "b"]})
    first, second, third, fourth = duplicates.hashes(con, rows).tolist()
    assert first == fourth
    assert len({first, second, third}) == 3
    assert duplicates.hashes(con, rows.slice(1)).tolist() == [second, third, fourth]


def test_a_topic_read_again_from_another_partition() -> None:
    engine = Engine()
    events = [Event("access", 1, n, str(n), BASE + n * DAY // 100) for n in range(5000)]
    engine.step(events[:3000])
    engine.step(events[3000:])
    found = engine.step([Event("access", 2 * (n % 2), n, str(n), BASE + n * DAY // 100) for n in range(5000)])
    assert len(found.gone) == 2500
    assert len(found.duplicates) == 5000
    assert engine.originals == {("custody.access", n % 2, n) for n in range(5000)}

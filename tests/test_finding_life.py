"""How findings open, are confirmed, cease and come back, and that the lake always has it right."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.pipeline import finding_id
from rules.reconciler import findings
from rules.rule import Rule
from schemas.record import TIME
from schemas.tables import FINDING_EVENT, FINDING_HISTORY
from tests.finding_steps import (
    CHAIN,
    CONFLICT,
    HOLE,
    REJECTED,
    ROW,
    SILENT,
    TRIAL,
    Engine,
    Firing,
    Step,
    event_lines,
    history_lines,
    minute,
    rules,
)


@pytest.fixture(scope="module")
def every() -> Iterator[list[Rule]]:
    with TemporaryDirectory() as folder:
        yield rules(Path(folder))


def life(every: list[Rule], *steps: tuple[Step, float | None]) -> tuple[list[list[str]], list[list[str]]]:
    """(lines of finding_event, lines of finding_history) of each step, an hour of wall time apart."""
    engine = Engine(every)
    events, history = [], []
    for number, (step, watermark) in enumerate(steps):
        engine.take(step)
        emission = engine.settle(watermark, 60 * number)
        events.append(event_lines(emission))
        history.append(history_lines(emission))
    return events, history


def test_a_finding_is_provisional_until_the_watermark_reaches_its_event(every: list[Rule]) -> None:
    found = Step([Firing(ROW, "a", 1, t=10)], new=[1], row=[1])
    assert life(every, (found, None), (Step(), 9.99), (Step(), 10), (Step(), 11)) == (
        [["a 1 provisional"], [], ["a 1 confirmed"], []],
        [["a 1 provisional 1"], [], ["a 2 confirmed 1"], []],
    )


def test_what_is_already_reached_opens_confirmed(every: list[Rule]) -> None:
    events, history = life(every, (Step([Firing(ROW, "a", 1, t=10)]), 10))
    assert (events, history) == ([["a 1 confirmed"]], [["a 1 confirmed 1"]])


def test_an_absence_does_not_show_before_it_is_due(every: list[Rule]) -> None:
    found = Step([Firing(CHAIN, "a", 1, t=10, due=25)], chain=[1])
    events, history = life(every, (found, 12), (Step(), 24.99), (Step(), 25))
    assert events == [[], [], ["a 1 confirmed"]]
    assert history == [[], [], ["a 1 confirmed 1"]]


def test_an_absence_that_is_filled_in_time_leaves_no_trace(every: list[Rule]) -> None:
    found = Step([Firing(CHAIN, "a", 1, t=10, due=25)], chain=[1])
    assert life(every, (found, 12), (Step(chain=[1]), 13), (Step(), 30)) == ([[], [], []], [[], [], []])


def test_before_confirmation_withdrawn_and_after_it_superseded(every: list[Rule]) -> None:
    found = Step([Firing(ROW, "a", 1, t=10), Firing(ROW, "b", 2, t=20)], row=[1, 2])
    events, history = life(every, (found, 10), (Step(row=[1, 2]), 10), (Step(), 30))
    assert events[1:] == [["a 1 superseded", "b 2 withdrawn"], []]
    assert history[1:] == [["a 2 superseded 1", "b 2 withdrawn 1"], []]


def test_a_finding_that_fires_again_goes_on_with_its_revisions(every: list[Rule]) -> None:
    found = Step([Firing(ROW, "a", 1, t=10)], row=[1])
    engine = Engine(every)
    rows: list[dict[str, Any]] = []
    for number, step in enumerate((found, Step(row=[1]), found)):
        engine.take(step)
        rows += engine.settle(5, 60 * number).history.to_pylist()
    assert [(row["revision"], row["supersedes"], row["state"]) for row in rows] == [
        (1, None, "provisional"),
        (2, 1, "withdrawn"),
        (3, 2, "provisional"),
    ]
    assert {row["detected_at"] for row in rows} == {minute(0)}


@pytest.mark.parametrize(
    ("firing", "judged"),
    [
        (Firing(ROW, "a", 1, t=1), Step(row=[1])),
        (Firing(CHAIN, "a", 1, t=1), Step(chain=[1])),
        (Firing(HOLE, "a", 1, t=1), Step(subject=[(HOLE, "a")])),
        (Firing(SILENT, "a", None, at_once=True), Step(subject=[(SILENT, "a")])),
        (Firing(CONFLICT, "source:s|event:e1", 1, t=1), Step(ids=[("s", "e1")])),
    ],
)
@pytest.mark.parametrize("watermark", [0, 2])
def test_a_firing_ends_by_what_its_rule_is_judged_by_and_by_nothing_else(
    every: list[Rule], firing: Firing, judged: Step, watermark: float
) -> None:
    others = [
        Step(row=[1] if not judged.row else [2], chain=[1] if not judged.chain else [2], ids=[("s", "e2")]),
        Step(subject=[(ROW, "a"), (CHAIN, "a"), (HOLE, "b"), (SILENT, "b"), (CONFLICT, "a")]),
    ]
    steps = [Step([firing]), *others, judged]
    _, history = life(every, *((step, watermark) for step in steps))
    assert [bool(lines) for lines in history] == [True, False, False, True]
    assert history[-1][0].split()[-2] in ("withdrawn", "superseded")


def test_a_conflict_of_another_id_with_the_same_subject_goes_on(every: list[Rule]) -> None:
    """Nothing is escaped in a subject: source `a`, id `b|event:e` reads as source `a|event:b`, id `e`."""
    subject = "source:a|event:b|event:e2"
    both = [Firing(CONFLICT, subject, n, t=5, source=source) for n, source in ((1, "a"), (2, "a|event:b"))]
    events, history = life(every, (Step(both), 1), (Step(ids=[("a|event:b", "e2")]), 1), (Step(), 10))
    assert events == [
        [f"{subject} 1 provisional", f"{subject} 2 provisional"],
        [f"{subject} 2 withdrawn"],
        [f"{subject} 1 confirmed"],
    ]
    assert history[-1] == [f"{subject} 3 confirmed 1"]


def test_nothing_takes_a_rejection_back(every: list[Rule]) -> None:
    found = Step([Firing(REJECTED, "topic:t|reason:not_json", 1, at_once=True)])
    judged = Step(row=[1], chain=[1], ids=[("s", "e1")], subject=[(REJECTED, "topic:t|reason:not_json")])
    events, history = life(every, (found, None), (judged, None))
    assert events == [["topic:t|reason:not_json 1 confirmed"], []]
    assert history == [["topic:t|reason:not_json 1 confirmed 1"], []]


def test_a_source_that_never_spoke_has_a_finding_without_events(every: list[Rule]) -> None:
    engine = Engine(every)
    engine.take(Step([Firing(SILENT, "source:s|since:x", None, at_once=True)]))
    emission = engine.settle(None, 0)
    (row,) = emission.history.to_pylist()
    assert emission.events.num_rows == 0
    assert (row["state"], row["events"], row["first_at"], row["evidence"]) == ("confirmed", 0, None, [])


def test_what_a_worker_wrote_is_not_written_again_and_ends_when_it_is_judged_otherwise(
    every: list[Rule],
) -> None:
    written = Step(workers=[Firing(ROW, "a", 1, t=10), Firing(ROW, "b", 2, t=20)], new=[1, 2])
    events, history = life(every, (written, 5), (Step(row=[1]), 10), (Step(), 20))
    assert events == [[], ["a 1 withdrawn"], ["b 2 confirmed"]]
    assert history == [
        ["a 1 provisional 1", "b 1 provisional 1"],
        ["a 2 withdrawn 1"],
        ["b 2 confirmed 1"],
    ]


def test_what_a_worker_wrote_of_a_duplicate_counts_nowhere(every: list[Rule]) -> None:
    step = Step(workers=[Firing(ROW, "a", 1, t=10), Firing(ROW, "a", 2, t=10)], new=[1])
    assert life(every, (step, 20)) == ([["a 1 confirmed"]], [["a 1 confirmed 1"]])


@pytest.mark.parametrize("watermark", [0, 10])
def test_an_event_that_turns_out_a_duplicate_leaves_its_findings_without_a_word(
    every: list[Rule], watermark: float
) -> None:
    found = Step([Firing(ROW, "a", 1, t=1), Firing(ROW, "a", 2, t=2), Firing(ROW, "b", 2, t=2)])
    events, history = life(every, (found, watermark), (Step(gone=[2]), watermark))
    assert events[1] == []
    assert [line.split()[2:] for line in history[1]] in (
        [["provisional", "1"], ["withdrawn", "1"]],
        [["confirmed", "1"], ["superseded", "1"]],
    )


def test_events_added_are_told_once_a_minute_and_the_last_at_the_end(every: list[Rule]) -> None:
    engine = Engine(every)
    told = []
    for number in range(10):
        engine.take(Step([Firing(ROW, "a", number, t=number)]))
        told.append(history_lines(engine.settle(100, at=number * 0.25)))
    told.append(history_lines(engine.settle(100, at=2.5, final=True)))
    told.append(history_lines(engine.settle(100, at=9, final=True)))
    expected = {
        0: ["a 1 confirmed 1"],
        4: ["a 2 confirmed 5"],
        8: ["a 3 confirmed 9"],
        10: ["a 4 confirmed 10"],
    }
    assert told == [expected.get(number, []) for number in range(12)]


def test_an_addition_that_is_taken_back_within_the_minute_is_not_told(every: list[Rule]) -> None:
    engine = Engine(every)
    engine.take(Step([Firing(ROW, "a", 1, t=1)]))
    engine.settle(0, 0)
    engine.take(Step([Firing(ROW, "a", 2, t=2)]))
    assert history_lines(engine.settle(0, 0.1)) == []
    engine.take(Step(row=[2]))
    emission = engine.settle(0, 0.2, final=True)
    assert event_lines(emission) == ["a 2 withdrawn"]
    assert history_lines(emission) == []


def attributes(every: list[Rule], *steps: Step) -> dict[str, Any]:
    engine = Engine(every)
    for step in steps:
        engine.take(step)
        emission = engine.settle(100, 0, final=True)
    (row,) = emission.history.to_pylist()
    return row


def test_a_row_says_what_its_events_agree_on(every: list[Rule]) -> None:
    one = Firing(ROW, "a", 3, t=5, party="P", allocation="A")
    row = attributes(every, Step([one, Firing(ROW, "a", 2, t=7, party="P", allocation="B")]))
    assert (row["party_id"], row["allocation_id"], row["events"]) == ("P", None, 2)
    assert (row["first_at"], row["last_at"]) == (minute(5), minute(7))
    assert [item["event_id"] for item in row["evidence"]] == ["e2", "e3"]
    assert row["finding_id"] == finding_id(ROW, "a")
    assert (row["message"], row["severity"]) == ("a over 100 bytes", "high")
    assert row["known"] == [{"topic": "custody.party", "partition": 0, "offset": 7}]
    later = attributes(every, Step([one]), Step([Firing(ROW, "a", 4, t=1, party=None, allocation="A")]))
    assert (later["party_id"], later["allocation_id"], later["first_at"]) == (None, "A", minute(1))


def test_evidence_is_the_first_hundred_by_offset_whenever_they_came(every: list[Rule]) -> None:
    parts = [Step([Firing(ROW, "a", offset, t=1) for offset in range(n, 300, 3)]) for n in (1, 0, 2)]
    row = attributes(every, *parts)
    assert row["events"] == 300
    assert [item["offset"] for item in row["evidence"]] == list(range(100))
    gone = attributes(every, *parts, Step(gone=range(50)))
    assert gone["events"] == 250
    assert [item["offset"] for item in gone["evidence"]] == list(range(50, 150))


@pytest.mark.parametrize("watermark", [0, 10])
def test_a_party_that_becomes_known_is_a_new_revision(every: list[Rule], watermark: float) -> None:
    engine = Engine(every)
    engine.take(Step([Firing(ROW, "a", 1, t=1), Firing(HOLE, "h", 1, t=1)]))
    state = "confirmed" if watermark else "provisional"
    assert event_lines(engine.settle(watermark, 0)) == [f"a 1 {state}", f"h 1 {state}"]
    engine.take(Step(party={1: "P"}))
    emission = engine.settle(watermark, 60)
    assert [(row["subject"], row["party_id"], row["state"]) for row in emission.events.to_pylist()] == [
        ("a", "P", state)
    ]
    assert [(row["party_id"], row["revision"]) for row in emission.history.to_pylist()] == [("P", 2)]
    engine.take(Step([Firing(ROW, "a", 1, t=1, party="P")], row=[1], party={1: "P"}))
    assert engine.settle(watermark, 120, final=True).events.num_rows == 0


def test_experimental_rules_are_recorded_and_not_published(every: list[Rule]) -> None:
    engine = Engine(every)
    engine.take(Step([Firing(ROW, "a", 1, t=1), Firing(TRIAL, "a", 1, t=1)]))
    emission = engine.settle(0, 0)
    assert emission.published.to_pylist() == [True, False]
    assert emission.history["rule_id"].to_pylist() == [ROW, TRIAL]


def test_open_findings_are_counted_by_rule_and_severity(every: list[Rule]) -> None:
    engine = Engine(every)
    engine.take(Step([Firing(ROW, "a", 1, t=1), Firing(ROW, "b", 2, t=2), Firing(CHAIN, "a", 2, t=2)]))
    engine.settle(1, 0)
    assert findings.open_counts(engine.con) == [(ROW, "high", 2), (CHAIN, "high", 1)]
    engine.take(Step(row=[1], chain=[2]))
    engine.settle(1, 0)
    assert findings.open_counts(engine.con) == [(ROW, "high", 1), (CHAIN, "high", 0)]


def test_what_a_rule_found_that_nobody_judges_any_more_stays_as_it_was_said(every: list[Rule]) -> None:
    engine = Engine(every)
    engine.take(Step([Firing(ROW, "a", 1, t=10), Firing(ROW, "later", 2, t=10, due=10)]))
    first = engine.settle(0, 0).history.to_pylist()
    findings.create(engine.con, [rule for rule in every if rule.id != ROW])
    engine.take(Step(row=[1, 2]))
    emission = engine.settle(10, 1)
    assert history_lines(emission) == ["a 2 confirmed 1"]
    for name in ("message", "rule_sha256", "severity"):
        assert emission.history[name].to_pylist() == [first[0][name]] == emission.events[name].to_pylist()


def test_a_rule_that_only_workers_know_keeps_their_words(every: list[Rule]) -> None:
    engine = Engine([rule for rule in every if rule.id != ROW])
    engine.take(Step(workers=[Firing(ROW, "a", 1, t=10)], new=[1], row=[1]))
    (row,) = engine.settle(0, 0).history.to_pylist()
    assert (row["message"], row["rule_sha256"], row["severity"]) == ("other words", "other", "low")


class Lake:
    """What was put out: the latest row of each event and of each finding."""

    def __init__(self) -> None:
        self.events: dict[tuple[str, int], dict[str, Any]] = {}
        self.history: dict[str, dict[str, Any]] = {}

    def take(self, step: Step) -> None:
        """What workers wrote of a step's new events, and which events turned out to be duplicates."""
        for firing in step.workers:
            row = firing.worker_row
            self.events[str(row["finding_id"]), int(str(row["offset"]))] = row
        for place in [place for place in self.events if place[1] in step.gone]:
            del self.events[place]

    def add(self, emission: findings.Emission, at: float) -> None:
        """Takes what a step put out, and holds it against what is there."""
        for row in emission.events.to_pylist():
            place = row["finding_id"], row["offset"]
            before = self.events.get(place, {"state": "withdrawn", "party_id": None})
            assert (row["state"], row["party_id"]) != (before["state"], before["party_id"])
            assert before["state"] in BEFORE[row["state"]]
            self.events[place] = row
        for row in emission.history.to_pylist():
            last = self.history.get(row["finding_id"], {"revision": None, "state": "withdrawn"})
            assert row["supersedes"] == last["revision"]
            assert row["revision"] == (last["revision"] or 0) + 1
            assert row["state"] in ("provisional", "confirmed") or last["state"] in BEFORE[row["state"]]
            self.history[row["finding_id"]] = row | {"ingested_at": minute(at)}

    def tables(self) -> tuple[pa.Table, pa.Table]:
        return (
            pa.Table.from_pylist(list(self.events.values()), FINDING_EVENT),
            pa.Table.from_pylist(list(self.history.values()), FINDING_HISTORY),
        )


ENDED = {"withdrawn", "superseded"}
BEFORE = {
    "provisional": {"provisional", *ENDED},
    "confirmed": {"provisional", "confirmed", *ENDED},
    "withdrawn": {"provisional"},
    "superseded": {"confirmed"},
}
"""State of an event → the states that may come before it."""

TIMES = (3, 1, 4, 1, 5, 9)  # minutes, of the events with offsets 0 to 5
NEVER_SPOKE = (SILENT, "source:s|since:x", None)
DUE: dict[tuple[str, str], Callable[[float], float | None]] = {
    (ROW, "a"): lambda t: None,
    (ROW, "b"): lambda t: t if t == 1 else None,
    (CHAIN, "a"): lambda t: t + 3,
    (CHAIN, "c"): lambda t: t,
    (TRIAL, "a"): lambda t: None,
}
"""What may fire → when that is due, by the time of its event; of one event it never changes."""

Truth = dict[tuple[str, str, int | None], Firing]


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Step, float | None, bool]]:
    """Steps that belong together, each with the watermark after it, and whether it is settled."""
    ahead, here, gone = list(range(len(TIMES))), set[int](), set[int]()
    watermark: float | None = None
    steps = []
    for _ in range(draw(st.integers(1, 5))):
        new = [ahead.pop(0) for _ in range(draw(st.integers(0, min(3, len(ahead)))))]
        here |= set(new)
        judged = {offset for offset in sorted(here - gone) if draw(st.booleans())}
        leaving = {
            offset for offset in sorted(here - gone - judged - set(new)) if draw(st.integers(0, 4)) == 0
        }
        gone |= leaving
        party = {offset: draw(st.sampled_from([None, "P", "Q"])) for offset in sorted(judged)}
        found = [
            Firing(rule, subject, offset, TIMES[offset], DUE[rule, subject](TIMES[offset]), party[offset])
            for offset in sorted(judged)
            for rule, subject in DUE
            if draw(st.booleans())
        ]
        if draw(st.booleans()):
            found.append(Firing(*NEVER_SPOKE, at_once=True))
        workers = [
            Firing(rule, subject, offset, TIMES[offset])
            for offset in new
            for rule, subject in DUE
            if rule == ROW and draw(st.booleans())
        ]
        step = Step(found, workers, new, judged, judged, [NEVER_SPOKE[:2]], (), leaving, party)
        if draw(st.booleans()):
            watermark = (watermark or 0) + draw(st.integers(0, 4))
        steps.append((step, watermark, draw(st.integers(0, 3)) > 0))
    return steps


def truth(steps: list[Step]) -> Truth:
    """What holds after the steps."""
    holding: Truth = {}
    for step in steps:
        for firing in step.workers:
            holding[firing.rule, firing.subject, firing.offset] = firing
        ended = {*step.row, *step.gone, None}
        holding = {place: firing for place, firing in holding.items() if place[2] not in ended}
        holding |= {(firing.rule, firing.subject, firing.offset): firing for firing in step.found}
    return holding


def expected(holding: Truth, watermark: float | None) -> dict[str, tuple[Any, ...]]:
    """Finding id → (state, events, first, last, party, offsets) of what is open."""
    reached = -1.0 if watermark is None else watermark
    counting = [firing for firing in holding.values() if firing.due is None or firing.due <= reached]
    result = {}
    for rule, subject in {(firing.rule, firing.subject) for firing in counting}:
        mine = [firing for firing in counting if (firing.rule, firing.subject) == (rule, subject)]
        confirmed = any(firing.at_once or (firing.t or 0) <= reached for firing in mine)
        times = [firing.t for firing in mine if firing.t is not None]
        parties = {firing.party for firing in mine}
        result[finding_id(rule, subject)] = (
            "confirmed" if confirmed else "provisional",
            len(times),
            minute(min(times)) if times else None,
            minute(max(times)) if times else None,
            parties.pop() if len(parties) == 1 else None,
            sorted(firing.offset for firing in mine if firing.offset is not None),
        )
    return result


def open_rows(lake: Lake) -> dict[str, tuple[Any, ...]]:
    return {
        name: (
            *(row[column] for column in ("state", "events", "first_at", "last_at", "party_id")),
            [item["offset"] for item in row["evidence"]],
        )
        for name, row in lake.history.items()
        if row["state"] not in ENDED
    }


@settings(max_examples=12)
@given(history=histories())
def test_however_the_steps_are_cut_the_lake_ends_with_what_holds(
    every: list[Rule], history: list[tuple[Step, float | None, bool]]
) -> None:
    engine, standby, lake = Engine(every), Engine(every), Lake()
    for number, (step, watermark, settled) in enumerate(history):
        at = number * 0.4
        for one in (engine, standby):
            one.take(step)
        lake.take(step)
        if settled:
            emission = engine.settle(watermark, at)
            lake.add(emission, at)
            stamp = pa.repeat(pa.scalar(minute(at), TIME), emission.history.num_rows)
            findings.absorb_lake(
                standby.con, emission.events, emission.history.append_column("ingested_at", stamp)
            )
    rebuilt = Engine(every)
    for step, _, _ in history:
        rebuilt.take(step)
    findings.absorb_lake(rebuilt.con, *lake.tables())

    watermark, at = history[-1][1], len(history) * 0.4
    last = engine.settle(watermark, at, final=True)
    lake.add(last, at)
    for other in (standby, rebuilt):
        again = other.settle(watermark, at, final=True)
        assert again.events.to_pylist() == last.events.to_pylist()
        assert again.history.to_pylist() == last.history.to_pylist()
        assert dict_of(other) == dict_of(engine)

    holding = truth([step for step, _, _ in history])
    assert open_rows(lake) == expected(holding, watermark)
    counted = {place for place, row in lake.events.items() if row["state"] not in ENDED}
    assert counted == {
        (name, offset) for name, row in expected(holding, watermark).items() for offset in row[-1]
    }
    nothing = engine.settle(watermark, at + 9, final=True)
    assert (nothing.events.num_rows, nothing.history.num_rows) == (0, 0)


def dict_of(engine: Engine) -> dict[tuple[str, str], int]:
    """Open findings by rule and severity, where there are any."""
    return {(rule, severity): n for rule, severity, n in findings.open_counts(engine.con) if n}

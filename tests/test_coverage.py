"""Coverage: hand-worked timelines, and any events in any steps and order against a plain loop."""

from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.reconciler import coverage, coverage_calls, coverage_events, coverage_open
from schemas.reference import PARTY
from tests.coverage_model import RECORDS, Engine, Event, World, by_site, pieces
from tests.test_references import histories
from tests.versions_model import Version

DEFAULTS: dict[str, dict[str, Any]] = {
    "allocation": {
        "action": "allocated",
        "party_id_sent": "P1",
        "principal": None,
        "authorization_id": "A1",
        "model": "H100",
        "accelerators": 8,
        "serials": None,
        "requested_by": None,
    },
    "access": {"action": "opened", "method": "direct"},
    "placement": {"action": "started", "workload_id": "w1", "site_id": "S1"},
}

VERSIONS: World = {
    "party": [Version("P1", 1, 0, None, 0, 0, {"status": "verified"})],
    "principal": [Version("B1", 1, 0, None, 0, 0, {"principal": "r:a", "party_id": "P1"})],
    "authorization": [
        Version("A1", 1, 0, None, 0, 0, {"party_ids": None, "models": None, "site_ids": ["S1"]})
    ],
    "site": [Version("S1", 1, 0, None, 0, 0)],
}

_numbers = count()


def event(stream: str, t: int, **fields: Any) -> Event:
    number = next(_numbers)
    common = {"stream": stream, "t": t, "allocation_id": "X", "source": "s", "partition": 0, "offset": number}
    return {**common, "event_id": f"e{number}", **DEFAULTS[stream], **fields}


def told(engine: Engine) -> list[tuple[int, int, str]]:
    """(from, to, reasons) of each piece as the lake's readers see it."""
    return [(row["from_at"], row["to_at"], " ".join(row["reasons"])) for row in engine.seen()]


def run(*events: Event, now: int, versions: World = VERSIONS) -> list[tuple[int, int, str]]:
    engine = Engine()
    engine.step(list(events), now, versions)
    assert engine.seen() == pieces(list(events), versions, now)
    return told(engine)


def test_an_allocation_gathers_its_links_piece_by_piece() -> None:
    assert run(
        event("allocation", 10),
        event("placement", 12),
        event("access", 15),
        event("access", 18, action="closed"),
        event("placement", 20, action="stopped"),
        event("allocation", 30, action="released"),
        now=40,
    ) == [(10, 12, "how where"), (12, 15, ""), (15, 18, ""), (18, 20, ""), (20, 30, "where")]


def test_an_access_counts_up_to_the_end_of_the_piece_and_not_before_it_was_allocated() -> None:
    early = event("access", 9)
    assert run(early, event("allocation", 10), event("placement", 10), now=20) == [(10, 20, "how")]
    assert run(event("allocation", 10), event("access", 20), now=20) == [(10, 20, "where")]
    without = (event("access", 10, method=None), event("access", 10, action="denied"))
    assert run(event("allocation", 10), *without, now=20) == [(10, 20, "how where")]
    assert run(event("allocation", 10, requested_by="x"), now=20) == [(10, 20, "where")]


def test_another_allocated_event_takes_over_and_a_release_is_whole() -> None:
    again = event("allocation", 15, model="H20", authorization_id=None, accelerators=None, serials=["a", "b"])
    events = [event("allocation", 10, requested_by="x"), again, event("placement", 10)]
    assert run(*events, now=20) == [(10, 15, ""), (15, 20, "how")]
    released = event("allocation", 15, action="released")
    assert run(*events, released, now=20) == [(10, 15, "")]
    assert run(*events, released, event("allocation", 17), now=20) == [(10, 15, ""), (17, 20, "how")]


def test_an_authorization_must_cover_every_site_in_effect_known_or_not() -> None:
    second = event("placement", 12, workload_id="w2", site_id="S2")
    end = event("placement", 14, workload_id="w2", action="stopped")
    base = [event("allocation", 10, requested_by="x"), event("placement", 11)]
    expected = [(10, 11, "where"), (11, 12, ""), (12, 14, "under_what"), (14, 20, "")]
    assert run(*base, second, end, now=20) == expected
    second = {**second, "site_id": None}
    assert run(*base, second, end, now=20) == expected


def test_the_site_is_that_of_the_latest_placement_at_a_known_site() -> None:
    versions = {**VERSIONS, "site": [Version(f"S{n}", 1, 0, None, 0, n) for n in (1, 2)]}
    engine = Engine()
    engine.step(
        [
            event("allocation", 10),
            event("placement", 11, site_id="S1"),
            event("placement", 12, workload_id="w2", site_id="S2"),
            event("placement", 13, workload_id="w3", site_id="nowhere"),
            event("placement", 14, workload_id="w2", action="stopped"),
        ],
        20,
        versions,
    )
    assert [row["site_id"] for row in engine.seen()] == [None, "S1", "S2", "S2", "S1"]


def test_a_piece_that_runs_is_written_when_it_starts_and_when_nothing_follows_it() -> None:
    engine = Engine()
    written = engine.step([event("allocation", 10)], 10, VERSIONS)
    assert written == []  # it has no length yet
    (row,) = engine.step([], 12)
    assert (row["from_at"], row["to_at"], row["open"], row["replaces_from"]) == (10, 12, True, None)
    assert engine.step([event("allocation", 25, action="released")], 20) == []
    assert told(engine) == [(10, 20, "how where")]
    (row,) = engine.step([], 30)
    assert (row["from_at"], row["to_at"], row["open"], row["replaces_from"]) == (10, 25, False, 10)
    assert engine.step([], 40) == []


def test_a_piece_that_another_follows_is_not_written_again_unless_an_access_shows_how() -> None:
    engine = Engine()
    engine.step([event("allocation", 10), event("placement", 12)], 15, VERSIONS)
    (row,) = engine.step([event("placement", 20)], 30)  # with an event of another kind
    assert (row["from_at"], row["open"], row["replaces_from"]) == (20, True, None)
    first, second = engine.step([event("access", 35)], 40)  # the piece before it has an access at its end
    assert (first["from_at"], first["to_at"], first["replaces_from"]) == (20, 35, 20)
    assert (second["from_at"], second["open"], second["replaces_from"]) == (35, True, None)
    (row,) = engine.step([event("access", 45, action="call")], 50)  # with an access alone
    assert (row["from_at"], row["open"], row["replaces_from"]) == (45, True, None)
    assert told(engine) == [(10, 12, "how where"), (12, 20, "how"), (20, 35, ""), (35, 45, ""), (45, 50, "")]
    first, second = engine.step(
        [event("allocation", 55, action="released"), event("allocation", 57, party_id_sent="P2")], 60
    )
    assert (first["from_at"], first["to_at"], first["open"], first["replaces_from"]) == (45, 55, False, 45)
    assert (second["from_at"], second["open"], second["replaces_from"]) == (57, True, None)


def test_what_reaches_back_replaces_only_what_it_touches() -> None:
    engine = Engine()
    engine.step([event("allocation", 10), event("placement", 12), event("placement", 20)], 30, VERSIONS)
    rows = engine.step([event("access", 14)], 30)
    assert [(row["from_at"], row["replaces_from"]) for row in rows] == [(12, 12), (14, None), (20, None)]
    assert told(engine) == [(10, 12, "how where"), (12, 14, ""), (14, 20, ""), (20, 30, "")]
    suspended = Version("P1", 2, 15, None, 0, 1, {"status": "suspended"})
    rows = engine.step([], 30, {"party": [suspended]})
    assert rows[0]["replaces_from"] == 14
    assert told(engine)[-2:] == [(14, 20, ""), (20, 30, "who")]


def test_an_allocation_that_ceases_to_exist_leaves_nothing() -> None:
    engine = Engine()
    allocated = event("allocation", 10)
    engine.step([allocated, event("allocation", 20, action="released")], 30, VERSIONS)
    (row,) = engine.step([], 30, gone=[allocated])
    assert (row["from_at"], row["reasons"], row["replaces_from"]) == (None, None, 10)
    assert engine.seen() == [] and engine.coverage.ratios() == {}


def test_a_version_from_after_its_start_leaves_a_running_piece_alone() -> None:
    engine = Engine()
    engine.step([event("allocation", 10)], 30, VERSIONS)
    assert engine.step([], 31, {"party": [Version("P1", 2, 15, None, 0, 1, {"status": "suspended"})]}) == []


def test_numbers_beyond_reason_do_not_overflow() -> None:
    engine = Engine()
    most = 2**63 - 1
    engine.step(
        [event("allocation", 0, accelerators=most, allocation_id=str(n)) for n in range(3)], 2**57, VERSIONS
    )
    assert engine.seen()[0]["accelerators"] == most
    assert engine.coverage.ratios() == {"unknown": 0.0}


times = st.integers(0, 9)
common = {
    "t": times,
    "allocation_id": st.sampled_from(["X", "X", "Y", None]),
    "source": st.sampled_from(["s", "\u00e9"]),
    "event_id": st.sampled_from(["a", "b"]),
    "partition": st.integers(0, 1),
}
shapes: dict[str, st.SearchStrategy[Event]] = {
    "allocation": st.fixed_dictionaries(
        {
            **common,
            "allocation_id": st.sampled_from(["X", "Y"]),
            "action": st.sampled_from(["allocated", "allocated", "released"]),
            "party_id_sent": st.sampled_from([None, "P1", "P2", "P9"]),
            "principal": st.sampled_from([None, "r:a", "r:b"]),
            "authorization_id": st.sampled_from([None, "A1", "A2", "A9"]),
            "model": st.sampled_from([None, "H100", "nvidia h100", "H20", "Z 1"]),
            "accelerators": st.sampled_from([None, 0, 4]),
            "serials": st.sampled_from([None, [], ["a", "b"]]),
            "requested_by": st.sampled_from([None, None, "x"]),
        }
    ),
    "access": st.fixed_dictionaries(
        {
            **common,
            "action": st.sampled_from(["opened", "call", "denied", "closed"]),
            "method": st.sampled_from([None, "direct"]),
        }
    ),
    "placement": st.fixed_dictionaries(
        {
            **common,
            "action": st.sampled_from(["started", "moved", "stopped"]),
            "workload_id": st.sampled_from(["w1", "w2", "w3"]),
            "site_id": st.sampled_from([None, "S1", "S2", "S9"]),
        }
    ),
}
some_events: st.SearchStrategy[list[Event]] = st.lists(
    st.sampled_from(list(shapes)).flatmap(lambda stream: st.tuples(st.just(stream), shapes[stream])),
    max_size=14,
).map(
    lambda found: [
        {"stream": stream, "offset": offset, **fields} for offset, (stream, fields) in enumerate(found)
    ]
)
some_versions = st.fixed_dictionaries(
    {
        "party": histories(
            ["P1", "P2"], st.fixed_dictionaries({"status": st.sampled_from(["verified", "pending"])})
        ),
        "principal": histories(
            ["B1", "B2"],
            st.fixed_dictionaries(
                {"principal": st.sampled_from(["r:a", "r:b"]), "party_id": st.sampled_from(["P1", "P2"])}
            ),
        ),
        "authorization": histories(
            ["A1", "A2"],
            st.fixed_dictionaries(
                {
                    "party_ids": st.sampled_from([None, [], ["P2", "P1"], ["P1"]]),
                    "models": st.sampled_from([None, [], ["NVIDIA H100"], ["z-1", "x"]]),
                    "site_ids": st.sampled_from([None, [], ["S1"], ["S2", "S1"]]),
                }
            ),
        ),
        "site": histories(["S1", "S2"], st.just({})),
    }
)


@settings(max_examples=30)
@given(some_events, some_versions, st.integers(0, 10))
def test_one_step_gives_what_a_plain_loop_gives(events: list[Event], versions: World, now: int) -> None:
    engine = Engine()
    engine.step(events, now, versions)
    expected = pieces(events, versions, now)
    assert engine.seen() == expected
    assert engine.coverage.ratios() == pytest.approx(by_site(expected))


@settings(max_examples=20)
@given(some_events, some_versions, st.data())
def test_any_steps_in_any_order_give_what_a_plain_loop_gives(
    events: list[Event], versions: World, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coverage_open, "LEAST", data.draw(st.sampled_from([-100, 0, 10_000])))
        patch.setattr(coverage_open, "AT_ONCE", data.draw(st.sampled_from([1, 1000])))
        patch.setattr(coverage_calls, "CHUNK", data.draw(st.sampled_from([1, 1000])))
        _any_steps(events, versions, data)


def _any_steps(events: list[Event], versions: World, data: st.DataObject) -> None:
    engine = Engine()
    waiting = data.draw(st.permutations(events))
    arriving = data.draw(
        st.permutations([(name, version) for name, added in versions.items() for version in added])
    )
    gone = data.draw(st.lists(st.sampled_from(events), max_size=2, unique_by=id)) if events else []
    now: int | None = None
    while waiting or arriving or gone:
        size = data.draw(st.integers(1, 12))
        new, waiting = waiting[:size], waiting[size:]
        added, arriving = arriving[:size], arriving[size:]
        ending = [event for event in gone if event in engine.events and data.draw(st.booleans())]
        gone = [event for event in gone if event not in ending]
        if data.draw(st.booleans()):
            now = data.draw(st.integers(now or 0, 10))
        world: World = {name: [v for kind, v in added if kind == name] for name in RECORDS}
        noted = data.draw(st.integers(0, 4)) == 0
        again = data.draw(st.sampled_from(["in memory", "read again", "rolled back"]))
        if again == "read again":
            engine.coverage.forget()
        engine.step(new, now, world, ending, noted, rolled_back=again == "rolled back")
        if not noted and now is not None:
            expected = pieces(engine.events, engine.world, now)
            assert engine.seen() == expected
            assert engine.coverage.ratios() == pytest.approx(by_site(expected))


def test_memory_is_bounded_by_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [event("allocation", n, allocation_id=str(n)) for n in range(9)]
    events += [event("access", n + 1, allocation_id=str(n)) for n in range(9)]
    monkeypatch.setattr(coverage_events, "CHUNK", 4)
    engine = Engine()
    engine.step(events, 20, VERSIONS)
    assert engine.seen() == pieces(events, VERSIONS, 20)
    assert len(engine.seen()) == 18


def test_an_access_at_the_watermark_begins_a_piece_once_that_has_a_length() -> None:
    allocation, access = event("allocation", 0), event("access", 8)
    engine = Engine()
    engine.step([allocation], 5, VERSIONS)
    engine.step([access], 8)
    assert engine.seen() == pieces([allocation, access], VERSIONS, 8)
    assert len(engine.seen()) == 1
    engine.step([], 12)
    assert engine.seen() == pieces([allocation, access], VERSIONS, 12)
    assert len(engine.seen()) == 2


def test_what_is_logged_in_parts_is_read_again_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_open, "AT_ONCE", 2)
    events = [event("allocation", n, allocation_id=str(n)) for n in range(9)]
    later = [event("access", n + 11, allocation_id=str(n)) for n in range(9)]
    engine = Engine()
    engine.step(events, 10, VERSIONS)
    engine.coverage.forget()
    engine.step(later, 30)
    assert engine.seen() == pieces([*events, *later], VERSIONS, 30)
    assert len(engine.seen()) == 18


def test_columns_are_those_that_references_know() -> None:
    assert {"P.status"} <= coverage.COLUMNS
    assert PARTY.by_name["status"].required

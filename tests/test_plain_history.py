"""The plain implementation against answers worked out by hand: rules that look at more than one event.

Each case is a few lines of input, and what the contract's section 4 says of them, read without the code.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.chains import generate_chains
from tests.plain.history import judge_all
from tests.plain.judge import ROW_RULES
from tests.plain.values import time
from tests.written import Answer, Written

UNKNOWN = "gap.identity.unknown"
CONFLICT = "gap.source.id_conflict"
NO_PLACEMENT = "gap.location.no_placement"
AFTER_RELEASE = "flag.access.after_release"
NO_ALLOCATION = "gap.access.no_allocation"
SERIALS_DIFFER = "gap.location.serials_differ"
MISMATCH = "flag.identity.access_party_mismatch"
EXCEEDED = "flag.authorization.quantity_exceeded"
DOUBLE = "flag.procurement.serial_double_allocated"
REJECTED = "gap.source.rejected"


def test_duplicates_are_equal_records_of_one_stream(tmp_path: Path) -> None:
    written = Written()
    written.allocated("a", "09", serials=["1", "2"])  # allocation/0
    written.allocated("a", "09:00:00.000000999", serials=["1", "2"], model="", node=None, unknown=7)
    written.allocated("a", "09", serials=["2", "1"])  # the order counts
    written.allocated("b", "09", serials=[])
    written.allocated("b", "09")
    written.allocated("a", "09", serials=["2", "1"])
    written.access("c", "09")
    written.placed("c", "09")
    answer = written.judge(tmp_path)
    assert answer.duplicates() == {
        ("allocation/1", "allocation/0"),
        ("allocation/4", "allocation/3"),
        ("allocation/5", "allocation/2"),
    }
    assert answer.history.findings[CONFLICT, "source:s|event:a"].events.keys() == {
        ("custody.allocation", 0),
        ("custody.allocation", 2),
    }
    assert answer.rule(CONFLICT).keys() == {"source:s|event:a", "source:s|event:c"}  # c: in another stream


def test_conflicts_lie_within_seven_days_of_each_other(tmp_path: Path) -> None:
    written = Written()
    for event_id, days in [("a", [1, 8]), ("c", [1, 9, 10]), ("d", [1, 7, 13])]:
        for day in days:
            written.access(event_id, f"2026-03-{day:02} 09")
    written.access("b", "2026-03-01 09")
    written.access("b", "2026-03-08 09:00:00.000001")
    written.access("e", "2026-03-01 09", source="s")
    written.access("e", "2026-03-01 09", source="S")
    assert {subject: len(events) for subject, events in written.judge(tmp_path).rule(CONFLICT).items()} == {
        "source:s|event:a": 2,
        "source:s|event:c": 2,  # the 9th and the 10th
        "source:s|event:d": 3,  # each has one within 7 days
    }


def test_the_allocated_event_in_effect_is_the_greatest_by_source_and_event_id(tmp_path: Path) -> None:
    """～ is U+FF5E and comes before U+1F642, though not in UTF-16."""
    written = Written()
    written.party("P")
    for event_id, source, party in [("1", "～", "P-1"), ("0", "\U0001f642", "P"), ("2", "～", "P-2")]:
        written.allocated(event_id, "09", source=source, party_id=party)
    written.access("x", "09", authorization_id="A")
    found = written.judge(tmp_path).history.findings
    assert found["gap.authorization.not_in_force", "authorization:A"].party_id == "P"


class TestThroughTheAllocation:
    """Section 3.2."""

    def test_the_party_is_the_allocations_at_the_events_time(self, tmp_path: Path) -> None:
        written = Written()
        written.party("P", valid_to="10")
        written.party("P", version=2, valid_from="10", status="suspended")
        written.version("principal", binding_id="b", principal="u", party_id="P")
        written.allocated("a", "09", principal="u")
        written.access("early", "09:59")
        written.access("late", "10")
        written.released("r", "11")
        written.access("after", "11:30")
        written.access("own", "10", principal="v")  # names a principal: the allocation is not asked
        answer = written.judge(tmp_path)
        assert answer.rule("flag.identity.not_verified") == {"party:P": ["late", "after", "r"]}
        assert answer.rule(UNKNOWN) == {"principal:v": ["own"]}

    def test_an_unknown_party_is_a_finding_once_the_watermark_is_there(self, tmp_path: Path) -> None:
        written = Written()
        written.access("before", "08:59")
        written.allocated("a", "09")  # names nobody
        written.access("x", "09")
        written.access("none", "09", allocation_id="Y")
        written.access("alone", "09:30", allocation_id=None)
        answer = written.judge(tmp_path)
        assert answer.rule(UNKNOWN) == {
            "allocation:X": ["before", "x", "a"],
            "allocation:Y": ["none"],
            "event:s/alone": ["alone"],
        }

    @pytest.mark.parametrize(("last", "decided"), [("09:09:59.999999", False), ("09:10", True)])
    def test_undecided_until_then(self, tmp_path: Path, last: str, decided: bool) -> None:
        written = Written()
        written.access("x", "09", allocation_id="Y")
        written.access("y", last, "closed", principal="u")
        answer = written.judge(tmp_path, last)
        assert ("allocation:Y" in answer.rule(UNKNOWN)) == decided

    def test_with_an_allocation_it_opens_at_once(self, tmp_path: Path) -> None:
        written = Written()
        written.allocated("a", "09", party_id="P")
        written.access("x", "09")
        assert written.judge(tmp_path, "09").states(UNKNOWN) == {"party:P": "provisional"}
        assert written.judge(tmp_path, "09").rule(UNKNOWN) == {"party:P": ["x", "a"]}

    def test_the_authorization_is_taken_alone_too(self, tmp_path: Path) -> None:
        written = Written()
        written.party("P")
        written.party("Q")
        written.version("authorization", authorization_id="A", methods=["direct"], party_ids=["P"])
        written.allocated("a", "09", party_id="P", authorization_id="A")
        written.access("x", "10", method="remote", party_id="Q")
        written.access("y", "10", method="remote", party_id="Q", allocation_id="Z")
        written.access("z", "10", method="remote", party_id="Q", authorization_id="B")
        answer = written.judge(tmp_path)
        assert answer.rule("flag.access.method_outside_authorization") == {
            "authorization:A|method:remote": ["x"]
        }
        assert answer.rule("flag.authorization.party_not_covered") == {"authorization:A|party:Q": ["x"]}
        assert answer.rule("gap.authorization.not_in_force") == {"authorization:B": ["z"]}
        assert answer.rule(UNKNOWN) == {}

    def test_what_fired_at_landing_keeps_its_subject(self, tmp_path: Path) -> None:
        written = Written()
        written.party("P")
        written.allocated("a", "09", party_id="P")
        written.access("x", "10", method="brokered")
        answer = written.judge(tmp_path)
        assert answer.rule("gap.access.broker_unnamed") == {"allocation:X": ["x"]}
        # The party it was judged with is P all the same.
        assert answer.history.findings["gap.access.broker_unnamed", "allocation:X"].party_id == "P"
        assert answer.history.scanned.events["custody.access", 0][1].verdicts == ["gap.access.broker_unnamed"]

    def test_a_completed_row_says_what_the_allocation_names(self, tmp_path: Path) -> None:
        written = Written()
        written.party("P")
        written.allocated("a", "09", party_id="P")
        written.access("x", "10", broker_id="B", source_country="hk")
        answer = written.judge(tmp_path)
        assert answer.rule("flag.access.broker_unregistered") == {"party:P|broker:B": ["x"]}
        assert answer.rule("flag.access.restricted_country") == {"allocation:X|country:CN": ["x"]}


def test_a_finding_has_a_party_only_if_all_its_events_agree(tmp_path: Path) -> None:
    written = Written()
    for number, (party, allocation) in enumerate([("P", "X"), ("Q", "X"), ("P", "X")]):
        written.party(party, version=number)
        source = "one" if number < 2 else "two"
        usual = {"party_id": party, "allocation_id": allocation, "source": source}
        written.access(f"x{number}", "09", method=None, **usual)
    found = written.judge(tmp_path).history.findings
    one, two = (found["gap.access.method_missing", f"source:{name}"] for name in ("one", "two"))
    assert (one.party_id, one.allocation_id, len(one.events)) == (None, "X", 2)
    assert (two.party_id, two.allocation_id, len(two.events)) == ("P", "X", 1)


def exceeded(written: Written, directory: Path) -> list[str]:
    return written.judge(directory).rule(EXCEEDED).get("authorization:A", [])


class TestQuantity:
    """At most 16 accelerators under A."""

    @pytest.fixture
    def capped(self) -> Written:
        written = Written()
        written.version("authorization", authorization_id="A", max_accelerators=16)
        return written

    def test_more_than_the_cap(self, capped: Written, tmp_path: Path) -> None:
        capped.allocated("x", "09", "X", authorization_id="A", accelerators=8)
        capped.allocated("y", "09:01", "Y", authorization_id="A", accelerators=8)
        capped.allocated("other", "09:02", "O", authorization_id="B", accelerators=100)
        capped.allocated("z", "09:03", "Z", authorization_id="A")  # of no number: one
        assert exceeded(capped, tmp_path) == ["z"]

    def test_at_one_time_each_counts_the_other(self, capped: Written, tmp_path: Path) -> None:
        capped.allocated("x", "09", "X", authorization_id="A", accelerators=9)
        capped.allocated("y", "09", "Y", authorization_id="A", serials=["1"] * 8)
        assert exceeded(capped, tmp_path) == ["x", "y"]

    def test_released_at_that_time_is_not_open(self, capped: Written, tmp_path: Path) -> None:
        capped.allocated("x", "09", "X", authorization_id="A", accelerators=16)
        capped.allocated("y", "10", "Y", authorization_id="A", accelerators=1)
        capped.released("r", "10", "X")
        capped.allocated("z", "11", "Z", authorization_id="A", accelerators=17)
        capped.released("s", "11", "Z")  # itself always counts
        assert exceeded(capped, tmp_path) == ["z"]

    def test_another_allocated_replaces_the_first(self, capped: Written, tmp_path: Path) -> None:
        capped.allocated("x1", "09", "X", authorization_id="A", accelerators=16)
        capped.allocated("x2", "10", "X", authorization_id="A", accelerators=8)
        capped.allocated("y", "11", "Y", authorization_id="A", accelerators=8)
        capped.allocated("x3", "12", "X", authorization_id="B", accelerators=99)
        capped.allocated("z", "12", "Z", authorization_id="A", accelerators=8)
        assert exceeded(capped, tmp_path) == []

    def test_an_allocation_again_after_its_release(self, capped: Written, tmp_path: Path) -> None:
        capped.allocated("x1", "09", "X", authorization_id="A", accelerators=8)
        capped.released("r", "10", "X")
        capped.allocated("x2", "11", "X", authorization_id="A", accelerators=9)
        capped.allocated("y", "10:30", "Y", authorization_id="A", accelerators=8)
        assert exceeded(capped, tmp_path) == ["x2"]

    def test_the_cap_is_that_in_force(self, tmp_path: Path) -> None:
        written = Written()
        written.version("authorization", authorization_id="A", max_accelerators=0, valid_to="09:01")
        for number, when in enumerate(["09", "09:00:59", "09:01"]):
            written.allocated(f"x{number}", when, "X", authorization_id="A", accelerators=number)
        assert exceeded(written, tmp_path) == ["x1"]


def test_a_serial_in_two_open_allocations(tmp_path: Path) -> None:
    written = Written()
    written.allocated("x1", "09", "X", serials=["1", "2", "3", "3", "5"])
    written.allocated("y", "10", "Y", serials=["2", "3"])
    written.allocated("x2", "11", "X", serials=["1"])  # its own, and no longer 2 and 5
    written.allocated("z", "12", "Z", serials=["2", "1", "5"])
    written.released("r", "13", "Z")
    written.allocated("v", "13", "V", serials=["1", "2", "4"])
    assert written.judge(tmp_path).rule(DOUBLE) == {
        "serial:1": ["z", "v"],  # v: X still has it
        "serial:2": ["y", "z", "v"],  # v: Y still has it
        "serial:3": ["y"],
    }


@pytest.mark.parametrize(
    ("when", "action", "fires"),
    [
        ("09:15", "started", False),
        ("09:15:00.000001", "started", True),
        ("08:45", "moved", False),
        ("08:44:59.999999", "moved", True),
        ("09", "stopped", True),
    ],
)
def test_no_placement_within_a_quarter(tmp_path: Path, when: str, action: str, fires: bool) -> None:
    written = Written()
    written.allocated("x", "09")
    written.placed("p", when, action)
    written.placed("q", "09", allocation_id="Y")
    written.placed("n", "09", allocation_id=None)
    written.reached("10")
    assert written.judge(tmp_path).rule(NO_PLACEMENT) == ({"allocation:X": ["x"]} if fires else {})


@pytest.mark.parametrize(
    ("when", "fires"), [("09", False), ("09:15", False), ("09:15:00.000001", True), ("08:59:59", True)]
)
def test_no_placement_is_asked_where_it_was_released_at_once(tmp_path: Path, when: str, fires: bool) -> None:
    written = Written()
    written.allocated("x", "09")
    written.released("r", when)
    written.reached("10")
    assert written.judge(tmp_path).rule(NO_PLACEMENT) == ({"allocation:X": ["x"]} if fires else {})


@pytest.mark.parametrize(("last", "fires"), [("09:14:59.999999", False), ("09:15", True)])
def test_no_placement_is_decided_a_quarter_later(tmp_path: Path, last: str, fires: bool) -> None:
    written = Written()
    written.allocated("x", "09")
    written.reached(last)
    states = written.judge(tmp_path).states(NO_PLACEMENT)
    assert states == ({"allocation:X": "confirmed"} if fires else {})


def test_access_after_release(tmp_path: Path) -> None:
    written = Written()
    written.allocated("x1", "09")
    written.access("while", "09:30")
    written.released("r1", "10")
    written.access("just before", "09:59:59.999999")
    written.access("at release", "10")
    written.access("later", "10:30", "call")
    written.access("closing", "10:30", "closed")
    written.access("refused", "10:30", "denied")
    written.allocated("x2", "11")
    written.access("again", "11")
    written.released("r2", "12")
    written.allocated("x3", "12")  # of one time, released comes last
    written.access("both", "12")
    written.access("both still", "13")
    written.released("never", "09", "Y")
    written.access("never allocated", "09", allocation_id="Y")
    written.access("too early", "08:59", allocation_id="Y")
    assert written.judge(tmp_path).rule(AFTER_RELEASE) == {
        "allocation:X": ["at release", "later", "both", "both still"],
        "allocation:Y": ["never allocated"],
    }


@pytest.mark.parametrize(("last", "fires"), [("09:10:59.999999", False), ("09:11", True)])
def test_access_after_release_is_decided_at_its_time(tmp_path: Path, last: str, fires: bool) -> None:
    written = Written()
    written.allocated("x", "08")
    written.released("r", "09")
    written.access("a", "09:01", party_id="P")
    written.access("b", last, "closed")
    answer = written.judge(tmp_path, last)
    assert answer.states(AFTER_RELEASE) == ({"allocation:X": "confirmed"} if fires else {})


def test_access_without_an_allocation(tmp_path: Path) -> None:
    written = Written()
    written.access("a|b", "08:59:59.999999", source="iam/1")
    written.access("called", "08:59", "call")
    written.access("at", "09")
    written.allocated("x", "09")
    written.released("r", "09", "Y")
    written.access("released only", "10", allocation_id="Y")
    written.access("none", "10", allocation_id=None)
    assert written.judge(tmp_path).rule(NO_ALLOCATION) == {
        "event:iam/1/a|b": ["a|b"],
        "event:s/released only": ["released only"],
        "event:s/none": ["none"],
    }


def test_only_an_access_that_names_no_allocation_is_judged_before_its_time(tmp_path: Path) -> None:
    written = Written()
    written.access("x", "09", allocation_id="Y")
    written.access("y", "09", allocation_id=None)
    assert written.judge(tmp_path, "09").states(NO_ALLOCATION) == {"event:s/y": "provisional"}


def test_serials_of_a_placement(tmp_path: Path) -> None:
    written = Written()
    written.allocated("x1", "09", serials=["1", "2"])
    written.placed("before", "08:59", serials=["9"])
    written.placed("some", "09", serials=["2"])
    written.placed("other", "09:01", serials=["2", "3"])
    written.placed("none", "09:01", serials=[])
    written.placed("stopped", "09:02", "stopped", serials=["3"])
    written.released("r", "10")
    written.placed("moved", "11", "moved", serials=["3"])
    written.allocated("x2", "12")
    written.placed("unlisted", "12", serials=["3"])
    assert written.judge(tmp_path).rule(SERIALS_DIFFER) == {"allocation:X": ["other", "moved"]}


def test_a_party_that_is_not_the_allocations(tmp_path: Path) -> None:
    written = Written()
    written.party("P", brokers=["B"], valid_to="11")
    written.party("P", version=2, valid_from="11", status="pending")
    written.party("B")
    written.party("Q")
    written.party("R", brokers=["P"])
    written.version("principal", binding_id="b", principal="u", party_id="Q")
    written.allocated("x", "09", party_id="P")
    written.access("own", "10", party_id="P")
    written.access("theirs", "10", party_id="Q")
    written.access("bound", "10", "closed", principal="u")
    written.access("refused", "10", "denied", party_id="Q")
    written.access("broker", "10", party_id="B")
    written.access("no longer", "11", party_id="B")
    written.access("lists us", "10", party_id="R")
    written.access("nobody", "10")
    written.access("unknown", "10", party_id="N")
    written.access("before", "08", party_id="Q")
    found = written.judge(tmp_path)
    assert found.rule(MISMATCH) == {"allocation:X": ["theirs", "bound", "no longer"]}
    assert found.history.findings[MISMATCH, "allocation:X"].party_id is None  # Q, Q and B


def test_the_allocations_party_is_taken_at_the_accesss_time(tmp_path: Path) -> None:
    written = Written()
    for party in "PQ":
        written.party(party)
    written.version("principal", binding_id="b", principal="u", party_id="P")
    written.version("principal", binding_id="b", principal="u", party_id="Q", version=2, valid_from="10")
    written.allocated("x", "09", principal="u")
    written.access("then", "09:59", party_id="P")
    written.access("now", "10", party_id="P")
    assert written.judge(tmp_path).rule(MISMATCH) == {"allocation:X": ["now"]}


def test_rejections_count_by_topic_and_reason(tmp_path: Path) -> None:
    written = Written()
    written.line("access", "{")
    written.line("access", json.dumps({"event_id": "x"}))
    written.line("access", "[]")
    written.line("access", "")
    written.line("party", json.dumps({"party_id": "P", "version": 1}))
    answer = written.judge(tmp_path)
    assert answer.states(REJECTED) == dict.fromkeys(answer.rule(REJECTED), "confirmed")
    assert answer.rule(REJECTED) == {
        "topic:custody.access|reason:not_json": ["custody.access/0", "custody.access/3"],
        "topic:custody.access|reason:missing:occurred_at": ["custody.access/1"],
        "topic:custody.access|reason:not_object": ["custody.access/2"],
        "topic:custody.party|reason:missing:valid_from": ["custody.party/0"],
    }
    found = answer.history.findings[REJECTED, "topic:custody.access|reason:not_json"]
    assert (found.first_at, found.party_id, found.allocation_id) == (None, None, None)
    assert answer.history.watermark is None


class TestStates:
    """Sections 3.6 and 3.7, with a last tick."""

    @pytest.fixture
    def answer(self, tmp_path: Path) -> Answer:
        """The watermark is 09:50, ten minutes before the only source's last word."""
        written = Written()
        written.access("early", "09:50", party_id="N")
        written.access("late", "10", party_id="N")
        written.access("only late", "10", party_id="M")
        written.access("ahead", "10:05", party_id="O", source="t")
        written.access("future", "10:05:00.000001", party_id="O", source="t")
        return written.judge(tmp_path, "10")

    def test_a_finding_is_confirmed_with_its_first_event(self, answer: Answer) -> None:
        assert answer.states(UNKNOWN) == {
            "party:N": "confirmed",
            "party:M": "provisional",
            "party:O": "provisional",
        }
        found = answer.history.findings[UNKNOWN, "party:N"]
        assert sorted(found.events.values()) == ["confirmed", "provisional"]
        assert (answer.clock(found.first_at), answer.clock(found.last_at)) == ("09:50", "10:00")

    def test_more_than_five_minutes_ahead_is_future(self, answer: Answer) -> None:
        assert answer.rule("gap.source.clock") == {"source:t": ["future"]}


def test_a_duplicate_counts_nowhere(tmp_path: Path) -> None:
    written = Written()
    written.access("x", "09", party_id="N")
    written.access("x", "09", party_id="N")
    assert written.judge(tmp_path).history.findings[UNKNOWN, "party:N"].events.keys() == {
        ("custody.access", 0)
    }


SECTION_4 = ROW_RULES | {
    *(CONFLICT, NO_PLACEMENT, AFTER_RELEASE, NO_ALLOCATION, SERIALS_DIFFER, MISMATCH, EXCEEDED, DOUBLE),
    *(REJECTED, "gap.source.sequence_hole", "gap.source.silent"),
}


def test_generated_chains_make_every_rule_fire(tmp_path: Path) -> None:
    assert len(SECTION_4) == 38
    fired: Counter[str] = Counter()
    pieces: Counter[str] = Counter()
    for seed in range(30):
        generated = generate_chains(tmp_path / str(seed), seed, events=600)
        until = None if generated.until is None else time(generated.until)
        history = judge_all(tmp_path / str(seed), until)
        assert history.duplicates
        fired.update({rule for rule, _ in history.findings})
        pieces.update({" ".join(piece.reasons) for piece in history.pieces})
    assert fired.keys() == SECTION_4
    assert len(pieces) >= 12  # of 16 sets of missing links

"""The plain implementation against answers worked out by hand: holes, silences and the watermark."""

from pathlib import Path

import pytest

from tests.written import Answer, Written

HOLE = "gap.source.sequence_hole"
SILENT = "gap.source.silent"
LEAST, MOST = -(2**63), 2**63 - 1


def numbered(written: Written, *numbers: int | None, source: str = "s") -> None:
    """Events a minute apart from 09:00 on, named by their place from 0."""
    for place, number in enumerate(numbers):
        written.access(f"{source}{place}", f"09:{place:02}", source=source, source_seq=number)


class TestHoles:
    """Numbers that lack between a source's lowest and highest."""

    def test_every_run_is_one_finding_at_the_event_before_it(self, tmp_path: Path) -> None:
        written = Written()
        numbered(written, 5, 6, 9, None, 10, 20)
        assert written.judge(tmp_path).rule(HOLE) == {
            "source:s|first:7": ["s1"],
            "source:s|first:11": ["s4"],
        }

    def test_late_numbers_and_repeats_make_none(self, tmp_path: Path) -> None:
        written = Written()
        numbered(written, -1, 1, 1, 0, 2)
        assert written.judge(tmp_path).rule(HOLE) == {}

    def test_a_source_counts_over_all_its_streams_and_for_itself(self, tmp_path: Path) -> None:
        written = Written()
        written.access("a", "09", source="s", source_seq=1)
        written.placed("b", "09", source="s", source_seq=2)
        written.allocated("c", "09", source="s", source_seq=3)
        written.access("d", "09", source="t", source_seq=5)
        assert written.judge(tmp_path).rule(HOLE) == {}

    def test_from_one_end_of_int64_to_the_other(self, tmp_path: Path) -> None:
        written = Written()
        numbered(written, LEAST, LEAST + 2, MOST)
        assert written.judge(tmp_path).rule(HOLE) == {
            f"source:s|first:{LEAST + 1}": ["s0"],
            f"source:s|first:{LEAST + 3}": ["s1"],
        }

    def test_of_several_before_it_the_last_one_counts(self, tmp_path: Path) -> None:
        written = Written()
        numbered(written, 1, 1, 3)
        written.placed("later in order", "09:01", source="s", source_seq=1)
        written.allocated("not", "09:01", source="s", source_seq=1)
        assert written.judge(tmp_path).rule(HOLE) == {"source:s|first:2": ["later in order"]}

    def test_the_last_one_by_time_whatever_its_offset(self, tmp_path: Path) -> None:
        written = Written()
        written.access("late", "09:02", source_seq=1)
        written.placed("early", "09:01", source="s", source_seq=1)
        written.access("end", "09:03", source_seq=3)
        assert written.judge(tmp_path).rule(HOLE) == {"source:s|first:2": ["late"]}

    def test_of_several_after_it_the_first_one_counts(self, tmp_path: Path) -> None:
        written = Written()
        numbered(written, 1, 3, 3)
        written.version("source", source="s", sequenced=False, valid_from="09:02")
        assert written.judge(tmp_path).rule(HOLE) == {"source:s|first:2": ["s0"]}

    def test_a_duplicate_is_not_the_event_before(self, tmp_path: Path) -> None:
        written = Written()
        written.access("x", "09", source_seq=1)
        written.access("x", "09", source_seq=1)
        written.access("y", "10", source_seq=3)
        history = written.judge(tmp_path).history
        assert history.findings[HOLE, "source:s|first:2"].events == {("custody.access", 0): "confirmed"}

    def test_sequenced_is_asked_at_the_event_after_the_hole(self, tmp_path: Path) -> None:
        written = Written()
        written.version("source", source="s", sequenced=False, valid_to="09:03")
        written.version("source", source="t", sequenced=None)
        numbered(written, 1, 3, 4, 6)
        numbered(written, 1, 3, source="t")
        assert written.judge(tmp_path).rule(HOLE) == {"source:s|first:5": ["s2"], "source:t|first:2": ["t0"]}

    @pytest.mark.parametrize(("last", "fires"), [("09:10:59.999999", False), ("09:11", True)])
    def test_decided_when_the_watermark_reaches_the_event_after_it(
        self, tmp_path: Path, last: str, fires: bool
    ) -> None:
        written = Written()
        numbered(written, 1, 3)
        written.access("end", last)
        states = written.judge(tmp_path, last).states(HOLE)
        assert states == ({"source:s|first:2": "confirmed"} if fires else {})

    def test_a_hole_has_neither_party_nor_allocation(self, tmp_path: Path) -> None:
        written = Written()
        written.party("P")
        for number in (1, 3):
            written.access(f"e{number}", "09", party_id="P", source_seq=number)
        found = written.judge(tmp_path).history.findings[HOLE, "source:s|first:2"]
        assert (found.party_id, found.allocation_id) == (None, None)


def since(source: str, clock: str, day: str = "2026-03-01") -> str:
    """A silence's subject."""
    whole = clock if "." in clock else f"{clock}.000000"
    return f"source:{source}|since:{day}T{whole}Z"


class TestSilences:
    """An hour is the default limit."""

    def test_longer_than_the_limit_before_the_next_event(self, tmp_path: Path) -> None:
        written = Written()
        for event_id, when in [("a", "09"), ("b", "10"), ("c", "11:00:00.000001"), ("d", "12")]:
            written.access(event_id, when)
        assert written.judge(tmp_path).rule(SILENT) == {since("s", "10:00:00"): ["b"]}

    @pytest.mark.parametrize(("latest", "fires"), [("10", False), ("10:00:00.000001", True)])
    def test_longer_than_the_limit_before_the_latest_broker_time(
        self, tmp_path: Path, latest: str, fires: bool
    ) -> None:
        for way in ("event", "tombstone", "tick"):
            written = Written()
            written.access("a", "09")
            if way == "event":
                written.access("b", latest, source="t")
            if way == "tombstone":
                written.tombstone("party", latest, party_id="P")
            folder = tmp_path / way
            folder.mkdir()
            answer = written.judge(folder, latest if way == "tick" else None)
            assert answer.rule(SILENT) == ({since("s", "09:00:00"): ["a"]} if fires else {})

    def test_neither_duplicates_nor_rejections_are_a_sign_of_life(self, tmp_path: Path) -> None:
        written = Written()
        written.access("a", "09")
        written.access("a", "09")
        written.line("access", '{"event_id": "b", "occurred_at": "2026-03-01T09:30Z", "source": "s"}')
        written.access("c", "10:30")
        history = written.judge(tmp_path).history
        assert history.findings[SILENT, since("s", "09:00:00")].events.keys() == {("custody.access", 0)}

    def test_the_limit_is_that_in_force_at_the_start(self, tmp_path: Path) -> None:
        written = Written()
        written.version("source", source="s", silence_limit_s=60, valid_from="09")
        written.version("source", source="s", version=2, silence_limit_s=7200, valid_from="10")
        written.version("source", source="s", version=3, valid_from="13")
        for event_id, when in [("a", "09"), ("b", "09:01"), ("c", "10"), ("d", "12"), ("e", "13")]:
            written.access(event_id, when)
        written.access("f", "14:00:01")
        written.access("g", "15", source="t")
        assert written.judge(tmp_path).rule(SILENT) == {
            since("s", "09:01:00"): ["b"],
            since("s", "13:00:00"): ["e"],
        }

    def test_of_several_events_at_its_broker_time_the_last_counts(self, tmp_path: Path) -> None:
        written = Written()
        written.placed("p", "09", source="s")
        written.access("a", "09")
        written.allocated("x", "09", source="s")
        written.reached("11")
        assert written.judge(tmp_path).rule(SILENT) == {since("s", "09:00:00"): ["p"]}

    def test_with_a_tick_broker_time_is_at_most_the_ticks(self, tmp_path: Path) -> None:
        written = Written()
        written.access("a", "10:05")
        written.access("b", "10:30", source="t")  # future
        written.tombstone("party", "11:00:01", party_id="P")  # the tombstone's broker time is its own
        answer = written.judge(tmp_path, "10")
        assert answer.rule(SILENT) == {since("s", "10:00:00"): ["a"], since("t", "10:00:00"): ["b"]}


class TestExpected:
    """Sources that custody.source names."""

    def expect(self, written: Written, directory: Path) -> dict[str, list[str]]:
        """From 09:00 to 12:00 others speak, every half an hour."""
        for number in range(7):
            written.access(f"o{number}", f"{9 + number // 2:02}:{number % 2 * 30:02}", source="other")
        found = written.judge(directory)
        assert set(found.states(SILENT).values()) <= {"confirmed"}
        return found.rule(SILENT)

    def test_never_spoke_from_valid_from(self, tmp_path: Path) -> None:
        written = Written()
        written.version("source", source="s", valid_from="10")
        written.version("source", source="t", valid_from="11")
        assert self.expect(written, tmp_path) == {since("s", "10:00:00"): []}

    def test_not_before_the_first_broker_time(self, tmp_path: Path) -> None:
        written = Written()
        written.version("source", source="s", silence_limit_s=10800)
        written.version("source", source="t", silence_limit_s=10799)
        assert self.expect(written, tmp_path) == {since("t", "00:00:00", "2026-01-01"): []}

    def test_the_limit_is_that_where_the_count_starts(self, tmp_path: Path) -> None:
        written = Written()
        for source, first, then in [("s", 60, 86400), ("t", 86400, 60)]:
            written.version("source", source=source, silence_limit_s=first)
            written.version("source", source=source, version=2, silence_limit_s=then, valid_from="09")
        assert self.expect(written, tmp_path) == {since("t", "00:00:00", "2026-01-01"): []}

    def test_a_tombstone_may_be_the_first_broker_time(self, tmp_path: Path) -> None:
        written = Written()
        written.version("source", source="s", silence_limit_s=10800)
        written.tombstone("party", "08:59:59", party_id="P")
        assert self.expect(written, tmp_path) == {since("s", "00:00:00", "2026-01-01"): []}

    def test_to_their_latest_end(self, tmp_path: Path) -> None:
        written = Written()
        written.version("source", source="ended", valid_to="10")
        written.version("source", source="later", valid_to="09:30")
        written.version("source", source="later", version=2, valid_from="11", valid_to="11:30")
        written.version("source", source="stone")
        written.tombstone("source", "10", source="stone")
        written.version("source", source="again")
        written.tombstone("source", "09:30", source="again")
        written.version("source", source="again", version=2, valid_from="11:30")
        assert self.expect(written, tmp_path) == {
            since("later", "00:00:00", "2026-01-01"): [],
            since("again", "00:00:00", "2026-01-01"): [],
        }

    def test_an_end_ends_the_silence_after_the_last_event_too(self, tmp_path: Path) -> None:
        written = Written()
        written.version("source", source="s", valid_to="10:30")
        written.access("a", "09:30", source="s")
        written.version("source", source="t", valid_to="10:30:00.000001")
        written.access("b", "09:30", source="t")
        assert self.expect(written, tmp_path) == {since("t", "09:30:00"): ["b"]}

    def test_a_version_that_is_never_in_force_expects_nothing(self, tmp_path: Path) -> None:
        written = Written()
        written.version("source", source="s", valid_to="2026-01-01 00")
        written.version("source", source="t")
        written.tombstone("source", "2025-12-31 00", source="t")
        written.version("source", source="u", valid_to="2025-12-31 00")
        written.version("source", source="u", version=2, valid_from="10")
        assert self.expect(written, tmp_path) == {since("u", "10:00:00"): []}

    def test_silent_before_the_first_event(self, tmp_path: Path) -> None:
        written = Written()
        written.version("source", source="s", valid_from="09:30")
        written.access("a", "10:31", source="s")
        written.access("b", "11:30", source="s")
        assert self.expect(written, tmp_path) == {since("s", "09:30:00"): []}

    def test_it_says_no_more_than_that(self, tmp_path: Path) -> None:
        written = Written()
        written.version("source", source="s")
        written.reached("09")
        written.reached("11")
        found = written.judge(tmp_path).history.findings[SILENT, since("s", "00:00:00", "2026-01-01")]
        assert (found.first_at, found.last_at, found.party_id) == (None, None, None)


def mark(answer: Answer) -> str | None:
    return answer.clock(answer.history.watermark)


class TestWatermark:
    """Section 3.6, at the end of a scan's input."""

    def test_without_a_tick_the_greatest_event_time(self, tmp_path: Path) -> None:
        written = Written()
        written.access("a", "10")
        written.access("b", "09", source="t")
        written.tombstone("party", "11", party_id="P")
        assert mark(written.judge(tmp_path)) == "10:00"

    def test_the_lowest_of_the_live_sources(self, tmp_path: Path) -> None:
        written = Written()
        written.access("a", "10")
        written.access("b", "09:30", source="t")
        written.access("c", "09:20", source="t")
        assert mark(written.judge(tmp_path, "10")) == "09:20"

    @pytest.mark.parametrize(("tick", "expected"), [("10:30", "09:20"), ("10:30:00.000001", "09:50")])
    def test_a_silent_source_leaves_it(self, tmp_path: Path, tick: str, expected: str) -> None:
        written = Written()
        written.access("a", "10")
        written.access("b", "09:30", source="t")
        assert mark(written.judge(tmp_path, tick)) == expected

    def test_by_its_own_limit(self, tmp_path: Path) -> None:
        written = Written()
        written.version("source", source="t", silence_limit_s=7200)
        written.version("source", source="u", silence_limit_s=60)
        written.access("a", "10")
        written.access("b", "09", source="t")
        written.access("c", "08", source="u")
        assert mark(written.judge(tmp_path, "10:30")) == "08:50"

    def test_where_no_source_is_live_the_tick(self, tmp_path: Path) -> None:
        written = Written()
        written.access("a", "09")
        assert mark(written.judge(tmp_path, "12")) == "11:50"
        assert mark(Written().judge(tmp_path, "12")) == "11:50"

    def test_a_future_event_moves_nothing_but_is_a_sign_of_life(self, tmp_path: Path) -> None:
        written = Written()
        written.access("a", "11:50")
        written.access("b", "09", source="t")
        written.access("c", "13", source="t")  # t lives, with its 09:00
        written.access("d", "13", source="u")  # u has no part
        assert mark(written.judge(tmp_path, "12")) == "08:50"

    def test_within_five_minutes_it_moves(self, tmp_path: Path) -> None:
        written = Written()
        written.access("a", "12:05")
        assert mark(written.judge(tmp_path, "12")) == "11:55"

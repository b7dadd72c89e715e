"""The plain implementation against answers worked out by hand: pieces of coverage."""

from pathlib import Path

import pytest

from tests.plain.coverage import covered_share
from tests.written import Written


@pytest.fixture
def written() -> Written:
    """Party P, authorization A and sites S and T, all in force and without limits."""
    written = Written()
    written.party("P")
    written.version("authorization", authorization_id="A")
    written.version("site", site_id="S")
    written.version("site", site_id="T")
    return written


FULL = {"party_id": "P", "authorization_id": "A", "requested_by": "anna", "model": "NVIDIA H100"}


def test_an_allocation_with_all_four_links(written: Written, tmp_path: Path) -> None:
    written.placed("p", "09")
    written.allocated("x", "09", **FULL, accelerators=8)
    written.access("a", "09:30")
    written.released("r", "10")
    written.reached("11")
    answer = written.judge(tmp_path)
    assert answer.pieces() == [("09:00", "09:30", ""), ("09:30", "10:00", "")]
    piece = answer.history.pieces[0]
    assert (piece.party_id, piece.site_id, piece.model, piece.accelerators) == ("P", "S", "NVIDIA H100", 8)
    assert covered_share(answer.history.pieces) == 1.0


def test_an_allocation_with_none(written: Written, tmp_path: Path) -> None:
    written.allocated("x", "09", serials=["1", "2"])
    written.reached("10")
    answer = written.judge(tmp_path)
    assert answer.pieces() == [("09:00", "10:00", "who how where under_what")]
    piece = answer.history.pieces[0]
    assert (piece.party_id, piece.site_id, piece.model, piece.accelerators) == (None, None, None, 2)
    assert covered_share([]) is None


def test_share_by_accelerators_and_seconds(written: Written, tmp_path: Path) -> None:
    written.allocated("x", "09", "X", **FULL, accelerators=2)
    written.placed("p", "09:30", allocation_id="X")
    written.allocated("y", "09", "Y", accelerators=1)
    written.allocated("z", "09", "Z", accelerators=0)
    written.reached("10")
    answer = written.judge(tmp_path)
    assert covered_share(answer.history.pieces) == 60 / 180  # 2 x 30 minutes of 2 x 60 + 1 x 60


class TestTime:
    """Which time is in pieces, and where it is cut."""

    def test_every_event_that_names_it_cuts(self, written: Written, tmp_path: Path) -> None:
        written.allocated("x", "09")
        written.access("a", "09:10", "denied")
        written.placed("p", "09:20", "stopped")
        written.access("b", "09:25", allocation_id="Y")
        written.access("c", "09:26", allocation_id=None)
        written.access("d", "09:10", "closed")
        written.released("r", "09:30")
        written.access("e", "09:40")
        written.reached("10")
        clocks = [piece[:2] for piece in written.judge(tmp_path).pieces()]
        assert clocks == [("09:00", "09:10"), ("09:10", "09:20"), ("09:20", "09:30")]

    def test_allocated_again(self, written: Written, tmp_path: Path) -> None:
        written.released("r0", "08")
        written.allocated("x1", "09", accelerators=1)
        written.allocated("x2", "09:10", accelerators=2)
        written.released("r1", "09:20")
        written.released("r2", "09:30")
        written.allocated("x3", "09:40", accelerators=3)
        written.reached("10")
        answer = written.judge(tmp_path)
        assert [piece.accelerators for piece in answer.history.pieces] == [1, 2, 3]
        clocks = [piece[:2] for piece in answer.pieces()]
        assert clocks == [("09:00", "09:10"), ("09:10", "09:20"), ("09:40", "10:00")]

    def test_released_and_allocated_at_one_time_is_released(self, written: Written, tmp_path: Path) -> None:
        written.allocated("x1", "09")
        written.released("r", "09:10")
        written.allocated("x2", "09:10")
        written.allocated("y", "09", "Y")
        written.released("s", "09", "Y")
        written.reached("10")
        assert [piece[:2] for piece in written.judge(tmp_path).pieces()] == [("09:00", "09:10")]

    def test_up_to_the_watermark(self, written: Written, tmp_path: Path) -> None:
        written.allocated("x", "09")
        written.allocated("y", "09:50", "Y")
        written.released("r", "09:55")
        written.access("a", "10")
        answer = written.judge(tmp_path, "10")  # the watermark is 09:50
        assert [piece[:2] for piece in answer.pieces()] == [("09:00", "09:50")]

    def test_a_duplicate_does_not_cut(self, written: Written, tmp_path: Path) -> None:
        for _ in range(2):
            written.allocated("x", "09")
        written.reached("10")
        assert [piece[:2] for piece in written.judge(tmp_path).pieces()] == [("09:00", "10:00")]


class TestWho:
    def test_as_of_the_start_of_each_piece(self, written: Written, tmp_path: Path) -> None:
        written.party("P", version=2, valid_from="09:20", valid_to="09:40", status="suspended")
        written.placed("p", "09")
        written.allocated("x", "09", **FULL)
        for when in ("09:10", "09:20", "09:30", "09:40"):
            written.access(when, when, "closed")
        written.reached("10")
        answer = written.judge(tmp_path)
        assert [piece[2] for piece in answer.pieces()] == ["", "", "who", "who", ""]
        assert {piece.party_id for piece in answer.history.pieces} == {"P"}

    def test_through_the_principal(self, written: Written, tmp_path: Path) -> None:
        written.party("Q")
        written.version("principal", binding_id="1", principal="u", party_id="P")
        written.version("principal", binding_id="2", principal="u", party_id="Q", valid_from="09:30")
        written.placed("p", "09")
        written.allocated("x", "09", **{**FULL, "party_id": None}, principal="u")
        written.access("a", "09:30", "closed")
        written.reached("10")
        answer = written.judge(tmp_path)
        assert answer.pieces() == [("09:00", "09:30", ""), ("09:30", "10:00", "who")]
        assert [piece.party_id for piece in answer.history.pieces] == ["P", None]


class TestHow:
    """What `requested_by` does not say, an access must."""

    def pieces(self, written: Written, directory: Path) -> list[str]:
        written.placed("p", "09")
        written.allocated("x", "09", **{**FULL, "requested_by": None})
        written.reached("10")
        return [piece[2] for piece in written.judge(directory).pieces()]

    def test_from_the_piece_that_ends_with_it(self, written: Written, tmp_path: Path) -> None:
        written.placed("q", "09:10")
        written.access("a", "09:20", "call")
        written.placed("r", "09:30")
        assert self.pieces(written, tmp_path) == ["how", "", "", ""]

    def test_at_the_watermark(self, written: Written, tmp_path: Path) -> None:
        written.access("a", "10")
        assert self.pieces(written, tmp_path) == [""]

    def test_not_of_an_earlier_allocated_event(self, written: Written, tmp_path: Path) -> None:
        written.allocated("x0", "08", **{**FULL, "requested_by": None})
        written.access("a", "08:30")
        # 08:00, where no workload is in effect yet, up to 08:30; up to 09:00; from 09:00 on
        assert self.pieces(written, tmp_path) == ["where", "where", "how"]

    def test_at_its_start(self, written: Written, tmp_path: Path) -> None:
        written.access("a", "09")
        assert self.pieces(written, tmp_path) == [""]

    @pytest.mark.parametrize(
        ("action", "method"), [("opened", None), ("closed", "direct"), ("denied", "direct")]
    )
    def test_neither_without_a_method_nor_of_other_actions(
        self, written: Written, tmp_path: Path, action: str, method: str | None
    ) -> None:
        written.access("a", "09", action, method=method)
        assert self.pieces(written, tmp_path) == ["how"]


class TestWhere:
    def sites(self, written: Written, directory: Path) -> list[tuple[str | None, str]]:
        """(site, missing links) of each piece."""
        written.allocated("x", "09", **FULL)
        written.reached("10")
        return [(piece.site_id, " ".join(piece.reasons)) for piece in written.judge(directory).history.pieces]

    def test_the_latest_workload_on_a_known_site(self, written: Written, tmp_path: Path) -> None:
        written.placed("p", "08")
        written.placed("q", "09:10", workload_id="v", site_id="T")
        written.placed("r", "09:20", workload_id="u", site_id="unknown")
        written.placed("s", "09:30", "stopped", workload_id="v", site_id="T")
        written.placed("t", "09:40", "stopped")
        assert self.sites(written, tmp_path) == [
            ("S", ""),
            ("T", ""),
            ("T", ""),
            ("S", ""),
            (None, "where"),
        ]

    def test_a_workload_that_moves(self, written: Written, tmp_path: Path) -> None:
        written.placed("p", "09")
        written.placed("q", "09:30", "moved", site_id="T")
        assert self.sites(written, tmp_path) == [("S", ""), ("T", "")]

    def test_a_workload_that_moves_to_an_unknown_site(self, written: Written, tmp_path: Path) -> None:
        written.placed("p", "09")
        written.placed("q", "09:30", "moved", site_id=None)
        assert self.sites(written, tmp_path) == [("S", ""), (None, "where")]

    def test_a_site_is_judged_at_the_start_of_the_piece(self, written: Written, tmp_path: Path) -> None:
        written.version("site", site_id="U", valid_from="09:15", valid_to="09:30")
        written.placed("p", "09", site_id="U")
        for when in ("09:10", "09:20", "09:30"):
            written.access(when, when, "closed")
        assert self.sites(written, tmp_path) == [
            (None, "where"),
            (None, "where"),
            ("U", ""),
            (None, "where"),
        ]

    def test_of_two_at_one_time_the_greater_source_and_event_id(
        self, written: Written, tmp_path: Path
    ) -> None:
        written.placed("9", "09", source="～", site_id="S")
        written.placed("1", "09", source="\U0001f642", site_id="T")
        assert self.sites(written, tmp_path) == [("T", "")]


class TestUnderWhat:
    def reasons(self, written: Written, directory: Path, **fields: object) -> list[str]:
        """Missing links of each piece of an allocation of P under B with a workload on S and, later, T."""
        written.placed("p", "09")
        written.placed("q", "09:30", workload_id="v", site_id="T")
        written.allocated("x", "09", **{**FULL, "authorization_id": "B", **fields})
        written.reached("10")
        return [" ".join(piece.reasons) for piece in written.judge(directory).history.pieces]

    @pytest.mark.parametrize(
        ("limits", "expected"),
        [
            ({}, ["", ""]),
            ({"party_ids": ["Q", "P"], "models": ["h-100"], "site_ids": ["S", "T"]}, ["", ""]),
            ({"party_ids": []}, ["under_what", "under_what"]),
            ({"models": ["NVIDIA H200"]}, ["under_what", "under_what"]),
            ({"site_ids": ["S"]}, ["", "under_what"]),
            ({"valid_from": "09:15"}, ["under_what", ""]),
        ],
    )
    def test_covers_party_model_and_every_site(
        self, written: Written, tmp_path: Path, limits: dict[str, object], expected: list[str]
    ) -> None:
        written.version("authorization", authorization_id="B", **limits)
        assert self.reasons(written, tmp_path) == expected

    def test_an_uncontrolled_model_needs_none(self, written: Written, tmp_path: Path) -> None:
        assert self.reasons(written, tmp_path, model="h20") == ["", ""]
        assert self.reasons(written, tmp_path, model=None)[0] == "under_what"

    def test_what_is_null_is_in_no_list(self, written: Written, tmp_path: Path) -> None:
        written.version("authorization", authorization_id="B", models=["NVIDIA H100"])
        assert self.reasons(written, tmp_path, model=None) == ["under_what", "under_what"]

    def test_a_null_party_is_in_no_list(self, written: Written, tmp_path: Path) -> None:
        written.version("authorization", authorization_id="B", party_ids=["N"])
        assert self.reasons(written, tmp_path, party_id="N") == ["who under_what", "who under_what"]

    def test_a_null_site_is_in_no_list(self, written: Written, tmp_path: Path) -> None:
        written.version("authorization", authorization_id="B", site_ids=["S", "T"])
        written.placed("n", "09:45", workload_id="u", site_id=None)
        assert self.reasons(written, tmp_path) == ["", "", "under_what"]

    def test_with_no_workload_in_effect_no_site_is_asked(self, written: Written, tmp_path: Path) -> None:
        written.version("authorization", authorization_id="B", site_ids=[])
        written.placed("p", "09", "stopped")
        written.allocated("x", "09", **{**FULL, "authorization_id": "B"})
        written.reached("10")
        assert [piece[2] for piece in written.judge(tmp_path).pieces()] == ["where"]

"""`sekisho trace` where time decides: whose an event is, and which use of an id it is part of."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rules.rule import load_all
from stream.commands.trace import command
from stream.scan import scan
from tests.written import Written


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Account r:a is of P1 until 12:00, then of P2; X is r:a's with SN1 until 14:00, then P3's with SN2."""
    folder = tmp_path_factory.mktemp("times")
    files = Written()
    for name, status in (("P1", "verified"), ("P2", "suspended"), ("P3", "verified")):
        files.party(name, status=status)
    files.version("principal", binding_id="B1", principal="r:a", party_id="P1", valid_to="12")
    files.version("principal", binding_id="B2", principal="r:a", party_id="P2", valid_from="12")
    files.allocated("a1", "10", principal="r:a", serials=["SN1"])
    files.access("x0", "11", allocation_id="X")
    files.access("x1", "13", allocation_id="X", session_id="S1")
    files.released("r1", "14")
    files.allocated("a2", "15", party_id="P3", serials=["SN2"])
    files.access("x2", "16", allocation_id="X", session_id="S2")
    files.event("placement", "p2", "16:30", action="started", workload_id="W2", allocation_id="X")
    (folder / "in").mkdir()
    for name, lines in files.lines.items():
        (folder / "in" / f"{name}.ndjson").write_text("".join(f"{line}\n" for line in lines))
    scan(folder / "in", folder / "lake", load_all())
    return folder / "lake"


def events(lake: Path, name: str) -> dict[str, dict[str, Any]]:
    arguments = ["--lake", str(lake), "--json", name]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    return {event["event_id"]: event for event in json.loads(result.output)["events"]}


FIRST, SECOND = ["a1", "x0", "x1", "r1"], ["a2", "x2", "p2"]


def test_an_event_is_of_the_party_that_its_allocation_names_at_its_own_time(lake: Path) -> None:
    found = events(lake, "P2")
    assert list(found) == ["a1", "x1", "r1"]
    assert {name: event["who"].get("through_allocation") for name, event in events(lake, "X").items()} == {
        "a1": None, "x0": "P1", "x1": "P2", "r1": "P2", "a2": None, "x2": "P3", "p2": "P3"
    }  # fmt: skip
    assert "flag.identity.not_verified" in {one["rule_id"] for one in found["x1"]["findings"]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("SN1", FIRST), ("SN2", SECOND), ("S1", ["a1", "x1", "r1"]), ("W2", SECOND), ("P1", FIRST),
     ("P3", SECOND), ("X", FIRST + SECOND)],
)  # fmt: skip
def test_only_the_use_of_an_allocation_that_it_was_part_of_belongs_to_a_thing(
    lake: Path, name: str, expected: list[str]
) -> None:
    assert list(events(lake, name)) == expected

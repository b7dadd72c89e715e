"""Every edge of the contract's *Values* paragraph goes through `sekisho scan` with a hand-written answer."""

from typing import Any

import pytest

from tests.compare import rows, run_scan
from tests.value_cases import CASES, Case


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """By case name: the raw row, with the typed table's columns where accepted."""
    folder = tmp_path_factory.mktemp("values")
    (folder / "in").mkdir()
    names: dict[tuple[str, int], str] = {}
    files: dict[str, list[bytes]] = {}
    for one in CASES:
        lines = files.setdefault(one.stream, [])
        assert b"\n" not in one.payload
        names[f"custody.{one.stream}", len(lines)] = one.name
        lines.append(one.payload)
    for stream, lines in files.items():
        (folder / "in" / f"{stream}.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    run_scan(folder / "in", folder / "lake")
    found = {names[row["topic"], row["offset"]]: row for row in rows(folder / "lake", "raw")}
    for stream in files:
        for row in rows(folder / "lake", stream):
            found[names[row["topic"], row["offset"]]]["typed"] = row
    return found


@pytest.mark.parametrize("expected", CASES, ids=[one.name for one in CASES])
def test_value(expected: Case, landed: dict[str, dict[str, Any]]) -> None:
    row = landed[expected.name]
    assert row["reason"] == expected.reason
    assert row["disposition"] == ("accepted" if expected.reason is None else "rejected")
    assert expected.reason is None or "typed" not in row
    assert expected.columns == {name: row["typed"][name] for name in expected.columns}


def test_case_names_are_distinct() -> None:
    assert len({one.name for one in CASES}) == len(CASES)

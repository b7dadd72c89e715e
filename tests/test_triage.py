"""`sekisho triage`: decisions are added, never changed, and only about what was found."""

import getpass
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rules.rule import load_all
from schemas.errors import SekishoError, UsageError
from stream.commands import trace
from stream.commands.triage import command
from stream.scan import scan

ALLOCATED = {"event_id": "1", "occurred_at": "2026-03-01T00:00:00Z", "source": "s", "action": "allocated",
             "allocation_id": "AL-1", "party_id": "P-1"}  # fmt: skip


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "allocation.ndjson").write_text(json.dumps(ALLOCATED) + "\n")
    scan(tmp_path / "in", tmp_path / "lake", load_all())
    return tmp_path / "lake"


def run(lake: Path, *arguments: str) -> str:
    result = CliRunner().invoke(command, ["--lake", str(lake), *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def finding(lake: Path) -> str:
    output = CliRunner().invoke(trace.command, ["--lake", str(lake), "AL-1", "--json"]).output
    return str(json.loads(output)["findings"][0]["finding_id"])


def decisions(lake: Path, name: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(run(lake, "--list", "--json", name))
    return listed


def test_decisions_are_kept_in_order(lake: Path) -> None:
    name = finding(lake)
    assert run(lake, "--list", name) == "nothing was decided yet\n"
    run(lake, name, "--state", "acknowledged", "--reason", "asked the tenant", "--actor", "mori")
    told = run(lake, name.upper(), "--state", "dismissed", "--reason", "papers were late\x1b[2J")
    assert told.endswith(f"dismissed  by {getpass.getuser()}: papers were late\\u001b[2J\n")
    listed = decisions(lake, name)
    assert [(d["state"], d["actor"]) for d in listed] == [
        ("acknowledged", "mori"),
        ("dismissed", getpass.getuser()),
    ]
    assert listed[1]["reason"] == "papers were late\x1b[2J"
    assert all(d["at"].endswith("Z") for d in listed)
    shown = CliRunner().invoke(trace.command, ["--lake", str(lake), name]).output
    assert "acknowledged  by mori: asked the tenant" in shown


def test_what_was_not_found_cannot_be_decided(lake: Path) -> None:
    for name in ("0" * 32, "AL-1", ""):
        with pytest.raises(SekishoError, match="no finding") as raised:
            run(lake, name, "--state", "dismissed", "--reason", "x")
        assert raised.value.exit_code == 1
        with pytest.raises(SekishoError, match="no finding"):
            run(lake, name, "--list")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--state", "dismissed"], "say what you decide and why"),
        (["--state", "dismissed", "--reason", " \t"], "say what you decide and why"),
        (["--reason", "because"], "say what you decide and why"),
        (["--list", "--state", "dismissed"], "leave --state and --reason out"),
        (["--state", "dismissed", "--reason", "a\udcff"], "not UTF-8"),
    ],
)
def test_wrong_use_decides_nothing(lake: Path, arguments: list[str], text: str) -> None:
    name = finding(lake)
    with pytest.raises(UsageError, match=text):
        run(lake, name, *arguments)
    assert decisions(lake, name) == []


def test_a_login_name_that_is_not_utf8_is_asked_for(lake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "a\udcff")
    name = finding(lake)
    with pytest.raises(UsageError, match="say who decides with --actor NAME"):
        run(lake, name, "--state", "dismissed", "--reason", "x")
    assert decisions(lake, name) == []


def test_no_lake_is_made(tmp_path: Path) -> None:
    with pytest.raises(SekishoError, match="no lake"):
        run(tmp_path / "none", "0" * 32, "--state", "dismissed", "--reason", "x")
    assert not (tmp_path / "none").exists()

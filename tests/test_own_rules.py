"""An operator's own folder of rules: what reads it, and what is said where there is none."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from deploy.local_kafka import LocalKafka
from rules.lint import lint
from rules.rule import ROOT, load_all
from schemas.errors import SekishoError, UsageError
from sinks.views import connect
from stream import start, start_reconciler
from stream.commands import rules, scan
from stream.settings import Settings, load
from tests.flow import make_topics
from tests.rule_files import RULE, write
from tests.test_suppressions import FILE, suppress
from tests.worker_process import ReconcilerProcess, WorkerProcess

CALL = {
    "event_id": "e1",
    "occurred_at": "2026-03-02T10:00:00Z",
    "source": "s",
    "action": "call",
    "operation": "inference",
    "party_id": "P-1",
    "bytes_out": 101,
}


def own(folder: Path) -> Path:
    """A folder of one rule, which fires on `CALL`."""
    write(folder, RULE)
    return folder


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_without_rules_is_wrong_use(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="holds no rules"):
        load_all(tmp_path / name)
    with pytest.raises(UsageError, match="holds no rules"):
        lint(tmp_path / name)


def test_processes_say_so_before_they_ask_a_broker(tmp_path: Path) -> None:
    settings = Settings(brokers="192.0.2.1:9092", rules=tmp_path, lake=tmp_path / "lake")
    with pytest.raises(UsageError, match="holds no rules"):
        start.run(settings)
    with pytest.raises(UsageError, match="holds no rules"):
        start_reconciler.run(settings, None, 0)


def test_a_rule_that_cannot_be_used_is_told_before_the_state_is_touched(tmp_path: Path) -> None:
    write(tmp_path, RULE.replace('kind = "row"', 'kind = "deadline"'))
    with pytest.raises(SekishoError, match="is no SELECT"):
        start_reconciler.run(Settings(brokers="192.0.2.1:9092", rules=tmp_path), tmp_path, 0)


def test_rules_are_a_setting(tmp_path: Path) -> None:
    assert load({}, None, {}).rules == ROOT
    assert load({}, None, {"SEKISHO_RULES": str(tmp_path)}).rules == tmp_path


def test_a_scan_takes_rules_and_suppressions_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stream.memory.tune", lambda: None)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "access.ndjson").write_text(json.dumps(CALL))
    suppress(own(tmp_path / "own"), FILE.replace("2026-03-02", "9999-12-31"))
    given = ["--in", str(tmp_path / "in"), "--lake", str(tmp_path / "lake"), "--rules", str(tmp_path / "own")]
    ran = CliRunner().invoke(scan.command, [*given, "--json"], catch_exceptions=False)
    assert json.loads(ran.output)["states"] == {"flag.access.big": {"confirmed": 1}}
    with connect(tmp_path / "lake") as views:
        found = views.sql("SELECT rule_id, subject, suppressed FROM finding").fetchall()
    assert found == [("flag.access.big", "party:P-1", True)]


def test_a_variable_names_the_folder_for_every_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEKISHO_RULES", str(own(tmp_path)))
    ran = CliRunner().invoke(rules.command, ["list", "--json"], catch_exceptions=False)
    assert [rule["id"] for rule in json.loads(ran.output)] == ["flag.access.big"]


def test_worker_and_reconciler_run_them(
    can_run_kafka: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEKISHO_RULES", str(own(tmp_path / "own")))
    lake = tmp_path / "lake"
    with LocalKafka(brief=True) as broker:
        make_topics(broker.bootstrap, 1)
        with WorkerProcess(broker.bootstrap, lake) as worker:
            worker.until_ready()
            assert ", 1 rules" in worker.output
        with ReconcilerProcess(broker.bootstrap, lake, tmp_path / "state") as reconciler:
            reconciler.until_ready()
            assert ": 1 rules" in reconciler.output

"""Judging a lake again: the same findings with the same rules, and what differs with others."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rules.reconciler.step import Reconciler
from rules.rule import ROOT, load_all
from schemas.errors import SekishoError, UsageError
from schemas.events import ACCESS
from sinks.lake import Lake
from stream import known
from stream.commands.replay import command
from stream.reconciling import Reconciling
from stream.replay import Difference, compare, replay
from stream.scan import scan
from stream.simulation import files
from stream.simulation.clock import HOUR
from stream.simulation.simulator import Settings, Simulation, simulate
from tests.flow import read
from tests.landings import land, landing

SETTINGS = Settings(seed=3, accelerators=1024, duration=HOUR, rate=1)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(SETTINGS)


@pytest.fixture(scope="module")
def scanned(simulation: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake that a scan has made; some lines are broken, some reference records end."""
    folder = tmp_path_factory.mktemp("replay")
    files.write(simulation.messages(), folder / "in")
    with (folder / "in" / "access.ndjson").open("ab") as file:
        file.write(b'no json\n{"event_id": 7}\n')
    with (folder / "in" / "party.ndjson").open("ab") as file:
        party = json.loads((folder / "in" / "party.ndjson").read_bytes().splitlines()[0])["party_id"]
        file.write(json.dumps({"party_id": party, "tombstone_at": "2026-03-02T00:30:00Z"}).encode() + b"\n")
    scan(folder / "in", folder / "lake", load_all(), simulation.until)
    return folder / "lake"


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(command, [str(argument) for argument in arguments], standalone_mode=False)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout


def without(folder: Path, rule_id: str) -> Path:
    """The built-in rules but one."""
    for path in ROOT.glob("*/*.toml"):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.parent.name)
    for path in ROOT.glob("*.toml"):
        shutil.copy(path, folder)
    next(folder.glob(f"*/{rule_id}.toml")).unlink()
    return folder


def test_the_same_rules_find_the_same(scanned: Path, tmp_path: Path) -> None:
    replay(scanned, tmp_path / "again", load_all())
    difference = compare(scanned, tmp_path / "again")
    assert not difference, difference.as_json()
    assert difference.same > 30


def test_every_record_lands_again_as_it_was(scanned: Path, tmp_path: Path) -> None:
    replay(scanned, tmp_path / "again", load_all())
    kept: dict[str, Any] = {}
    for lake in (scanned, tmp_path / "again"):
        for table in ("raw", "allocation", "access", "placement", "party", "source", "duplicate"):
            rows = read(lake, table)
            order = [(name, "ascending") for name in ("topic", "partition", "offset")]
            rows = rows.drop([name for name in ("ingested_at", "step") if name in rows.column_names])
            found = [str(row) for row in rows.sort_by(order).to_pylist()]
            assert kept.setdefault(table, found) == found, table
    assert Lake.open(scanned).offsets() == Lake.open(tmp_path / "again").offsets()
    before, after = Lake.open(scanned).settled(), Lake.open(tmp_path / "again").settled()
    assert before is not None
    assert after is not None
    assert (before.watermark, before.latest_broker_time) == (after.watermark, after.latest_broker_time)


def test_a_rule_that_is_gone_takes_its_findings_along(scanned: Path, tmp_path: Path) -> None:
    rules = without(tmp_path / "rules", "gap.identity.unscreened")
    status, said = run("--lake", scanned, "--rules", rules, "--check", "--json")
    assert status == 1
    difference = json.loads(said)["difference"]
    assert difference["gone"]
    assert {row["rule_id"] for row in difference["gone"]} == {"gap.identity.unscreened"}
    assert difference["new"] == difference["changed"] == []
    status, said = run("--lake", scanned, "--rules", rules, "--diff")
    assert status == 0
    assert "gone: " in said


def test_no_difference_is_a_positive_answer(scanned: Path) -> None:
    status, said = run("--lake", scanned, "--check")
    assert status == 0
    assert "new: 0" in said


def test_the_lake_that_is_made_can_be_kept(scanned: Path, tmp_path: Path) -> None:
    status, said = run("--lake", scanned, "--out", tmp_path / "kept", "--json")
    assert status == 0
    assert (
        json.loads(said)["read"]["access"]
        == read(tmp_path / "kept", "raw")
        .filter([value == "custody.access" for value in read(tmp_path / "kept", "raw")["topic"].to_pylist()])
        .num_rows
    )


def test_wrong_use_is_refused(scanned: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="already holds records"):
        replay(scanned, scanned, load_all())
    with pytest.raises(SekishoError, match="no lake"):
        replay(tmp_path / "nothing", tmp_path / "again", load_all())


def test_a_folder_without_rules_is_refused(scanned: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no rules"):
        run("--lake", scanned, "--rules", tmp_path, "--diff")


def test_nothing_that_is_shown_steers_the_terminal(
    scanned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = dict.fromkeys(("rule_id", "subject", "state", "message"), "a\x1b[2J") | {"events": 1}
    found = Difference([row], [row], [(["message"], row, row)], 0)
    monkeypatch.setattr("stream.commands.replay.compare", lambda *_: found)
    _, said = run("--lake", scanned, "--diff")
    assert said.count(r"a\u001b[2J") == 3 + 3 + 4 and "\x1b" not in said


def test_a_lake_that_cannot_be_written_is_judged_again_as_it_is(scanned: Path, tmp_path: Path) -> None:
    """A copy elsewhere has a views.sql that would be written anew."""
    shutil.copytree(scanned, tmp_path / "lake")
    before = {path: path.read_bytes() for path in (tmp_path / "lake").rglob("*") if path.is_file()}
    assert not compare(scanned, tmp_path / "lake")
    replay(tmp_path / "lake", tmp_path / "again", load_all())
    assert not compare(tmp_path / "lake", tmp_path / "again")
    assert {path: path.read_bytes() for path in (tmp_path / "lake").rglob("*") if path.is_file()} == before


def test_a_damaged_file_is_told_in_one_line(scanned: Path, tmp_path: Path) -> None:
    shutil.copytree(scanned, tmp_path / "lake")
    (file,) = (tmp_path / "lake" / "access").glob("dt=*/*.parquet")
    file.write_bytes(b"no parquet")
    with pytest.raises(SekishoError, match="restore it from a copy") as raised:
        replay(tmp_path / "lake", tmp_path / "again", load_all())
    assert str(file) in str(raised.value) and "\n" not in str(raised.value)


def test_what_is_not_settled_is_left_out(scanned: Path, tmp_path: Path) -> None:
    shutil.copytree(scanned, tmp_path / "lake")
    lake = Lake.open(tmp_path / "lake")
    end = lake.offsets()["custody.access", 0]
    land(lake, landing(ACCESS, {0: range(end, end + 10)}))
    replay(tmp_path / "lake", tmp_path / "again", load_all())
    assert Lake.open(tmp_path / "again").offsets()["custody.access", 0] == end
    assert not compare(tmp_path / "lake", tmp_path / "again")


def test_a_state_made_anew_has_nothing_new_to_say(scanned: Path, tmp_path: Path) -> None:
    shutil.copytree(scanned, tmp_path / "lake")
    lake = Lake.open(tmp_path / "lake")
    engine = Reconciler(None, load_all())
    again = Reconciling(lake, engine)
    known.load(engine.references, lake, lake.offsets())
    before = again.follow()
    said = again.turn({}, datetime.now(UTC), is_due=True, final=True)
    again.close()
    assert before is not None
    assert said is not None
    assert [said.history.num_rows, said.events.num_rows, said.duplicates.num_rows] == [0, 0, 0]
    assert said.coverage.num_rows == 0
    assert (said.watermark, said.latest_broker_time) == (before.watermark, before.latest_broker_time)

"""The reconciler's steps: each is there whole and once, in order, from one reconciler at a time."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from schemas.errors import SekishoError
from schemas.events import ACCESS
from schemas.tables import TABLES
from sinks import settlement
from sinks.batch import File
from sinks.decision import Decision, complete
from sinks.lake import Conflict, Lake
from sinks.log import CHECKPOINT_INTERVAL, DeltaLog
from sinks.parquet import TableFile
from tests.landings import AT, START, expected, land, landing, mixed, places, scan
from tests.settling import event, full, micros, settle, settled, table

SETTLED = ("finding_history", "finding_event", "duplicate", "coverage", "watermark")


def steps(folder: Path, name: str) -> list[int]:
    return sorted(scan(folder, name)["step"].drop_null().to_pylist())


def info(folder: Path, name: str, version: int) -> dict[str, object]:
    entry = folder / name / "_delta_log" / f"{version:020}.json"
    found: dict[str, object] = json.loads(entry.read_bytes().split(b"\n")[0])["commitInfo"]["sekisho"]
    return found


# Reading what has landed


def test_commits_tell_ranges_and_files_in_order(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    assert list(lake.commits(-1)) == []
    land(lake, *mixed(0, 10))
    land(lake, landing(ACCESS, {1: range(10, 16)}))
    one, two = Lake.open(tmp_path).commits(-1)
    assert [one.version, two.version] == [1, 2]
    assert set(one.files) == {"raw", "access", "allocation", "party", "finding_event"}
    assert set(two.files) == {"raw", "access", "finding_event"}
    assert two.batch.ranges == {("custody.access", 1): (10, 16)}
    for name, files in one.files.items():
        assert all(file.is_absolute() for file in files)
        assert places(pq.read_table(files)) == [p for p in expected(name, 10) if p[2] < 10]
    assert [commit.version for commit in lake.commits(1)] == [2]
    assert list(lake.commits(2)) == []


def test_commits_say_what_was_known_and_where_kafka_has_holes(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    lake.begin(AT).commit(
        {("custody.access", 0): (0, 3)}, {("custody.party", 0): 9}, [("custody.access", 0, 0, 3)]
    )
    (commit,) = lake.commits(0)
    assert commit.files == {}
    assert commit.batch.known == {("custody.party", 0): 9}
    assert commit.batch.holes == [("custody.access", 0, 0, 3)]


def test_a_merge_of_files_is_no_commit(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, landing(ACCESS, {0: range(5)}))
    land(lake, landing(ACCESS, {0: range(5, 10)}))
    DeltaTable(str(tmp_path / "raw")).optimize.compact()
    land(lake, landing(ACCESS, {0: range(10, 15)}))
    assert [commit.version for commit in lake.commits(0)] == [1, 2, 4]


# Settling


def test_a_step_lands_in_every_table_with_its_number(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    assert lake.settled() is None
    settle(lake, 1, full(1))
    settle(lake, 2, full(2), START + timedelta(hours=1))
    assert lake.settled() == Lake.open(tmp_path).settled() == settled(2, START + timedelta(hours=1))
    for name in SETTLED:
        assert steps(tmp_path, name) == [1, 2], name
        assert DeltaTable(str(tmp_path / name)).transaction_version("reconciler") == 2
        read = scan(tmp_path, name)
        assert read.select(TABLES[name].names).schema.names == TABLES[name].names
        assert set(read["ingested_at"].to_pylist()) == {AT}
        assert set(read["dt"].to_pylist()) == {AT.date()}
    (given,) = table("finding_history", full(1)["finding_history"]).to_pylist()
    found = [row for row in scan(tmp_path, "finding_history").to_pylist() if row["step"] == 1]
    assert [{name: row[name] for name in given} for row in found] == [given]


def test_the_watermark_row_is_the_step_itself(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    lake.settle(settled(1, None, raw_version=7, late_events=3), {}, AT)
    lake.settle(settled(2, START, latest_broker_time=micros(START + timedelta(minutes=10))), {}, AT)
    rows = sorted(scan(tmp_path, "watermark").to_pylist(), key=lambda row: row["step"])
    for row in rows:
        row.pop("dt")
    assert rows == [
        {
            "step": 1,
            "raw_version": 7,
            "watermark": None,
            "latest_broker_time": None,
            "late_events": 3,
            "ingested_at": AT,
        },
        {
            "step": 2,
            "raw_version": 2,
            "watermark": START,
            "latest_broker_time": START + timedelta(minutes=10),
            "late_events": 0,
            "ingested_at": AT,
        },
    ]


def test_a_step_without_rows_is_still_a_step(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    settle(lake, 1)
    settle(lake, 2, {"coverage": []})
    assert lake.settled() == settled(2)
    assert DeltaTable(str(tmp_path / "finding_history")).version() == 2
    assert DeltaTable(str(tmp_path / "coverage")).version() == 0


@pytest.mark.parametrize("step", [0, 1, 3])
def test_a_step_that_is_not_the_next_is_a_conflict_and_leaves_no_file(tmp_path: Path, step: int) -> None:
    lake = Lake.open(tmp_path)
    settle(lake, 1, full(1))
    before = set(tmp_path.rglob("*.parquet"))
    with pytest.raises(Conflict, match=f"settled up to step 1: step {step} is not the next"):
        settle(lake, step, full(step))
    assert set(tmp_path.rglob("*.parquet")) == before
    assert lake.settled() == settled(1)


def test_of_two_reconcilers_at_one_step_one_gets_a_conflict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other settles after the check and before the commit."""
    ours, theirs = Lake.open(tmp_path), Lake.open(tmp_path)
    redo = settlement.Settlements.redo

    def interrupted(self: settlement.Settlements) -> None:
        redo(self)
        if self is ours._settlements:
            settle(theirs, 1, full(1), START + timedelta(hours=1))

    monkeypatch.setattr(settlement.Settlements, "redo", interrupted)
    with pytest.raises(Conflict):
        settle(ours, 1, full(1))
    monkeypatch.undo()
    assert ours.settled() == settled(1, START + timedelta(hours=1))
    for name in SETTLED:
        assert len(list(tmp_path.glob(f"{name}/dt=*/*.parquet"))) == 1, name
        assert steps(tmp_path, name) == [1]


def test_the_deciding_commit_names_every_file_with_its_digest(tmp_path: Path) -> None:
    settle(Lake.open(tmp_path), 1, full(1))
    decided = info(tmp_path, "finding_history", 1)
    assert {name: decided[name] for name in ("step", "raw_version", "watermark", "late_events")} == {
        "step": 1,
        "raw_version": 1,
        "watermark": micros(START),
        "late_events": 0,
    }
    tables = decided["tables"]
    assert isinstance(tables, dict)
    assert list(tables) == ["finding_event", "duplicate", "coverage", "watermark"]
    for name, (file,) in tables.items():
        content = (tmp_path / name / file["add"]["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        follower = info(tmp_path, name, 1)
        assert follower["history_version"] == follower["step"] == 1
        assert follower["files"] == [{"path": file["add"]["path"], "sha256": file["sha256"], "rows": 1}]


def undone(monkeypatch: pytest.MonkeyPatch, lake: Lake, step: int, done: tuple[str, ...] = ()) -> None:
    """Settles a step as a process would that dies after its commits to finding_history and `done`."""

    def die(log: DeltaLog, decision: Decision, version: int) -> None:
        if log.table.name in done:
            complete(log, decision, version)

    with monkeypatch.context() as patch:
        patch.setattr(settlement, "complete", die)
        settle(lake, step, full(step))


@pytest.mark.parametrize("done", [(), ("finding_event",), ("finding_event", "duplicate", "coverage")])
def test_what_a_crash_left_undone_is_done_when_asked_for_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: tuple[str, ...]
) -> None:
    lake = Lake.open(tmp_path)
    settle(lake, 1, full(1))
    undone(monkeypatch, lake, 2, done)
    for name in set(SETTLED) - {"finding_history", *done}:
        assert steps(tmp_path, name) == [1]
    again = Lake.open(tmp_path)
    assert again.settled() == settled(2)
    assert again.settled() == settled(2)
    for name in SETTLED:
        assert steps(tmp_path, name) == [1, 2]


@pytest.mark.parametrize("done", [(), ("finding_event", "duplicate", "coverage")])
def test_where_nothing_is_to_be_written_the_last_step_is_the_last_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: tuple[str, ...]
) -> None:
    lake = Lake.open(tmp_path)
    assert Lake.open(tmp_path, repair=False).settled() is None
    settle(lake, 1, full(1))
    undone(monkeypatch, lake, 2, done)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert Lake.open(tmp_path, repair=False).settled() == settled(1)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_what_a_crash_left_undone_is_done_before_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path)
    undone(monkeypatch, lake, 1)
    settle(Lake.open(tmp_path), 2)  # touches none of the tables but watermark
    for name in ("finding_event", "duplicate", "coverage"):
        assert steps(tmp_path, name) == [1]
    assert steps(tmp_path, "watermark") == [1, 2]


def test_a_peer_that_completes_our_step_does_not_double_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, peer = Lake.open(tmp_path), Lake.open(tmp_path)
    peered: list[int] = []

    def late(log: DeltaLog, decision: Decision, version: int) -> None:
        if not peered:
            peered.append(version)
            assert peer.settled() == settled(1)
        complete(log, decision, version)

    monkeypatch.setattr(settlement, "complete", late)
    settle(ours, 1, full(1))
    for name in SETTLED:
        assert steps(tmp_path, name) == [1]
        assert DeltaTable(str(tmp_path / name)).version() == 1


def test_the_last_step_is_found_behind_other_peoples_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path)
    settle(lake, 1, full(1))
    undone(monkeypatch, lake, 2)
    assert DeltaTable(str(tmp_path / "finding_history")).optimize.compact()["numFilesRemoved"] == 2
    assert Lake.open(tmp_path).settled() == settled(2)
    settle(Lake.open(tmp_path), 3, full(3))
    for name in SETTLED:
        assert steps(tmp_path, name) == [1, 2, 3]


def test_steps_can_be_read_again_in_order_with_their_files(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    assert list(lake.settlements(0)) == []
    settle(lake, 1, full(1))
    settle(lake, 2)
    DeltaTable(str(tmp_path / "finding_history")).optimize.compact()
    settle(lake, 3, full(3), START + timedelta(hours=1))
    found = list(Lake.open(tmp_path).settlements(0))
    hour = START + timedelta(hours=1)
    assert [one.settled for one in found] == [settled(1), settled(2), settled(3, hour)]
    assert [set(one.files) for one in found] == [set(SETTLED), {"watermark"}, set(SETTLED)]
    for name in SETTLED:
        assert pq.read_table(found[2].files[name])["step"].to_pylist() == [3]
    assert [[one.settled.step for one in lake.settlements(after)] for after in (1, 2, 3)] == [[2, 3], [3], []]


def test_steps_are_found_through_checkpoints(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    last = 2 * CHECKPOINT_INTERVAL + 1
    for step in range(1, last + 1):
        settle(lake, step, full(step) if step == 3 else {})
    again = Lake.open(tmp_path)
    assert again.settled() == settled(last)
    assert steps(tmp_path, "watermark") == list(range(1, last + 1))
    assert steps(tmp_path, "coverage") == [3]


def test_finding_history_behind_its_tables_is_an_error(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    settle(lake, 1, full(1))
    settle(lake, 2, full(2))
    (tmp_path / "finding_history" / "_delta_log" / f"{2:020}.json").unlink()
    with pytest.raises(SekishoError, match="is ahead of finding_history"):
        Lake.open(tmp_path).settled()
    assert Lake.open(tmp_path).offsets() == {}, "workers can land all the same"


def test_a_lost_file_that_is_still_to_be_committed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone(monkeypatch, Lake.open(tmp_path), 1)
    (file,) = tmp_path.glob("coverage/dt=*/*.parquet")
    file.unlink()
    with pytest.raises(SekishoError, match="has lost"):
        Lake.open(tmp_path).settled()


def test_a_disk_that_fails_before_the_decision_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path)

    def fail(*_: object) -> File:
        raise SekishoError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(TableFile, "finish", fail)
        with pytest.raises(SekishoError, match="no space"):
            settle(lake, 1, full(1))
    assert not list(tmp_path.glob("*/dt=*/*.parquet"))
    settle(lake, 1, full(1))


# Workers and the reconciler in one table


def test_workers_and_the_reconciler_share_finding_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that owes finding_event rows is completed though the reconciler has committed there since."""
    lake = Lake.open(tmp_path)
    land(lake, *mixed(0, 10))
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "_complete", lambda *_: None)
        land(lake, *mixed(10, 20))
    settle(Lake.open(tmp_path), 1, {"finding_event": [event("f", 5000)]})
    assert set(Lake.open(tmp_path).offsets().values()) == {20}
    rows = scan(tmp_path, "finding_event")
    wanted = sorted([*expected("finding_event", 20), ("custody.access", 0, 5000)])
    assert places(rows) == wanted
    assert rows["step"].null_count == len(wanted) - 1


def test_a_step_is_completed_though_workers_have_committed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path)
    undone(monkeypatch, lake, 1)
    land(Lake.open(tmp_path), *mixed(0, 10))
    assert Lake.open(tmp_path).settled() == settled(1)
    assert steps(tmp_path, "finding_event") == [1]
    assert Lake.open(tmp_path).offsets()["custody.access", 0] == 10


def test_times_of_duckdb_and_rows_in_any_order_of_columns_are_taken(tmp_path: Path) -> None:
    rows = table("finding_event", [event("f", 1)])
    naive = rows["occurred_at"].cast(pa.timestamp("us"))
    rows = rows.set_column(rows.schema.get_field_index("occurred_at"), "occurred_at", naive)
    lake = Lake.open(tmp_path)
    lake.settle(settled(1), {"finding_event": rows.select(sorted(rows.column_names))}, AT)
    assert scan(tmp_path, "finding_event")["occurred_at"].to_pylist() == [START + timedelta(seconds=1)]


# Triage


def test_triage_rows_are_appended(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    at = datetime(2026, 3, 2, 1, tzinfo=UTC)
    row = {"finding_id": "f", "state": "open", "reason": "to be looked at", "actor": "sato", "at": at}
    lake.triage([row], AT)
    lake.triage([], AT)
    Lake.open(tmp_path).triage([{**row, "state": "closed"}, {**row, "finding_id": "g"}], AT)
    found = scan(tmp_path, "triage").to_pylist()
    assert sorted((one["finding_id"], one["state"]) for one in found) == [
        ("f", "closed"),
        ("f", "open"),
        ("g", "open"),
    ]
    assert {one["at"] for one in found} == {at}
    assert {one["ingested_at"] for one in found} == {AT}
    assert DeltaTable(str(tmp_path / "triage")).version() == 2
    assert DeltaTable(str(tmp_path / "triage")).metadata().configuration["delta.appendOnly"] == "true"

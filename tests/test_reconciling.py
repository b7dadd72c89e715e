"""Lake, engine, lake: whatever is interrupted between the two, every step is settled once."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import duckdb
import pyarrow as pa
import pytest

from rules.reconciler.given import Clock, StepInput, StepOutput
from rules.reconciler.step import Reconciler
from schemas.errors import SekishoError
from schemas.events import ACCESS
from sinks.lake import Conflict, Lake
from sinks.views import connect
from stream import reconciling as module
from stream import state_folder
from stream.reconciling import Halted, Reconciling
from stream.state_folder import ActiveLock, claim
from tests.fake_engine import RULE, FakeEngine
from tests.landings import land, landing, scan

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLACE = ("custody.access", 0)


def add(lake: Lake, start: int, end: int) -> None:
    land(lake, landing(ACCESS, {0: range(start, end)}))


def accepted(end: int) -> int:
    return sum(offset % 7 != 3 for offset in range(end))


def revisions(lake: Path) -> list[int]:
    rows = scan(lake, "finding_history").to_pylist()
    return [row["revision"] for row in sorted(rows, key=lambda row: row["step"])]


def turn(reconciling: Reconciling, **ends: int) -> StepOutput | None:
    return reconciling.turn({("custody.access", int(name[1:])): end for name, end in ends.items()}, AT)


def test_what_lands_is_settled_once(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    one = Reconciling(lake, FakeEngine())
    assert turn(one) is None
    add(lake, 0, 10)
    assert turn(one) is not None
    assert turn(one) is None
    add(lake, 10, 20)
    turn(one)
    settled = lake.settled()
    assert settled is not None
    assert (settled.step, settled.raw_version) == (2, 2)
    assert revisions(tmp_path) == [accepted(10), accepted(20)]


def test_a_step_without_news_is_a_sign_of_life(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    engine = FakeEngine()
    one = Reconciling(lake, engine)
    add(lake, 0, 10)
    turn(one)
    assert one.turn({}, AT, is_due=True) is not None
    settled = lake.settled()
    assert settled is not None
    assert (settled.step, settled.raw_version) == (2, 1)
    assert engine.events == accepted(10)


def test_a_state_that_is_behind_catches_up_silently(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    one = Reconciling(lake, FakeEngine())
    for start in range(0, 40, 10):
        add(lake, start, start + 10)
        turn(one)
    add(lake, 40, 50)
    late = FakeEngine()
    other = Reconciling(Lake.open(tmp_path), late)
    settled = other.follow()
    assert settled is not None
    assert (late.position, late.settled_step, late.events) == (4, 4, accepted(40))
    assert [settle for _, settle in late.given] == [False]
    assert all(given.clock == Clock(None, None) for given, _ in late.given), "silence decides nothing"
    assert late.absorbed == [(4, Clock(settled.watermark, settled.latest_broker_time), 1)]
    turn(other)
    assert revisions(tmp_path) == [accepted(end) for end in (10, 20, 30, 40, 50)]


def test_a_crash_between_the_lake_and_the_state_settles_nothing_twice(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)

    class Dies(FakeEngine):
        def commit(self, settled_step: int | None = None) -> None:
            if settled_step is None:
                super().commit()
            else:
                raise KeyboardInterrupt

    state = tmp_path / "state"
    state.mkdir()
    add(lake, 0, 10)
    with pytest.raises(KeyboardInterrupt):
        turn(Reconciling(lake, Dies(state)))
    engine = FakeEngine(state)
    assert engine.position == 0
    again = Reconciling(Lake.open(tmp_path), engine)
    again.follow()
    assert turn(again) is None
    assert (engine.position, engine.settled_step, engine.events) == (1, 1, accepted(10))
    assert revisions(tmp_path) == [accepted(10)]


def test_who_loses_the_race_takes_the_step_back(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    first, second = FakeEngine(), FakeEngine()
    one, other = Reconciling(lake, first), Reconciling(Lake.open(tmp_path), second)
    add(lake, 0, 10)
    turn(one)
    with pytest.raises(Conflict):
        turn(other)
    assert second.position == 0
    other.follow()
    add(lake, 10, 20)
    turn(other)
    with pytest.raises(Conflict):
        turn(one)
    one.follow()
    assert first.events == second.events == accepted(20)
    assert revisions(tmp_path) == [accepted(10), accepted(20)]


@pytest.mark.parametrize("failure", [duckdb.IOException("no space left\nmore"), OSError("no space left")])
def test_a_full_disk_is_told_in_one_line_and_the_step_taken_back(failure: Exception, tmp_path: Path) -> None:
    class Full(FakeEngine):
        def take(self, given: StepInput) -> pa.Table:
            super().take(given)
            raise failure

    lake = Lake.open(tmp_path)
    add(lake, 0, 10)
    engine = Full()
    with pytest.raises(SekishoError, match=r"no space left; free disk"):
        turn(Reconciling(lake, engine))
    assert engine.position == 0
    assert lake.settled() is None


@pytest.mark.parametrize("kind", [duckdb.TransactionException, duckdb.FatalException])
@pytest.mark.parametrize("settled", [True, False])
def test_a_disk_that_is_full_when_a_step_is_kept_is_told_too(
    settled: bool, kind: type[duckdb.Error], tmp_path: Path
) -> None:
    class Full(FakeEngine):
        def commit(self, settled_step: int | None = None) -> None:
            raise kind("Failed to commit: no space left")

    lake = Lake.open(tmp_path)
    add(lake, 0, 10)
    if not settled:  # the step is then followed, or taken in silently
        turn(Reconciling(lake, FakeEngine()))
    engine = Full()
    with pytest.raises(SekishoError, match=r"no space left; free disk"):
        turn(Reconciling(lake, engine)) if settled else Reconciling(lake, engine).follow()
    assert engine.position == 0


def test_a_rollback_that_fails_lets_go_what_is_in_memory_all_the_same() -> None:
    engine = Reconciler(None, [])
    engine._coverage._held = Mock()
    with pytest.raises(duckdb.Error):  # nothing was begun
        engine.rollback()
    assert engine._coverage._held is None
    engine.close()


def test_partitions_with_unread_records_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake.open(tmp_path)
    engine = FakeEngine()
    one = Reconciling(lake, engine)
    add(lake, 0, 10)
    turn(one, p0=10, p1=0, p2=3)
    assert engine.given[-1][0].unread == {("custody.access", 2)}
    monkeypatch.setattr("stream.steps.MOST_ROWS", 1)
    add(lake, 10, 20)
    add(lake, 20, 30)
    turn(one, p0=30)
    assert one.behind
    assert engine.given[-1][0].unread == {PLACE}, "landed, but not in this step"
    turn(one, p0=30)
    assert not one.behind
    assert engine.given[-1][0].unread == frozenset()


def test_following_can_be_halted(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    one = Reconciling(lake, FakeEngine())
    add(lake, 0, 10)
    turn(one)
    engine = FakeEngine()
    other = Reconciling(lake, engine)
    other.halted = True
    with pytest.raises(Halted):
        other.follow()
    assert engine.position == 0


def test_the_end_of_a_scan_is_one_settled_step(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    add(lake, 0, 10)
    add(lake, 10, 20)
    engine = FakeEngine()
    output = Reconciling(lake, engine).conclude(AT)
    second = 1_000_000
    base = 1_772_323_200 * second
    assert output.watermark == base + 19 * second, "the greatest event time"
    assert output.latest_broker_time == base + 20 * second
    assert revisions(tmp_path) == [accepted(20)]
    assert scan(tmp_path, "duplicate").num_rows == 1, "both steps found it"
    with_tick = Reconciling(Lake.open(tmp_path / "other"), FakeEngine()).conclude(AT, until=5)
    assert (with_tick.watermark, with_tick.latest_broker_time) == (5, 5)


def test_what_the_last_step_told_can_be_told_again(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    one = Reconciling(lake, FakeEngine())
    add(lake, 0, 10)
    turn(one)
    assert [row["revision"] for row in one.last_history().to_pylist()] == [accepted(10)]
    quiet = Reconciling(lake, FakeEngine(), experimental=[RULE])
    quiet.follow()
    assert quiet.last_history().num_rows == 0


# State folders


def fit(_: Any) -> bool:
    return True


def test_a_state_is_found_again_and_belongs_to_one(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    add(lake, 0, 10)
    with claim(lake.path) as folder:
        turn(Reconciling(lake, folder.open(FakeEngine, fit)))
        with claim(lake.path) as other:
            assert other.open(FakeEngine, fit).position == 0, "a second one has a folder of its own"
    with claim(lake.path) as folder:
        assert folder.open(FakeEngine, fit).position == 1


def test_a_chosen_folder_in_use_is_refused(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    with (
        claim(lake.path, tmp_path / "mine"),
        pytest.raises(Exception, match="used by another"),
        claim(lake.path, tmp_path / "mine"),
    ):
        pass


def test_a_state_that_is_not_fit_gives_way_to_a_snapshot_or_to_nothing(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    with claim(lake.path) as folder:
        engine = folder.open(FakeEngine, fit)
        one = Reconciling(lake, engine)
        for start in range(0, 40, 10):
            add(lake, start, start + 10)
            turn(one)
            folder.snapshot(engine)
        add(lake, 40, 50)
        turn(one)
    names = sorted(path.name for path in (lake.path / "_reconciler").glob("snapshot-*"))
    assert [int(name.removeprefix("snapshot-")) for name in names] == [3, 4], "two are kept"
    with claim(lake.path) as folder:
        assert folder.open(FakeEngine, lambda engine: engine.position < 5).position == 4
        assert folder.open(FakeEngine, lambda engine: engine.position < 4).position == 3
        assert folder.open(FakeEngine, lambda engine: engine.position < 1).position == 0


def test_a_state_of_another_lake_is_thrown_away(tmp_path: Path) -> None:
    for name in ("one", "two"):
        lake = Lake.open(tmp_path / name)
        add(lake, 0, 10)
        with claim(lake.path, tmp_path / "state") as folder:
            engine = folder.open(FakeEngine, fit)
            assert engine.position == 0
            turn(Reconciling(lake, engine))


@pytest.mark.parametrize("failure", [SekishoError("broken"), duckdb.Error("Corrupt database file")])
def test_a_state_that_cannot_be_read_is_made_anew(failure: Exception, tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    add(lake, 0, 10)
    made = []

    def make(folder: Path) -> FakeEngine:
        made.append(folder)
        if (folder / "state.json").exists():
            raise failure
        return FakeEngine(folder)

    with claim(lake.path) as folder:
        turn(Reconciling(lake, folder.open(make, fit)))
        assert folder.open(make, fit).position == 0
    assert len(made) == 3


def test_a_state_that_turns_out_to_be_damaged_is_made_anew_from_the_lake_alone(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    add(lake, 0, 10)
    with claim(lake.path) as folder:
        engine = folder.open(FakeEngine, fit)
        turn(Reconciling(lake, engine))
        folder.snapshot(engine)
        with (
            pytest.raises(SekishoError, match=r"state is damaged: Corrupt database file; .*"),
            folder.watched(),
        ):
            raise duckdb.Error("Corrupt database file\nat length")
        again = folder.open(FakeEngine, fit)
        assert again.position == 0
        Reconciling(lake, again).follow()
        with pytest.raises(duckdb.BinderException), folder.watched():
            raise duckdb.BinderException("a bug")
        assert folder.open(FakeEngine, fit).position == 1


def test_a_damaged_block_is_found_and_the_state_made_anew(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    add(lake, 0, 10)
    with claim(lake.path) as folder:
        engine = folder.open(lambda path: Reconciler(path, []), fit)
        Reconciling(lake, engine).skim(lake.commits(0))
        engine.checkpoint()
        engine.close()
        file = folder._state / "state.duckdb"
        content = bytearray(file.read_bytes())
        for at in range(3 * 4096 + 1000, len(content), 1 << 18):  # in each of DuckDB's blocks
            content[at] ^= 0xFF if at > 1 << 18 else 0  # but the first, which is read at once
        file.write_bytes(content)
        again = folder.open(lambda path: Reconciler(path, []), fit)
        assert again.position == 0
        Reconciling(lake, again).skim(lake.commits(0))
        assert again.position == 1
        again.close()


def test_drafts_of_snapshots_that_were_killed_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path / "lake")
    with claim(lake.path) as folder:
        draft = lake.path / "_reconciler" / f".{'0' * 32}"
        (draft / "seen").mkdir(parents=True)
        folder.open(FakeEngine, fit)
        assert draft.exists(), "another one may be writing it"
        monkeypatch.setattr(state_folder, "STALE_SECONDS", -1.0)
        folder.open(FakeEngine, fit)
        assert not draft.exists()


def test_a_snapshot_is_durable_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path / "lake")
    add(lake, 0, 10)
    synced: list[tuple[str, bool]] = []
    real = os.fsync

    def sync(handle: int) -> None:
        real(handle)
        path = Path(f"/proc/self/fd/{handle}").readlink()
        synced.append((path.name, any(path.parents[1].glob("snapshot-*"))))

    with claim(lake.path) as folder:
        engine = folder.open(FakeEngine, fit)
        turn(Reconciling(lake, engine))
        monkeypatch.setattr(os, "fsync", sync)
        folder.snapshot(engine)
    assert {"state.json", "lake"} <= {name for name, is_named in synced if not is_named}
    assert synced[-1][0] == "_reconciler"


def test_the_lock_is_a_hint_until_the_lake_has_said_otherwise(tmp_path: Path) -> None:
    first, second = ActiveLock(tmp_path), ActiveLock(tmp_path)
    assert first.take()
    assert not second.take()
    first.distrust()
    assert not first.take()
    assert second.take()
    first.close()
    second.close()


def test_nothing_but_tables_is_read_by_views(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    add(lake, 0, 10)
    with claim(lake.path) as folder:
        turn(Reconciling(lake, folder.open(FakeEngine, fit)))
        with connect(lake.path) as views:
            assert views.sql("SELECT count(*) FROM finding_history").fetchall() == [(1,)]


def test_duplicates_are_told_once(tmp_path: Path) -> None:
    rows = [{"topic": "t", "partition": 0, "offset": 1, "of_offset": of} for of in (5, 3)]
    schema = pa.schema(
        [
            ("topic", pa.string()),
            ("partition", pa.int32()),
            ("offset", pa.int64()),
            ("of_offset", pa.int64()),
        ]
    )
    tables = [pa.Table.from_pylist([row], schema) for row in rows]
    assert module._latest(tables).to_pylist() == [rows[1]]

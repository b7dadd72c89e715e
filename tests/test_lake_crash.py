"""Kills and power cuts at every step, torn log entries, failing disks: nothing lost, nothing twice."""

import errno
import itertools
import json
import logging
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from schemas.errors import SekishoError
from schemas.events import ACCESS
from schemas.tables import FINDING_EVENT
from sinks.lake import Lake
from sinks.log import CHECKPOINT_INTERVAL
from sinks.views import connect
from tests import crash_writer
from tests.landings import AT, expected, land, landing, mixed, places, scan
from tests.settling import full, settle

TABLES = ("raw", "access", "allocation", "party", "finding_event")
EACH = 14  # offsets a batch, so that each has rows for every table
START = EACH * (CHECKPOINT_INTERVAL - 1)
END = START + EACH
"""The batch that is killed; its commit is the one that makes the checkpoint."""


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: what survives is decided here, not by the disk."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture
def tmp_path(memory: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def base(memory: Path) -> Path:
    """A lake one commit short of a checkpoint in every table."""
    folder = memory / "base" / "lake"
    lake = Lake.open(folder)
    for start in range(0, START, EACH):
        land(lake, *mixed(start, start + EACH), at=AT - timedelta(days=1))
    return folder


def complete(folder: Path, end: int) -> None:
    """What a restarted worker does: asks for the offsets and lands what is missing."""
    lake = Lake.open(folder)
    offsets = lake.offsets()
    for one in mixed(0, end):
        for partition in set(one.raw["partition"].to_pylist()):
            start = offsets.get((one.record.topic, partition), 0)
            assert start in (0, START, end)
            if start < end:
                land(lake, landing(one.record, {partition: range(start, end)}))


def check_whole(folder: Path, end: int) -> None:
    """Every offset exactly once in every table, for deltalake and for the views alike."""
    views = connect(folder)
    for table in TABLES:
        wanted = expected(table, end)
        assert places(scan(folder, table)) == wanted, table
        seen = views.execute(f'SELECT topic, "partition", "offset" FROM "{table}" ORDER BY ALL').fetchall()
        assert seen == wanted, table


def check_once(folder: Path) -> None:
    """Before any repair: no record twice, and nothing derived without its evidence in raw."""
    views = connect(folder)
    for table in TABLES:
        seen = views.execute(f'SELECT topic, "partition", "offset" FROM "{table}"').fetchall()
        assert len(seen) == len(set(seen)), table
        raw = set(views.execute('SELECT topic, "partition", "offset" FROM raw').fetchall())
        assert set(seen) <= raw, table


def steps_of(base: Path, tmp_path: Path, start: int, end: int) -> list[str]:
    """The steps of a run that is not killed."""
    folder = tmp_path / "whole"
    if base.exists():
        shutil.copytree(base, folder)
    assert crash_writer.run(folder, start, end, crash_writer.NEVER, tmp_path / "journal")
    names: list[str] = json.loads((tmp_path / "journal").read_text())["names"]
    return names


def fatal_steps(steps: list[str], every: int) -> list[int]:
    """The steps to die at: each, or every so many, and then of the commits and checkpoints every third, the
    first among them (raw's, which decides).

    Of log entries that are read and synced one after another only the first counts.
    """
    reading = [step.startswith("fsync 0") for step in steps]
    fatal = [n for n in range(len(steps)) if not (n and reading[n] and reading[n - 1])]
    deciding = [n for n in fatal if steps[n] in ("link", "create_checkpoint")]
    return sorted({*fatal[::every], *(deciding if every == 1 else deciding[::3])})


MATRIX = pytest.mark.parametrize(
    ("power", "every"),
    [
        ("kept", 7),
        ("cut", 7),
        pytest.param("kept", 1, marks=pytest.mark.slow),
        pytest.param("cut", 1, marks=pytest.mark.slow),
    ],
)


@MATRIX
def test_killed_at_every_step_of_landing(base: Path, tmp_path: Path, power: str, every: int) -> None:
    steps = steps_of(base, tmp_path, START, END)
    assert steps.count("link") == len(TABLES)
    assert steps.count("create_checkpoint") == len(TABLES)
    for fatal in fatal_steps(steps, every):
        folder = tmp_path / f"lake{fatal}"
        shutil.copytree(base, folder)
        before = crash_writer.inventory(folder)
        assert not crash_writer.run(folder, START, END, fatal, tmp_path / "journal")
        if power == "cut":
            crash_writer.cut_power(folder, before, tmp_path / "journal")
        else:
            check_once(folder)
        complete(folder, END)
        check_whole(folder, END)
        shutil.rmtree(folder)


def test_a_batch_whose_commit_returned_survives_a_power_cut(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    shutil.copytree(base, folder)
    # Past the checkpoint, whose own syncs would help, and into a new day's folder.
    land(Lake.open(folder), *mixed(START, END), at=AT - timedelta(days=1))
    before = crash_writer.inventory(folder)
    assert crash_writer.run(folder, END, END + EACH, crash_writer.NEVER, tmp_path / "journal")
    crash_writer.cut_power(folder, before, tmp_path / "journal")
    check_whole(folder, END + EACH)  # before anything could repair it
    assert set(Lake.open(folder).offsets().values()) == {END + EACH}


@MATRIX
def test_killed_at_every_step_of_creating_the_lake(tmp_path: Path, power: str, every: int) -> None:
    steps = steps_of(tmp_path / "nothing", tmp_path, 0, 0)
    for fatal in range(0, len(steps), 3 * every):
        folder = tmp_path / f"lake{fatal}"
        assert not crash_writer.run(folder, 0, 0, fatal, tmp_path / "journal")
        if power == "cut" and folder.exists():
            crash_writer.cut_power(folder, {}, tmp_path / "journal")
        land(Lake.open(folder), *mixed(0, 5))
        check_whole(folder, 5)
        shutil.rmtree(folder)


@MATRIX
def test_killed_at_every_step_of_completing_what_a_crash_left(
    base: Path, tmp_path: Path, power: str, every: int
) -> None:
    half = tmp_path / "half"
    shutil.copytree(base, half)
    raw_is_committed = (
        steps_of(base, tmp_path, START, END).index("link") + 2
    )  # the link and the folder's sync
    crash_writer.run(half, START, END, raw_is_committed, tmp_path / "journal")
    shutil.rmtree(tmp_path / "whole")
    steps = steps_of(half, tmp_path, 0, 0)
    assert steps.count("link") == len(TABLES) - 1
    for fatal in fatal_steps(steps, every):
        folder = tmp_path / f"lake{fatal}"
        shutil.copytree(half, folder)
        before = crash_writer.inventory(folder)
        assert not crash_writer.run(folder, 0, 0, fatal, tmp_path / "journal")
        if power == "cut":
            crash_writer.cut_power(folder, before, tmp_path / "journal")
        lake = Lake.open(folder)
        assert set(lake.offsets().values()) == {END}, "nothing is read from Kafka again"
        check_whole(folder, END)
        shutil.rmtree(folder)


# The reconciler's steps

SETTLED = ("finding_history", "finding_event", "duplicate", "coverage", "watermark")
LAST = CHECKPOINT_INTERVAL
"""The step that is killed; its commits are the ones that make the checkpoints."""


@pytest.fixture(scope="module")
def settled_base(memory: Path) -> Path:
    """A lake one step short of a checkpoint in every table that the reconciler writes."""
    folder = memory / "settled" / "lake"
    lake = Lake.open(folder)
    land(lake, *mixed(0, EACH), at=AT - timedelta(days=1))
    for step in range(1, LAST):
        settle(lake, step, full(step), at=AT - timedelta(days=1))
    return folder


def check_settled(folder: Path, last: int) -> None:
    """Every step exactly once in every table, for deltalake and for the views alike."""
    assert seen_steps(folder) == {table: list(range(1, last + 1)) for table in SETTLED}
    for table in SETTLED:
        steps = sorted(scan(folder, table)["step"].drop_null().to_pylist())
        assert steps == list(range(1, last + 1)), table


def seen_steps(folder: Path) -> dict[str, list[int]]:
    views = connect(folder)
    return {
        table: [
            row[0] for row in views.execute(f"SELECT step FROM {table} WHERE step > 0 ORDER BY 1").fetchall()
        ]
        for table in SETTLED
    }


def settlement_steps(base: Path, tmp_path: Path, number: int) -> list[str]:
    """The steps of a reconciler that is not killed."""
    folder = tmp_path / "whole"
    shutil.copytree(base, folder)
    assert crash_writer.run_settlement(folder, number, crash_writer.NEVER, tmp_path / "journal")
    names: list[str] = json.loads((tmp_path / "journal").read_text())["names"]
    shutil.rmtree(folder)
    return names


def settle_again(folder: Path) -> None:
    """What a restarted reconciler does: asks for the last step and settles the next."""
    lake = Lake.open(folder)
    last = lake.settled()
    assert last is not None
    assert last.step in (LAST - 1, LAST)
    if last.step < LAST:
        settle(lake, LAST, full(LAST))


@MATRIX
def test_killed_at_every_step_of_settling(settled_base: Path, tmp_path: Path, power: str, every: int) -> None:
    steps = settlement_steps(settled_base, tmp_path, LAST)
    assert steps.count("link") == len(SETTLED)
    assert steps.count("create_checkpoint") == len(SETTLED) - 1  # finding_event has a worker's commit more
    for fatal in fatal_steps(steps, every):
        folder = tmp_path / f"lake{fatal}"
        shutil.copytree(settled_base, folder)
        before = crash_writer.inventory(folder)
        assert not crash_writer.run_settlement(folder, LAST, fatal, tmp_path / "journal")
        if power == "cut":
            crash_writer.cut_power(folder, before, tmp_path / "journal")
        else:
            seen = seen_steps(folder)
            assert len({tuple(steps) for steps in seen.values()}) == 1, "whole steps only"
        settle_again(folder)
        check_settled(folder, LAST)
        check_whole_but_settled(folder)
        shutil.rmtree(folder)


def check_whole_but_settled(folder: Path) -> None:
    """What workers landed is untouched."""
    assert set(Lake.open(folder).offsets().values()) == {EACH}
    for table in ("raw", "access", "allocation", "party"):
        assert places(scan(folder, table)) == expected(table, EACH), table
    rows = scan(folder, "finding_event").select(FINDING_EVENT.names).cast(FINDING_EVENT)
    assert places(rows.filter(rows["step"].is_null())) == expected("finding_event", EACH)


def test_a_step_whose_commit_returned_survives_a_power_cut(settled_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    shutil.copytree(settled_base, folder)
    # Past the checkpoint, whose own syncs would help, and into a new day's folder.
    settle(Lake.open(folder), LAST, full(LAST), at=AT - timedelta(days=1))
    before = crash_writer.inventory(folder)
    assert crash_writer.run_settlement(folder, LAST + 1, crash_writer.NEVER, tmp_path / "journal")
    crash_writer.cut_power(folder, before, tmp_path / "journal")
    check_settled(folder, LAST + 1)  # before anything could repair it


@MATRIX
def test_killed_at_every_step_of_completing_a_step(
    settled_base: Path, tmp_path: Path, power: str, every: int
) -> None:
    half = tmp_path / "half"
    shutil.copytree(settled_base, half)
    decided = (
        settlement_steps(settled_base, tmp_path, LAST).index("link") + 2
    )  # the link and the folder's sync
    assert not crash_writer.run_settlement(half, LAST, decided, tmp_path / "journal")
    steps = settlement_steps(half, tmp_path, 0)
    assert steps.count("link") == len(SETTLED) - 1
    for fatal in fatal_steps(steps, every):
        folder = tmp_path / f"lake{fatal}"
        shutil.copytree(half, folder)
        before = crash_writer.inventory(folder)
        assert not crash_writer.run_settlement(folder, 0, fatal, tmp_path / "journal")
        if power == "cut":
            crash_writer.cut_power(folder, before, tmp_path / "journal")
        last = Lake.open(folder).settled()
        assert last is not None
        assert last.step == LAST, "nothing is worked out again"
        check_settled(folder, LAST)
        shutil.rmtree(folder)


# Torn log entries


def cut_in_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cut_between_lines(content: bytes) -> bytes:
    return content[: content.rindex(b"\n") + 1]


def zeros(content: bytes) -> bytes:
    return bytes(len(content))


def nothing(content: bytes) -> bytes:
    return b""


TEARS = [cut_in_half, cut_between_lines, zeros, nothing]


def tear(folder: Path, table: str, version: int, how: Any) -> Path:
    entry = folder / table / "_delta_log" / f"{version:020}.json"
    content = entry.read_bytes()
    entry.unlink()
    entry.write_bytes(how(content))
    return entry


@pytest.mark.parametrize("how", TEARS)
def test_raws_last_entry_torn_goes_aside_and_its_records_are_read_again(
    tmp_path: Path, how: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lake = Lake.open(tmp_path)
    land(lake, *mixed(0, 10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lake, "_complete", lambda *_: None)
        land(lake, *mixed(10, 20))
    entry = tear(tmp_path, "raw", 2, how)
    with caplog.at_level(logging.WARNING):
        again = Lake.open(tmp_path)
    assert len([record for record in caplog.records if "set aside" in record.message]) == 1
    assert set(again.offsets().values()) == {10}
    assert list(entry.parent.glob(f"{entry.name}.*.torn")), "the bytes are kept"
    land(again, *mixed(10, 20))
    check_whole(tmp_path, 20)


@pytest.mark.parametrize("how", TEARS)
@pytest.mark.parametrize("table", ["access", "finding_event", "party"])
def test_a_derived_tables_last_entry_torn_is_redone_from_raw(tmp_path: Path, table: str, how: Any) -> None:
    lake = Lake.open(tmp_path)
    land(lake, *mixed(0, 10))
    land(lake, *mixed(10, 20))
    tear(tmp_path, table, 2, how)
    assert set(Lake.open(tmp_path).offsets().values()) == {20}
    check_whole(tmp_path, 20)


@pytest.mark.parametrize("how", TEARS)
def test_a_running_process_stops_at_a_torn_entry_and_says_so(tmp_path: Path, how: Any) -> None:
    running, peer = Lake.open(tmp_path), Lake.open(tmp_path)
    land(peer, landing(ACCESS, {0: range(10)}))
    tear(tmp_path, "raw", 1, how)
    with pytest.raises(SekishoError, match="is damaged") as told:
        land(running, landing(ACCESS, {1: range(10)}))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("how", TEARS)
@pytest.mark.parametrize("table", ["raw", "access"])
def test_an_entry_torn_in_the_middle_is_never_passed_over(tmp_path: Path, table: str, how: Any) -> None:
    lake = Lake.open(tmp_path)
    land(lake, *mixed(0, 10))
    land(lake, *mixed(10, 20))
    tear(tmp_path, table, 1, how)
    with pytest.raises(SekishoError, match="is damaged"):
        Lake.open(tmp_path)


def test_an_entry_missing_in_the_middle_is_never_passed_over(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, *mixed(0, 10))
    land(lake, *mixed(10, 20))
    (tmp_path / "raw" / "_delta_log" / f"{1:020}.json").unlink()
    with pytest.raises(SekishoError, match="has lost"):
        Lake.open(tmp_path)


def test_raw_behind_its_tables_is_an_error_not_a_second_landing(tmp_path: Path) -> None:
    """A disk that loses what it said was durable: rather stop than land typed rows twice."""
    lake = Lake.open(tmp_path)
    land(lake, *mixed(0, 10))
    land(lake, *mixed(10, 20))
    tear(tmp_path, "raw", 2, nothing)
    with pytest.raises(SekishoError, match="is ahead of raw"):
        Lake.open(tmp_path).offsets()


@pytest.mark.parametrize("how", [cut_in_half, zeros, nothing])
def test_a_torn_checkpoint_goes_aside_for_us_and_for_deltalake(base: Path, tmp_path: Path, how: Any) -> None:
    folder = tmp_path / "lake"
    shutil.copytree(base, folder)
    land(Lake.open(folder), *mixed(START, END))
    for table in TABLES:
        checkpoint = folder / table / "_delta_log" / f"{CHECKPOINT_INTERVAL:020}.checkpoint.parquet"
        checkpoint.write_bytes(how(checkpoint.read_bytes()))
    assert set(Lake.open(folder).offsets().values()) == {END}
    check_whole(folder, END)


# Disks that fail


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_failing_fsync_stops_the_batch_and_a_restart_lands_it(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    fsync = os.fsync
    calls = 0

    def failing(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fatal:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(handle)

    seen = 0
    for fatal in itertools.count(1, every):
        folder = tmp_path / f"lake{fatal}"
        shutil.copytree(base, folder)
        lake = Lake.open(folder)
        with monkeypatch.context() as patch:
            calls = 0
            patch.setattr(os, "fsync", failing)
            try:
                land(lake, *mixed(START, END))
            except SekishoError as error:
                seen += 1
                assert "Input/output error; check the disk" in str(error)
                assert "\n" not in str(error)
        complete(folder, END)
        check_whole(folder, END)
        shutil.rmtree(folder)
        if calls < fatal:
            break
    assert seen * every >= 4 * len(TABLES), (
        "file and folder of the Parquet file and of the entry, in each table"
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB (needs root)."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_line_and_landing_goes_on_once_there_is_space(small_disk: Path) -> None:
    lake = Lake.open(small_disk / "lake")
    land(lake, *mixed(0, 10))
    filler = small_disk / "filler"
    end = 10
    for left in range(0, 120_000, 4096):  # so that each step in turn is the one that fails
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
        filler.write_bytes(bytes(max(0, free - left)))
        try:
            land(lake, *mixed(end, end + 10))
        except SekishoError as error:
            assert "No space left on device; free space there" in str(error)
            assert "\n" not in str(error)
        filler.unlink()
        lake = Lake.open(small_disk / "lake")
        (end,) = set(lake.offsets().values())
        check_whole(small_disk / "lake", end)
    assert end > 10, "with space again it landed"


def test_a_file_size_limit_is_one_line_too(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(SekishoError, match="File too large; free space there"):
            land(lake, *mixed(0, 10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob("*/dt=*/*.parquet")), "half-written files are removed"
    assert lake.is_empty()


def test_a_file_where_a_folder_should_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "lake"):
        with pytest.raises(SekishoError, match="make it a folder this user can write to"):
            Lake.open(path)
    lake = Lake.open(tmp_path / "lake")
    (tmp_path / "lake" / "raw" / "dt=2026-03-01").write_text("")
    with pytest.raises(SekishoError, match="make it a folder this user can write to"):
        land(lake, landing(ACCESS, {0: range(5)}))


def test_half_written_files_are_never_named(tmp_path: Path) -> None:
    """What a killed process leaves behind is rubbish that no reader sees."""
    lake = Lake.open(tmp_path)
    land(lake, landing(ACCESS, {0: range(5)}))
    (tmp_path / "raw" / "dt=2026-03-01" / "half.parquet").write_bytes(b"PAR1 half")
    (tmp_path / "raw" / "_delta_log" / ".half.tmp").write_bytes(b"{")
    assert len(places(scan(tmp_path, "raw"))) == 5
    assert connect(tmp_path).execute("SELECT count(*) FROM raw").fetchall() == [(5,)]
    assert Lake.open(tmp_path).offsets() == {("custody.access", 0): 5}


def test_files_are_whole_parquet_before_anything_names_them(base: Path, tmp_path: Path) -> None:
    """Killed right before raw's entry gets its name: every file of the batch can already be read."""
    folder = tmp_path / "lake"
    shutil.copytree(base, folder)
    before = set(folder.rglob("*.parquet"))
    steps = steps_of(base, tmp_path, START, END)
    crash_writer.run(folder, START, END, steps.index("link"), tmp_path / "journal")
    new = set(folder.rglob("dt=*/*.parquet")) - before
    assert len(new) == len(TABLES)
    assert sum(pq.read_metadata(path).num_rows for path in new) > 0

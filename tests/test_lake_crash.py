"""Landing: kills and power cuts at every step, a disk that fails to sync: nothing lost, nothing twice."""

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from schemas.errors import SekishoError
from sinks.lake import Lake
from sinks.log import CHECKPOINT_INTERVAL
from sinks.views import connect
from tests import crash_writer
from tests.crash_writer import MATRIX, fatal_steps
from tests.landings import AT, TABLES, check_whole, land, landing, mixed

EACH = 14  # offsets a batch, so that each has rows for every table
START = EACH * (CHECKPOINT_INTERVAL - 1)
END = START + EACH
"""The batch that is killed; its commit is the one that makes the checkpoint."""


@pytest.fixture(scope="session")
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


def check_once(folder: Path) -> None:
    """Before any repair: no record twice, and nothing derived without its evidence in raw."""
    views = connect(folder)
    for table in TABLES:
        seen = views.execute(f'SELECT topic, "partition", "offset" FROM "{table}"').fetchall()
        assert len(seen) == len(set(seen)), table
        raw = set(views.execute('SELECT topic, "partition", "offset" FROM raw').fetchall())
        assert set(seen) <= raw, table


def steps_of(base: Path, in_memory: Path, start: int, end: int) -> list[str]:
    """The steps of a run that is not killed."""
    folder = in_memory / "whole"
    if base.exists():
        shutil.copytree(base, folder)
    assert crash_writer.run(folder, start, end, crash_writer.NEVER, in_memory / "journal")
    names: list[str] = json.loads((in_memory / "journal").read_text())["names"]
    return names


@MATRIX
def test_killed_at_every_step_of_landing(base: Path, in_memory: Path, power: str, every: int) -> None:
    steps = steps_of(base, in_memory, START, END)
    assert steps.count("link") == len(TABLES)
    assert steps.count("create_checkpoint") == len(TABLES)
    for fatal in fatal_steps(steps, every):
        folder = in_memory / f"lake{fatal}"
        shutil.copytree(base, folder)
        before = crash_writer.inventory(folder)
        assert not crash_writer.run(folder, START, END, fatal, in_memory / "journal")
        if power == "cut":
            crash_writer.cut_power(folder, before, in_memory / "journal")
        else:
            check_once(folder)
        complete(folder, END)
        check_whole(folder, END)
        shutil.rmtree(folder)


def test_a_batch_whose_commit_returned_survives_a_power_cut(base: Path, in_memory: Path) -> None:
    folder = in_memory / "lake"
    shutil.copytree(base, folder)
    # Past the checkpoint, whose own syncs would help, and into a new day's folder.
    land(Lake.open(folder), *mixed(START, END), at=AT - timedelta(days=1))
    before = crash_writer.inventory(folder)
    assert crash_writer.run(folder, END, END + EACH, crash_writer.NEVER, in_memory / "journal")
    crash_writer.cut_power(folder, before, in_memory / "journal")
    check_whole(folder, END + EACH)  # before anything could repair it
    assert set(Lake.open(folder).offsets().values()) == {END + EACH}


@MATRIX
def test_killed_at_every_step_of_creating_the_lake(in_memory: Path, power: str, every: int) -> None:
    steps = steps_of(in_memory / "nothing", in_memory, 0, 0)
    for fatal in range(0, len(steps), 3 * every):
        folder = in_memory / f"lake{fatal}"
        assert not crash_writer.run(folder, 0, 0, fatal, in_memory / "journal")
        if power == "cut" and folder.exists():
            crash_writer.cut_power(folder, {}, in_memory / "journal")
        land(Lake.open(folder), *mixed(0, 5))
        check_whole(folder, 5)
        shutil.rmtree(folder)


@MATRIX
def test_killed_at_every_step_of_completing_what_a_crash_left(
    base: Path, in_memory: Path, power: str, every: int
) -> None:
    half = in_memory / "half"
    shutil.copytree(base, half)
    raw_is_committed = (
        steps_of(base, in_memory, START, END).index("link") + 2
    )  # the link and the folder's sync
    crash_writer.run(half, START, END, raw_is_committed, in_memory / "journal")
    shutil.rmtree(in_memory / "whole")
    steps = steps_of(half, in_memory, 0, 0)
    assert steps.count("link") == len(TABLES) - 1
    for fatal in fatal_steps(steps, every):
        folder = in_memory / f"lake{fatal}"
        shutil.copytree(half, folder)
        before = crash_writer.inventory(folder)
        assert not crash_writer.run(folder, 0, 0, fatal, in_memory / "journal")
        if power == "cut":
            crash_writer.cut_power(folder, before, in_memory / "journal")
        lake = Lake.open(folder)
        assert set(lake.offsets().values()) == {END}, "nothing is read from Kafka again"
        check_whole(folder, END)
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "damaged",
    [lambda content: content[: len(content) // 2], lambda content: bytes(len(content)), lambda content: b""],
    ids=["cut in half", "zeros", "nothing"],
)
def test_a_torn_checkpoint_goes_aside_for_us_and_for_deltalake(
    base: Path, in_memory: Path, damaged: Callable[[bytes], bytes]
) -> None:
    folder = in_memory / "lake"
    shutil.copytree(base, folder)
    land(Lake.open(folder), *mixed(START, END))
    for table in TABLES:
        checkpoint = folder / table / "_delta_log" / f"{CHECKPOINT_INTERVAL:020}.checkpoint.parquet"
        checkpoint.write_bytes(damaged(checkpoint.read_bytes()))
    assert set(Lake.open(folder).offsets().values()) == {END}
    check_whole(folder, END)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_failing_fsync_stops_the_batch_and_a_restart_lands_it(
    base: Path, in_memory: Path, monkeypatch: pytest.MonkeyPatch, every: int
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
        folder = in_memory / f"lake{fatal}"
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


def test_files_are_whole_parquet_before_anything_names_them(base: Path, in_memory: Path) -> None:
    """Killed right before raw's entry gets its name: every file of the batch can already be read."""
    folder = in_memory / "lake"
    shutil.copytree(base, folder)
    before = set(folder.rglob("*.parquet"))
    steps = steps_of(base, in_memory, START, END)
    crash_writer.run(folder, START, END, steps.index("link"), in_memory / "journal")
    new = set(folder.rglob("dt=*/*.parquet")) - before
    assert len(new) == len(TABLES)
    assert sum(pq.read_metadata(path).num_rows for path in new) > 0

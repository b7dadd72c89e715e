"""Log entries torn or missing, disks that are full: told in one line, and nothing is lost or comes twice."""

import logging
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import SekishoError
from schemas.events import ACCESS
from sinks import log
from sinks.durable import write_new
from sinks.lake import Lake
from sinks.views import connect
from tests.landings import TABLES, check_whole, land, landing, mixed, places, scan


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
def test_a_torn_entry_stays_where_nothing_is_to_be_written(tmp_path: Path, how: Any) -> None:
    land(Lake.open(tmp_path), *mixed(0, 10))
    tear(tmp_path, "raw", 1, how)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SekishoError, match="is damaged"):
        Lake.open(tmp_path, repair=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_without_a_lake_is_left_alone_where_nothing_is_to_be_written(tmp_path: Path) -> None:
    with pytest.raises(SekishoError, match="no lake in"):
        Lake.open(tmp_path / "lake", repair=False)
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("entry", TABLES)
def test_a_disk_that_fails_at_an_entry_costs_no_file_that_a_log_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    """The entry may have its name when its folder's fsync fails; so nothing may be removed from then on."""
    lake = Lake.open(tmp_path)

    def write(path: Path, content: bytes) -> bool:
        done = write_new(path, content)
        if path.parts[-3] == entry:
            raise SekishoError("the disk fails")
        return done

    monkeypatch.setattr(log, "write_new", write)
    with pytest.raises(SekishoError, match="the disk fails"):
        land(lake, *mixed(0, 10))
    monkeypatch.undo()
    assert set(Lake.open(tmp_path).offsets().values()) == {10}
    check_whole(tmp_path, 10)


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

"""The log of what is open: large parts of it lie in files, which are as of the last commit."""

from pathlib import Path

import duckdb
import numpy as np
import pytest

from rules.reconciler import coverage_log, state
from rules.reconciler.coverage_log import CHAIN, PIECE
from schemas.errors import SekishoError


def opened(folder: Path | None) -> duckdb.DuckDBPyConnection:
    con = state.connect(folder)
    coverage_log.create(con)
    return con


def log(con: duckdb.DuckDBPyConnection, *slots: int) -> None:
    records = np.zeros(len(slots), PIECE)
    records["slot"] = slots
    coverage_log.append(con, records)


def logged(con: duckdb.DuckDBPyConnection) -> list[list[int]]:
    return [records["slot"].tolist() for records in coverage_log.read(con)]


def files(folder: Path) -> list[Path]:
    return sorted((folder / "coverage").iterdir())


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_log, "FILE_BYTES", 3 * PIECE.itemsize)


def test_records_are_read_as_they_were_logged(tmp_path: Path) -> None:
    con = opened(tmp_path)
    log(con, 1, 2, 3, 4)
    log(con, 5)
    coverage_log.append(con, np.zeros(0, CHAIN))
    log(con, 6, 7, 8)
    assert len(files(tmp_path)) == 2
    con.close()
    assert logged(opened(tmp_path)) == [[1, 2, 3, 4], [5], [6, 7, 8]]


def test_in_memory_there_are_no_files() -> None:
    con = opened(None)
    log(con, *range(10))
    coverage_log.tidy(con)
    assert logged(con) == [list(range(10))]


def test_what_was_cleared_goes_once_that_is_kept(tmp_path: Path) -> None:
    con = opened(tmp_path)
    log(con, 1, 2, 3)
    for end in ("ROLLBACK", "COMMIT"):
        con.execute("BEGIN")
        coverage_log.tidy(con)
        coverage_log.clear(con)
        log(con, 4, 5, 6)
        con.execute(end)
    assert len(files(tmp_path)) == 2
    coverage_log.tidy(con)
    assert len(files(tmp_path)) == 1
    assert logged(con) == [[4, 5, 6]]


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    con = opened(tmp_path)
    log(con, 1, 2, 3)
    files(tmp_path)[0].unlink()
    with pytest.raises(SekishoError, match="it is made again"):
        coverage_log.open_files(con)

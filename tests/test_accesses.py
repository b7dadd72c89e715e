"""Kept accesses: in files and in the table, found by time, as of the last commit."""

from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from rules.reconciler import accesses, state
from schemas.errors import SekishoError

START = datetime(2026, 3, 1)
COLUMNS = (
    'topic VARCHAR, "partition" INTEGER, "offset" BIGINT, source VARCHAR, action VARCHAR, method VARCHAR, '
    "source_country VARCHAR, operation VARCHAR, t TIMESTAMP"
)


def opened(folder: Path | None) -> duckdb.DuckDBPyConnection:
    con = state.connect(folder)
    con.execute(f"CREATE TABLE IF NOT EXISTS latest_access ({COLUMNS})")
    accesses.create(con)
    accesses.open_files(con)
    return con


def rows(first: int, count: int) -> pa.Table:
    """Accesses at offsets from `first`, one a second."""
    offsets = range(first, first + count)
    schema = {"topic": pa.string(), "partition": pa.int32(), "offset": pa.int64(), "source": pa.string()}
    schema |= dict.fromkeys(("action", "method", "source_country", "operation"), pa.string())
    schema["t"] = pa.timestamp("us")
    made = [
        {"topic": "custody.access", "partition": 0, "offset": n, "t": START + timedelta(seconds=n)}
        for n in offsets
    ]
    return pa.Table.from_pylist(made, schema=pa.schema(list(schema.items())))


def kept(con: duckdb.DuckDBPyConnection, low: int | None = None, high: int | None = None) -> list[int]:
    """The offsets of what the relation has, which may be more than is asked for."""
    bounds = [None if at is None else state.moment(START + timedelta(seconds=at)) for at in (low, high)]
    found = con.execute(f'SELECT "offset" FROM {accesses.relation(con, *bounds)} ORDER BY ALL').fetchall()
    return [offset for (offset,) in found]


def files(folder: Path) -> list[Path]:
    return sorted((folder / "accesses").iterdir())


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accesses, "FILE_ROWS", 10)


def test_all_are_kept_and_those_of_a_time_are_found(tmp_path: Path) -> None:
    con = opened(tmp_path)
    for first, count in ((0, 4), (4, 4), (8, 4), (12, 30), (42, 3)):
        accesses.keep(con, rows(first, count))
    assert len(files(tmp_path)) == 2
    assert kept(con) == list(range(45))
    assert kept(con, low=20) == list(range(12, 45))
    assert kept(con, high=5) == [*range(12), 42, 43, 44]
    assert kept(con, low=100) == [42, 43, 44]
    con.close()
    assert kept(opened(tmp_path)) == list(range(45)), "opened again"


def test_in_memory_there_are_no_files() -> None:
    con = opened(None)
    accesses.keep(con, rows(0, 50))
    assert kept(con) == list(range(50))


def test_a_file_of_a_step_taken_back_goes(tmp_path: Path) -> None:
    con = opened(tmp_path)
    accesses.keep(con, rows(0, 20))
    con.execute("BEGIN")
    accesses.keep(con, rows(20, 20))
    con.execute("ROLLBACK")
    assert kept(con) == list(range(20))
    con.close()
    con = opened(tmp_path)
    assert len(files(tmp_path)) == 1
    assert kept(con) == list(range(20))


@pytest.mark.parametrize("on_disk", [False, True])
def test_what_turns_out_to_be_a_duplicate_goes(on_disk: bool, tmp_path: Path) -> None:
    con = opened(tmp_path if on_disk else None)
    accesses.keep(con, rows(0, 20))
    accesses.keep(con, rows(20, 2))
    con.register("gone", pa.concat_tables([rows(3, 1), rows(21, 1)]))
    accesses.remove(con, "gone")
    assert kept(con) == [n for n in range(21) if n != 3]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PAR1")])
def test_a_missing_or_short_file_is_told(damage: object, tmp_path: Path) -> None:
    con = opened(tmp_path)
    accesses.keep(con, rows(0, 20))
    con.close()
    (path,) = files(tmp_path)
    assert callable(damage)
    damage(path)
    with pytest.raises(SekishoError, match="missing or damaged"):
        opened(tmp_path)

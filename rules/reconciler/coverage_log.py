"""The log from which the open allocations are read again: what each update has changed of them, as records.

A record's bytes are those of a numpy array, since a million values go into a table faster as one BLOB than as
values. Large BLOBs lie in files beside the database, or every checkpoint would write them anew; those of a
state in memory never do. What an update says of a slot replaces what others before it said.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rules.reconciler import files

Records = npt.NDArray[Any]

TEXTS = ("party_id_sent", "principal", "authorization_id", "model")
"""What is carried as text of the `allocated` event in effect."""

CHAIN = np.dtype(
    [
        ("slot", "<i4"),
        ("allocated_at", "<i8"),
        *((name, "<i4") for name in TEXTS),
        ("accelerators", "<i8"),
        ("requested", "?"),
    ]
)
PIECE = np.dtype(
    [
        ("slot", "<i4"),
        ("is_open", "?"),
        ("from_at", "<i8"),
        ("written", "?"),
        ("how_at", "<i8"),
        ("site_id", "<i4"),
        ("links", "u1"),
        ("micros", "<i8"),
        ("covered_micros", "<i8"),
    ]
)
_KINDS = {"chain": CHAIN, "piece": PIECE}

FILE_BYTES = 1 << 18
"""From so many on records are worth a file."""

_FOLDER = "coverage"

_CREATE = """
CREATE TABLE IF NOT EXISTS coverage_log (
  number BIGINT, kind VARCHAR, records BLOB, file VARCHAR, bytes BIGINT);
CREATE TABLE IF NOT EXISTS coverage_slot (number BIGINT, allocation_id VARCHAR);
CREATE TABLE IF NOT EXISTS coverage_text (number BIGINT, value VARCHAR);
"""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    con.execute(_CREATE)


def open_files(con: duckdb.DuckDBPyConnection) -> None:
    """Removes the files that no commit names. Raises SekishoError where one is missing or damaged."""
    folder = files.folder(con, _FOLDER)
    if folder is not None:
        files.check(folder, _named(con))
        files.tidy(folder, _named(con))


def tidy(con: duckdb.DuckDBPyConnection) -> None:
    """Removes the files that the last commit does not name; before a transaction logs anything."""
    folder = files.folder(con, _FOLDER)
    if folder is not None:
        files.tidy(folder, _named(con))


def append(con: duckdb.DuckDBPyConnection, records: Records) -> None:
    """Logs records of PIECE or CHAIN."""
    if len(records) == 0:
        return
    kind = next(kind for kind, dtype in _KINDS.items() if dtype == records.dtype)
    folder = files.folder(con, _FOLDER) if records.nbytes >= FILE_BYTES else None
    row: tuple[bytes | None, str | None]
    if folder is None:
        row = records.tobytes(), None
    else:
        with files.written(folder) as file:
            file.write(records.view(np.uint8).data)
        row = None, Path(file.name).name
    con.execute(
        "INSERT INTO coverage_log SELECT coalesce(max(number), 0) + 1, ?, ?, ?, ? FROM coverage_log",
        [kind, *row, records.nbytes],
    )


def name(con: duckdb.DuckDBPyConnection, table: str, first: int, names: pa.StringArray) -> None:
    """Logs what the numbers from `first` on stand for, in `coverage_slot` or `coverage_text`."""
    if len(names) == 0:
        return
    numbers = pa.array(np.arange(first, first + len(names)))
    con.register("coverage_rows", pa.table({"number": numbers, "name": names}))
    con.execute(f"INSERT INTO {table} SELECT number, name FROM coverage_rows")
    con.unregister("coverage_rows")


def names(con: duckdb.DuckDBPyConnection, table: str) -> pa.StringArray:
    """What the numbers from 0 on stand for."""
    rows = con.sql(f"FROM {table} ORDER BY number").to_arrow_table()
    return rows.column(1).combine_chunks()


def read(con: duckdb.DuckDBPyConnection) -> Iterator[Records]:
    """The records of PIECE and CHAIN, as they were logged."""
    folder = files.folder(con, _FOLDER)
    rows = con.execute("SELECT kind, records, file FROM coverage_log ORDER BY number").fetchall()
    for kind, records, file in rows:
        data = records if folder is None or file is None else (folder / file).read_bytes()
        yield np.frombuffer(data, _KINDS[kind])


def clear(con: duckdb.DuckDBPyConnection, *tables: str) -> None:
    """Empties the log, and these tables."""
    for table in ("coverage_log", *tables):
        con.execute(f"DELETE FROM {table}")


def records(dtype: np.dtype[np.void], columns: Mapping[str, Records]) -> Records:
    """Columns as records."""
    made = np.empty(len(columns["slot"]), dtype)
    for field in dtype.names or ():
        made[field] = columns[field]
    return made


def _named(con: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """The files and their sizes in bytes."""
    return dict(con.execute("SELECT file, bytes FROM coverage_log WHERE file IS NOT NULL").fetchall())

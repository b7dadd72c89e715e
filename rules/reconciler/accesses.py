"""The kept accesses: nearly all events there are, of which nearly none is ever read again.

They lie in Parquet files in a folder beside the database, each written once and never changed; the latest of
them in the table `latest_access` until they are worth a file, those of a state in memory always. Which files
there are is a table of the database: after a rollback or a crash they are as of the last commit. Files have
the columns of `latest_access`, in the order of landing. What turns out to be a duplicate is left out by name.
"""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rules.reconciler import files, state
from rules.reconciler.given import REPEATED

FILE_ROWS = 1 << 17
"""From so many on they are worth a file."""

_FOLDER = "accesses"
_AT_ONCE = 1 << 16  # values of a column
_AT = 'topic, "partition", "offset"'

_CREATE = """
CREATE TABLE IF NOT EXISTS access_file (name VARCHAR, bytes BIGINT, from_t TIMESTAMP, to_t TIMESTAMP);
CREATE TABLE IF NOT EXISTS access_gone (topic VARCHAR, "partition" INTEGER, "offset" BIGINT, t TIMESTAMP);
"""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing; `latest_access` is the caller's."""
    con.execute(_CREATE)


def open_files(con: duckdb.DuckDBPyConnection) -> None:
    """Removes the files that no commit names. Raises SekishoError where one is missing or damaged."""
    folder = _folder(con)
    if folder is not None:
        named = dict(con.execute("SELECT name, bytes FROM access_file").fetchall())
        files.check(folder, named)
        files.tidy(folder, named)


def keep(con: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
    """Adds accesses: rows with the columns of `latest_access`, whose `t` are given."""
    folder = _folder(con)
    ((waiting,),) = con.execute("SELECT count(*) FROM latest_access").fetchall()
    if folder is not None and waiting + rows.num_rows >= FILE_ROWS:
        if waiting:
            latest = con.sql("FROM latest_access").to_arrow_table().cast(rows.schema)
            con.execute("DELETE FROM latest_access")
            rows = pa.concat_tables([latest, rows])
        _write(con, folder, rows)
    elif rows.num_rows:
        con.register("kept_rows", rows)
        con.execute("INSERT INTO latest_access BY NAME FROM kept_rows")
        con.unregister("kept_rows")


def remove(con: duckdb.DuckDBPyConnection, gone: str) -> None:
    """Takes out the accesses that a table names by their coordinates and `t`."""
    con.execute(
        f'DELETE FROM latest_access a USING "{gone}" g WHERE a.topic = g.topic '
        'AND a."partition" = g."partition" AND a."offset" = g."offset"'
    )
    if _folder(con) is not None:
        con.execute(f'INSERT INTO access_gone SELECT {_AT}, t FROM "{gone}"')


def relation(con: duckdb.DuckDBPyConnection, low: str | None = None, high: str | None = None) -> str:
    """SQL for the kept accesses, to stand after FROM; `low` and `high` (literals): earlier and later ones may
    be missing. Good until the next `keep` or `remove`."""
    since = "" if low is None else f" AND to_t >= {low}"
    until = "" if high is None else f" AND from_t <= {high}"
    names = con.execute(f"SELECT name FROM access_file WHERE true{since}{until} ORDER BY rowid").fetchall()
    folder = _folder(con)
    if not names or folder is None:
        return "latest_access"
    paths = ", ".join(_text(str(folder / name)) for (name,) in names)
    gone = f"ANTI JOIN access_gone USING ({_AT})" if state.has_rows(con, "access_gone") else ""
    return f"(FROM latest_access UNION ALL BY NAME (FROM read_parquet([{paths}]) {gone}))"


def _write(con: duckdb.DuckDBPyConnection, folder: Path, rows: pa.Table) -> None:
    filled = [field.with_nullable(rows[field.name].null_count > 0) for field in rows.schema]
    with files.written(folder) as file:
        pq.write_table(
            rows.cast(pa.schema(filled)),
            file,
            compression="none",
            use_dictionary=sorted(REPEATED),
            write_statistics=["t", "broker_time"],
            write_batch_size=_AT_ONCE,
        )  # few columns are worth an encoding; the file system's cache is what it is read from
    path = Path(file.name)
    span = pc.min_max(rows["t"])
    con.execute(
        "INSERT INTO access_file VALUES (?, ?, make_timestamp(?), make_timestamp(?))",
        [path.name, path.stat().st_size, span["min"].value, span["max"].value],
    )


def _folder(con: duckdb.DuckDBPyConnection) -> Path | None:
    """Where the files lie, beside the database; None where that is in memory."""
    return files.folder(con, _FOLDER)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

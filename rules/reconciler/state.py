"""The engine's working state: one DuckDB database, in memory or in a file that may be deleted at any time.

Nothing in it is evidence: whatever it holds can be computed again from the lake.
"""

from datetime import datetime
from pathlib import Path

import duckdb

from schemas.errors import SekishoError

FILE = "state.duckdb"
VERSION = 1
"""Goes up when what the same tables hold means something else, or may have been wrong: a state of another
version is made again. Those from before there was one may lack silences and holes."""

_VERSION = "version"
_LARGE = 10_000
"""Rows."""

_IN_MEMORY = {"memory_limit": "1GB"}

_IN_A_FILE = {
    "memory_limit": "400MB",  # what is in a file need not be in memory
    "block_allocator_memory": "300MB",  # kept for blocks, which come and go by the thousand in each step
}

_SETTINGS = (
    # finding the best compression takes longer than all else in a commit, for a file that may be deleted
    "SET force_compression = 'dictionary'",
    # a checkpoint stops a step for as long as it writes: a second or two, however little of a table is new
    "SET checkpoint_threshold = '256MB'",
    "SET TimeZone = 'UTC'",
    "SET preserve_insertion_order = false",
    "SET enable_progress_bar = false",
)


def connect(folder: Path | None) -> duckdb.DuckDBPyConnection:
    """Opens the state in `folder`, or a new one in memory. Raises SekishoError when it cannot be opened."""
    path, config = (":memory:", _IN_MEMORY) if folder is None else (str(folder / FILE), _IN_A_FILE)
    try:
        con = duckdb.connect(path, config={"threads": "1", **config})
    except duckdb.Error as error:
        line = str(error).partition("\n")[0]
        raise SekishoError(
            f"cannot open {path}: {line}; stop the other reconciler, or delete the folder: it is made again"
        ) from error
    for setting in _SETTINGS:
        con.execute(setting)
    if not con.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'meta'").fetchall():
        con.execute("CREATE TABLE meta (name VARCHAR, value BIGINT)")
        put(con, _VERSION, VERSION)
    return con


def check(con: duckdb.DuckDBPyConnection, fresh: duckdb.DuckDBPyConnection) -> None:
    """Raises SekishoError unless the state has the version and tables of a `fresh` one, and its numbers of
    texts."""
    if _layout(con) != _layout(fresh):
        raise SekishoError(
            "the reconciler's state is of another version; delete its folder: it is made again"
        )


def _layout(con: duckdb.DuckDBPyConnection) -> list[tuple[object, ...]]:
    columns = con.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns() "
        "WHERE NOT internal AND database_name = current_database() ORDER BY ALL"
    ).fetchall()
    (numbered,) = con.execute("SELECT hash('a text')").fetchall()
    return [(get(con, _VERSION),), *columns, numbered]


def folder(con: duckdb.DuckDBPyConnection) -> Path | None:
    """The folder that the state lies in, None where it is in memory."""
    query = "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
    ((path,),) = con.execute(query).fetchall()
    return None if path is None else Path(path).parent


def get(con: duckdb.DuckDBPyConnection, name: str) -> int | None:
    """A remembered number, None if there is none."""
    rows = con.execute("SELECT value FROM meta WHERE name = ?", [name]).fetchall()
    return rows[0][0] if rows else None


def put(con: duckdb.DuckDBPyConnection, name: str, value: int) -> None:
    """Remembers a number."""
    con.execute("DELETE FROM meta WHERE name = ?", [name])
    con.execute("INSERT INTO meta VALUES (?, ?)", [name, value])


def has_rows(con: duckdb.DuckDBPyConnection, table: str) -> bool:
    """Whether a table (with a condition, if need be) has a row: planning a statement costs more than running
    it on none."""
    return bool(con.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchall())


def shed(con: duckdb.DuckDBPyConnection) -> None:
    """Lets go what large temp tables hold, between transactions: rows that are deleted stay in memory until
    there are many times as many."""
    large = con.execute(
        f"SELECT table_name FROM duckdb_tables() WHERE temporary AND estimated_size >= {_LARGE}"
    ).fetchall()
    for (name,) in large:
        con.execute(f'CREATE OR REPLACE TEMP TABLE "{name}" AS FROM "{name}" LIMIT 0')


def least(con: duckdb.DuckDBPyConnection, table: str, column: str) -> str | None:
    """The least time in a column as a literal, None where there is none. A literal, other than a join, lets
    DuckDB pass over what is older without reading it."""
    (found,) = con.execute(f"SELECT min({column}) FROM {table}").fetchall()[0]
    return None if found is None else moment(found)


def span(con: duckdb.DuckDBPyConnection, table: str) -> tuple[str, str]:
    """The least and the greatest `t` of a table that has rows, as literals."""
    ((low, high),) = con.execute(f"SELECT min(t), max(t) FROM {table}").fetchall()
    return moment(low), moment(high)


def moment(at: datetime) -> str:
    """A time as a literal."""
    return f"TIMESTAMP '{at:%Y-%m-%d %H:%M:%S.%f}'"

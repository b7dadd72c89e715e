"""The events the engine keeps by column: all of them but duplicates; nothing is evicted.

`relation` is where to read them: a stream's fields with `t` for `occurred_at` and `party_id_sent` for
`party_id`, and `broker_time`, `future` and the coordinates. `allocation` has CODE, too. Times are naive UTC.
Rows stand in the order of landing, so that a query with a literal least time passes over what is older.
"""

from collections.abc import Mapping

import duckdb
import numpy as np
import pyarrow as pa

from rules.reconciler import accesses
from rules.reconciler.given import event_schema
from rules.reconciler.state import span
from schemas.events import ACCESS, ALLOCATION, EVENTS, PLACEMENT
from schemas.record import Record

TABLE: Mapping[str, str] = {
    ALLOCATION.name: "allocation",
    ACCESS.name: "latest_access",
    PLACEMENT.name: "placement",
}
"""Stream → the table of its kept events; of accesses only the latest are in it (`accesses.py`)."""

CODE = "hash(allocation_id) AS code"
"""A number for an allocation's id: millions are gone through faster by number than by text. Two ids may share
one, so what is found by it is joined by the id again."""

_AT = 'topic, "partition", "offset"'
_RENAMED = {"occurred_at": "t", "party_id": "party_id_sent"}
_ADDED = ("broker_time", "future", "topic", "partition", "offset")
_NARROW = (
    *("topic", "partition", "offset", "source", "event_id", "source_seq"),
    *("t", "broker_time", "future", "allocation_id", "action"),
)


def columns(record: Record) -> tuple[str, ...]:
    """The columns of a kept event of the stream."""
    return (*(_RENAMED.get(name, name) for name in record.by_name), *_ADDED)


def listed(record: Record, alias: str = "") -> str:
    """The columns as a SELECT list."""
    prefix = f"{alias}." if alias else ""
    return ", ".join(f'{prefix}"{name}"' for name in columns(record))


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    for record in EVENTS.values():
        con.register("empty_events", nothing_new(record))
        con.execute(
            f'CREATE TABLE IF NOT EXISTS "{TABLE[record.name]}" AS SELECT {_stored(record)} FROM empty_events'
        )
        con.unregister("empty_events")
        con.execute(
            f"CREATE TEMP TABLE gone_{record.name} AS "
            f'SELECT {listed(record)} FROM "{TABLE[record.name]}" LIMIT 0'
        )
        con.register(f"new_{record.name}", nothing_new(record))
    parts = [f"SELECT '{r.name}' AS stream, {_narrow()} FROM new_{r.name}" for r in EVENTS.values()]
    con.execute(f"CREATE TEMP VIEW new_event AS {' UNION ALL '.join(parts)}")
    accesses.create(con)


def kept(landed: pa.Table, record: Record) -> pa.Table:
    """Landed rows (`landed_schema`, further columns last) with the names and naive times of kept ones."""
    taken = {}
    for name in columns(record):
        origin = "occurred_at" if name == "t" else name
        column = landed[origin]
        taken[name] = column.cast(pa.timestamp("us")) if pa.types.is_timestamp(column.type) else column
    for name in ("party_id", "verdicts", "commit"):
        if name in landed.column_names:
            taken[name] = landed[name]
    return pa.table(taken)


def nothing_new(record: Record) -> pa.Table:
    """No new events of the stream."""
    return _numbered(kept(event_schema(record).empty_table(), record))


def _numbered(rows: pa.Table) -> pa.Table:
    return rows.append_column("number", pa.array(np.arange(rows.num_rows)))


def take_new(con: duckdb.DuckDBPyConnection, originals: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Gives the step's originals their names: `new_<stream>` (kept columns, `party_id` and `verdicts` as
    landed, `commit`, and their `number` from 0) and the narrow `new_event`. They are views of the Arrow
    tables; nothing is copied.

    `originals`: per stream the landed rows that are no duplicates. Returns what is registered.
    """
    new = {record.name: _numbered(kept(originals[record.name], record)) for record in EVENTS.values()}
    for name, rows in new.items():
        con.register(f"new_{name}", rows)
    return new


def let_go(con: duckdb.DuckDBPyConnection) -> None:
    """Lets the step's new events go, once nothing asks for them any more: most of a step's memory."""
    for record in EVENTS.values():
        con.unregister(f"new_{record.name}")


def take_gone(con: duckdb.DuckDBPyConnection, gone: pa.Table) -> None:
    """Takes out kept events that turned out to be duplicates, and makes `gone_event` of them (`gone`, as
    `duplicates.find` gives it) and `gone_<stream>` with all columns."""
    con.register("gone_event", gone)
    for record in EVENTS.values():
        con.execute(f"DELETE FROM gone_{record.name}")
        if gone.num_rows:
            _take_out(con, record)


def _take_out(con: duckdb.DuckDBPyConnection, record: Record) -> None:
    events, table = relation(con, record, *span(con, "gone_event")), TABLE[record.name]
    con.execute(
        f"INSERT INTO gone_{record.name} BY NAME SELECT {listed(record, 'e')} "
        f"FROM {events} e SEMI JOIN gone_event USING ({_AT})"
    )
    if record is ACCESS:
        accesses.remove(con, f"gone_{record.name}")
        return
    con.execute(
        f'DELETE FROM "{table}" USING gone_{record.name} g WHERE "{table}".topic = g.topic '
        f'AND "{table}"."partition" = g."partition" AND "{table}"."offset" = g."offset"'
    )


def keep(con: duckdb.DuckDBPyConnection, record: Record, new: pa.Table) -> None:
    """Adds the step's new events of a stream, as `take_new` returned them, to the kept ones."""
    if record is ACCESS:
        accesses.keep(con, new.select(list(columns(record))))
        return
    con.execute(f'INSERT INTO "{TABLE[record.name]}" BY NAME SELECT {_stored(record)} FROM new_{record.name}')


def relation(
    con: duckdb.DuckDBPyConnection, record: Record, low: str | None = None, high: str | None = None
) -> str:
    """SQL for the stream's kept events, to stand after FROM, until the next are kept.

    `low` and `high` are literals: earlier and later events may be missing.
    """
    return accesses.relation(con, low, high) if record is ACCESS else f'"{TABLE[record.name]}"'


def allocation_events(con: duckdb.DuckDBPyConnection, ids: str) -> str:
    """SQL for the kept allocation events that name an `allocation_id` of a relation, to stand after FROM.

    They are found by CODE alone first: reading all columns, DuckDB would unpack nearly the whole table.
    Good until the next call, and until the next are kept.
    """
    con.execute(
        "CREATE OR REPLACE TEMP TABLE allocation_row AS "
        f"SELECT rowid AS row FROM allocation SEMI JOIN (SELECT {CODE} FROM {ids}) USING (code)"
    )
    ((low, high),) = con.execute("SELECT min(row), max(row) FROM allocation_row").fetchall()
    if low is None:
        return "(FROM allocation LIMIT 0)"
    return (
        f"(FROM (FROM allocation WHERE rowid BETWEEN {low} AND {high} "
        f"AND rowid IN (SELECT row FROM allocation_row)) SEMI JOIN {ids} USING (allocation_id))"
    )


def show_accesses(con: duckdb.DuckDBPyConnection, after: int, until: int) -> None:
    """Makes the view `recent_access`: at least the kept accesses later than `after`, up to `until` (µs)."""
    low, high = (f"make_timestamp({time})" for time in (max(after, 0), until))
    con.execute(f"CREATE OR REPLACE TEMP VIEW recent_access AS FROM {relation(con, ACCESS, low, high)}")


def events_of(con: duckdb.DuckDBPyConnection, record: Record, table: str, column: str) -> str:
    """Makes and names a temp table of all the stream's events that name an allocation in `table`.`column`."""
    name = f"events_of_{record.name}"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT {listed(record, 'e')} FROM {relation(con, record)} e "
        f'WHERE e.allocation_id IN (SELECT "{column}" FROM "{table}")'
    )
    return name


def _stored(record: Record) -> str:
    """What an event's table has."""
    return f"{listed(record)}, {CODE}" if record is ALLOCATION else listed(record)


def _narrow() -> str:
    return ", ".join(f'"{name}"' for name in _NARROW)

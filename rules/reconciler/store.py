"""The events the engine keeps by column: every allocation event, and the accesses and placements of the hot
window. Duplicates are not among them.

`allocation`, `recent_access` and `recent_placement` have a stream's fields with `t` for `occurred_at` and
`party_id_sent` for `party_id`, and `broker_time`, `future` and the coordinates. Times are naive UTC.
"""

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from schemas.events import ACCESS, ALLOCATION, EVENTS, PLACEMENT
from schemas.record import Record
from schemas.tables import typed

TABLE: Mapping[str, str] = {
    ALLOCATION.name: "allocation",
    ACCESS.name: "recent_access",
    PLACEMENT.name: "recent_placement",
}
"""Stream → the table of its kept events."""

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
        empty = pa.Table.from_batches([], kept(typed(record).empty_table(), record).schema)
        con.register("empty_events", empty)
        con.execute(
            f'CREATE TABLE IF NOT EXISTS "{TABLE[record.name]}" AS SELECT {listed(record)} FROM empty_events'
        )
        con.unregister("empty_events")


def kept(landed: pa.Table, record: Record) -> pa.Table:
    """Landed rows (`typed(record)`, further columns last) with the names and naive times of kept ones."""
    taken = {}
    for name in columns(record):
        origin = "occurred_at" if name == "t" else name
        column = landed[origin]
        taken[name] = column.cast(pa.timestamp("us")) if pa.types.is_timestamp(column.type) else column
    for name in ("verdicts", "commit"):
        if name in landed.column_names:
            taken[name] = landed[name]
    return pa.table(taken)


def take_new(con: duckdb.DuckDBPyConnection, originals: Mapping[str, pa.Table]) -> None:
    """Gives the step's originals their names: `new_<stream>` (kept columns, `verdicts` and `commit`) and the
    narrow `new_event`. They are views of the Arrow tables; nothing is copied.

    `originals`: per stream the landed rows that are no duplicates.
    """
    parts = []
    for record in EVENTS.values():
        con.register(f"new_{record.name}", kept(originals[record.name], record))
        parts.append(f"SELECT '{record.name}' AS stream, {_narrow()} FROM new_{record.name}")
    con.execute(f"CREATE OR REPLACE TEMP VIEW new_event AS {' UNION ALL '.join(parts)}")


def take_gone(con: duckdb.DuckDBPyConnection, gone: pa.Table) -> None:
    """Takes out kept events that turned out to be duplicates, and makes `gone_event` of them (`gone`, as
    `duplicates.find` gives it) and `gone_<stream>` with all columns."""
    con.register("gone_rows", gone)
    con.execute("CREATE OR REPLACE TEMP TABLE gone_event AS FROM gone_rows")
    con.unregister("gone_rows")
    for record in EVENTS.values():
        table = TABLE[record.name]
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE gone_{record.name} AS SELECT {listed(record, 'e')} "
            f'FROM "{table}" e SEMI JOIN gone_event USING ({_AT}) WHERE {str(gone.num_rows > 0).lower()}'
        )
        if gone.num_rows:
            con.execute(
                f'DELETE FROM "{table}" USING gone_{record.name} g WHERE "{table}".topic = g.topic '
                f'AND "{table}"."partition" = g."partition" AND "{table}"."offset" = g."offset"'
            )


def keep(con: duckdb.DuckDBPyConnection, record: Record) -> None:
    """Adds the step's new events of a stream to the kept ones."""
    con.execute(f'INSERT INTO "{TABLE[record.name]}" BY NAME SELECT {listed(record)} FROM new_{record.name}')


def events_of(con: duckdb.DuckDBPyConnection, record: Record, table: str, column: str) -> str:
    """Makes and names a temp table of all the stream's events that name an allocation in `table`.`column`."""
    name = f"events_of_{record.name}"
    con.execute(
        f'CREATE OR REPLACE TEMP TABLE {name} AS SELECT {listed(record, "e")} FROM "{TABLE[record.name]}" e '
        f'WHERE e.allocation_id IN (SELECT "{column}" FROM "{table}")'
    )
    return name


def _narrow() -> str:
    return ", ".join(f'"{name}"' for name in _NARROW)

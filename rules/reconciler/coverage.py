"""Coverage: the time of every allocation in pieces, and which of the four links each piece has.

A piece is written when the watermark has passed its start, and again when it has passed its end. As long as
events arrive before the watermark reaches them, an allocation goes on from the piece that still runs. What an
event behind the watermark or a version that reaches back touches is cut again from all its events.

The state is a function of the events, the versions and the watermark, and holds nothing per piece: where the
watermark of an update is not that of a settled step, its rows must be settled, or they are lost.
"""

import duckdb
import pyarrow as pa

from rules.reconciler import coverage_rows, coverage_scope, coverage_sums
from rules.reconciler.coverage_rows import SCHEMA
from rules.reconciler.coverage_scope import EventsOf, watermark
from rules.reconciler.coverage_sums import ratios
from rules.reconciler.links import COLUMNS
from rules.references import References

__all__ = ["COLUMNS", "SCHEMA", "EventsOf", "create", "note", "ratios", "update", "watermark"]


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    coverage_scope.create(con)
    coverage_sums.create(con)


def note(con: duckdb.DuckDBPyConnection) -> None:
    """Notes what a step's events and versions reach back to, for the next update; once in every step.

    Reads the temp tables `new_event`, `gone_event` and `reach_allocation`.
    """
    coverage_scope.note(con, watermark(con))


def update(
    con: duckdb.DuckDBPyConnection, references: References, now: int | None, step: int, events_of: EventsOf
) -> pa.Table:
    """Cuts what the steps since the last update have changed; returns the rows to write (SCHEMA).

    Reads `allocation`, `recent_access` and `recent_placement`: at least what is later than the watermark of
    the last update.

    Args:
        con: the state.
        references: all versions known now, with COLUMNS.
        now: the watermark (µs) now, never less than before; None as long as there is none.
        step: the number under which the rows are settled.
        events_of: gives all events of some allocations, of whatever age.
    """
    if now is None:
        return SCHEMA.empty_table()
    before = watermark(con)
    assert now >= before, "the watermark went back"
    con.execute("DELETE FROM coverage_clock")
    con.execute("INSERT INTO coverage_clock VALUES (make_timestamp(?))", [now])
    if not coverage_scope.select(con, before, now, events_of):
        return SCHEMA.empty_table()
    parts = [
        coverage_rows.cut_scope(scope, events, references, now, step)
        for scope, events in coverage_scope.read(con)
    ]
    _replace(con, "coverage_open", [part.still_open for part in parts])
    _replace(con, "coverage_placement", [part.placements for part in parts])
    coverage_sums.record(con, pa.concat_tables([part.ended for part in parts]))
    con.execute("DELETE FROM coverage_late")
    return pa.concat_tables([part.rows for part in parts])


def _replace(con: duckdb.DuckDBPyConnection, table: str, rows: list[pa.Table]) -> None:
    """Replaces what a table holds of the allocations in scope."""
    con.execute(f"DELETE FROM {table} WHERE allocation_id IN (SELECT allocation_id FROM coverage_scope)")
    con.register("coverage_rows", pa.concat_tables(rows))
    con.execute(f"INSERT INTO {table} BY NAME SELECT * FROM coverage_rows")
    con.unregister("coverage_rows")

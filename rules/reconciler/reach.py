"""How far back new reference versions reach: the ids whose versions in force may have changed, and when.

`reach_id` has `kind` (party, principal, authorization, site, serial), `id`, `from_t`, `to_t` (null: no end);
`reach_allocation` the allocations whose own party or authorization is among them, and the placements' sites.
"""

from collections.abc import Iterable, Sequence

import duckdb
import pyarrow as pa

from rules.reconciler.store import TABLE
from schemas.events import ALLOCATION, PLACEMENT
from schemas.record import Record
from schemas.reference import ASSET, AUTHORIZATION, PARTY, PRINCIPAL, SITE

_KIND = {PARTY.name: "party", AUTHORIZATION.name: "authorization", SITE.name: "site", ASSET.name: "serial"}
TOPICS = frozenset(record.topic for record in (PARTY, PRINCIPAL, AUTHORIZATION, SITE, ASSET))
"""The reference topics that row rules are judged with."""

_COLUMN = {
    "party": "party_id_sent",
    "principal": "principal",
    "authorization": "authorization_id",
    "site": "site_id",
}
"""Kind of id → the event's column that names it; serials are a list."""

_IN_TIME = "{event}.t >= r.from_t AND (r.to_t IS NULL OR {event}.t < r.to_t)"

Versions = Sequence[tuple[Record, pa.RecordBatch]]
"""Reference rows as landed: typed(record), tombstones among them."""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    con.execute(
        "CREATE TABLE IF NOT EXISTS binding (binding_id VARCHAR, principal VARCHAR, party_id VARCHAR);"
        "CREATE TABLE IF NOT EXISTS capped (authorization_id VARCHAR)"
    )


def follow(con: duckdb.DuckDBPyConnection, versions: Versions) -> None:
    """Makes `reach_id` of the step's new versions."""
    con.execute(
        "CREATE OR REPLACE TEMP TABLE reach_id "
        "(kind VARCHAR, id VARCHAR, from_t TIMESTAMP, to_t TIMESTAMP);"
        "CREATE OR REPLACE TEMP TABLE reach_allocation "
        "(allocation_id VARCHAR, from_t TIMESTAMP, to_t TIMESTAMP)"
    )
    for record, rows in versions:
        if rows.num_rows and record.name in (*_KIND, PRINCIPAL.name):
            con.register("version_rows", _naive(rows))
            _note(con, record)
            con.unregister("version_rows")


def reached(record: Record, events: str) -> Iterable[str]:
    """Queries for the coordinates and `t` of the stream's kept events (a relation) that a version of
    `reach_id` touches."""
    for kind, column in _COLUMN.items():
        yield (
            f'SELECT e.topic, e."partition", e."offset", e.t FROM {events} e '
            f"JOIN reach_id r ON r.kind = '{kind}' AND r.id = e.{column} AND {_IN_TIME.format(event='e')}"
        )
    if "serials" in record.by_name:
        yield (
            'SELECT e.topic, e."partition", e."offset", e.t FROM '
            f'(SELECT topic, "partition", "offset", t, unnest(serials) AS serial FROM {events}) e '
            f"JOIN reach_id r ON r.kind = 'serial' AND r.id = e.serial AND {_IN_TIME.format(event='e')}"
        )


def follow_allocations(con: duckdb.DuckDBPyConnection) -> None:
    """Fills `reach_allocation`: what an allocation names, and where it was placed, is looked up at the times
    of other events."""
    for kind in ("party", "principal", "authorization"):
        con.execute(
            "INSERT INTO reach_allocation SELECT DISTINCT e.allocation_id, r.from_t, r.to_t "
            f"FROM \"{TABLE[ALLOCATION.name]}\" e JOIN reach_id r ON r.kind = '{kind}' "
            f"AND r.id = e.{_COLUMN[kind]} WHERE e.action = 'allocated'"
        )
    con.execute(
        "INSERT INTO reach_allocation SELECT DISTINCT e.allocation_id, r.from_t, r.to_t "
        f"FROM \"{TABLE[PLACEMENT.name]}\" e JOIN reach_id r ON r.kind = 'site' AND r.id = e.site_id "
        "WHERE e.allocation_id IS NOT NULL"
    )


def is_reaching(con: duckdb.DuckDBPyConnection) -> bool:
    """Whether any version of the step may touch an event."""
    return bool(con.execute("SELECT count(*) > 0 FROM reach_id").fetchall()[0][0])


def _note(con: duckdb.DuckDBPyConnection, record: Record) -> None:
    span = "coalesce(tombstone_at, valid_from) AS from_t, valid_to AS to_t"
    alive = "tombstone_at IS NOT NULL OR valid_to IS NULL OR valid_from < valid_to"
    if record.name == PRINCIPAL.name:
        con.execute(
            "INSERT INTO binding SELECT binding_id, principal, party_id FROM version_rows "
            "WHERE version IS NOT NULL"
        )
        con.execute(  # a version may also put another one of its binding out of force
            "INSERT INTO reach_id SELECT DISTINCT 'principal', b.principal, v.from_t, v.to_t "
            f"FROM (SELECT binding_id, {span} FROM version_rows WHERE {alive}) v "
            "JOIN binding b USING (binding_id)"
        )
        return
    kind, (key,) = _KIND[record.name], record.key
    con.execute(f"INSERT INTO reach_id SELECT '{kind}', {key}, {span} FROM version_rows WHERE {alive}")
    if record.name == PARTY.name:
        con.execute(
            "INSERT INTO reach_id SELECT DISTINCT 'principal', b.principal, v.from_t, v.to_t "
            f"FROM (SELECT party_id, {span} FROM version_rows WHERE {alive}) v "
            "JOIN binding b USING (party_id)"
        )
    if record.name == AUTHORIZATION.name:
        con.execute(
            "INSERT INTO capped SELECT DISTINCT authorization_id FROM version_rows "
            "WHERE max_accelerators IS NOT NULL "
            "AND authorization_id NOT IN (SELECT authorization_id FROM capped)"
        )


def _naive(rows: pa.RecordBatch) -> pa.Table:
    names = {"version", "valid_from", "valid_to", "tombstone_at", "max_accelerators"}
    names |= {"party_id", "principal", "binding_id", "authorization_id", "site_id", "serial"}
    columns = {}
    for name in rows.schema.names:
        if name in names:
            column = rows[name]
            columns[name] = column.cast(pa.timestamp("us")) if pa.types.is_timestamp(column.type) else column
    return pa.table(columns)

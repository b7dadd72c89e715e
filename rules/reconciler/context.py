"""What the deadline and sweep rules see of an event beyond its own fields: its parties, its allocation, what
was open, placed and released around it. `rules.reconciler.views` gives the rules their names.
"""

from datetime import datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from rules.join import parties
from rules.reconciler import intervals
from rules.reconciler.chain import with_allocation
from rules.reconciler.scope import Size
from rules.reconciler.store import filled
from rules.references import References
from rules.versions import times
from schemas.events import ACCESS, ALLOCATION, EVENTS, PLACEMENT
from schemas.record import Record
from schemas.reference import AUTHORIZATION, PARTY

COLUMNS = frozenset({"P.brokers", "A.max_accelerators"})
"""What is needed of the reference versions."""

_SEEN = (
    *("topic", "partition", "offset", "source", "event_id", "t"),
    *("action", "allocation_id", "party_id_sent", "principal"),
)
_SEEN_OF = {
    ALLOCATION.name: ("authorization_id", "model", "accelerators", "serials"),
    ACCESS.name: (),
    PLACEMENT.name: ("workload_id", "serials"),
}
"""The columns of an event that such rules see, of every stream and of each."""

_AT = 'topic, "partition", "offset"'

_ASKED_AUTHORIZATION = f"""
CREATE OR REPLACE TEMP TABLE asked_authorization AS
SELECT {_AT}, authorization_id AS key, t, allocation_id FROM judged_allocation
WHERE chain_rules AND max_accelerators IS NOT NULL
"""

_ALLOCATED = f"""
CREATE OR REPLACE TEMP TABLE chain_scope_allocated AS
SELECT s.* EXCLUDE (accelerators), {intervals.ACCELERATORS}::HUGEINT AS accelerators,
  coalesce(o.beside, 0)::HUGEINT AS others_open
FROM judged_allocation s LEFT JOIN ({{beside}}) o USING ({_AT})
WHERE s.chain_rules;

CREATE OR REPLACE TEMP TABLE asked_code AS
SELECT {_AT}, t, allocation_id, hash(serial) AS key
FROM (SELECT {_AT}, t, allocation_id, unnest(list_distinct(serials)) AS serial FROM chain_scope_allocated);
"""

_ASKED_SERIAL = f"""
CREATE OR REPLACE TEMP TABLE asked_serial AS
SELECT DISTINCT {_AT}, s.source, s.event_id, s.t, s.allocation_id, s.party_id, serial, serial AS key
FROM (SELECT *, unnest(serials) AS serial FROM chain_scope_allocated) s SEMI JOIN (
  SELECT {_AT} FROM ({{beside}}) WHERE beside > 0) USING ({_AT})
"""
"""Serials are counted by their codes, and by their text where another may have it: nearly none does."""

_SERIAL = """
CREATE OR REPLACE TEMP TABLE chain_serial AS
SELECT * EXCLUDE (beside), beside AS held_by FROM ({beside}) WHERE beside > 0
"""

_PLACES = """
CREATE OR REPLACE TEMP TABLE context_placed AS
SELECT allocation_id, t, action FROM (
  SELECT allocation_id, t, action FROM recent_placement WHERE t >= {since} - INTERVAL 1 DAY
  UNION ALL SELECT allocation_id, t, action FROM new_placement)
SEMI JOIN chain_scope_allocated USING (allocation_id);

CREATE OR REPLACE TEMP TABLE context_released AS
SELECT allocation_id, t FROM step_released SEMI JOIN chain_scope_allocated USING (allocation_id);
"""

_NOTHING_ALLOCATED = """
DELETE FROM chain_scope_allocated; DELETE FROM chain_serial;
"""

_VIEWS = f"""
CREATE OR REPLACE TEMP VIEW chain_scope_access AS
SELECT s.*, CASE
  WHEN s.allocated_at IS NULL THEN CASE WHEN r.t <= s.t THEN 'released' END
  WHEN s.allocation_released_at <= s.t THEN 'released'
  ELSE 'allocated' END AS last_action
FROM judged_access s
LEFT JOIN (
  SELECT allocation_id, min(t) AS t FROM step_released GROUP BY allocation_id) r USING (allocation_id)
WHERE s.chain_rules;

CREATE OR REPLACE TEMP VIEW chain_scope_placement AS FROM judged_placement WHERE chain_rules;

CREATE OR REPLACE TEMP VIEW judged_party AS
SELECT {_AT}, party_id, allocation_id FROM judged_allocation
UNION ALL SELECT {_AT}, party_id, allocation_id FROM judged_access
UNION ALL SELECT {_AT}, party_id, allocation_id FROM judged_placement;

CREATE OR REPLACE TEMP VIEW older_event AS
SELECT {_AT}, chain_rules FROM older_allocation UNION ALL SELECT {_AT}, chain_rules FROM older_access
UNION ALL SELECT {_AT}, chain_rules FROM older_placement;
"""

_SAME_ID = f"""
CREATE OR REPLACE TEMP TABLE scope_same_id AS
SELECT s.* EXCLUDE (party_id, allocation_id), p.party_id, p.allocation_id
FROM scope_same_id s LEFT JOIN judged_party p USING ({_AT});
"""
"""An event in conflict may be old: then it is in the scope for its party only."""


def create(con: duckdb.DuckDBPyConnection, references: References) -> None:
    """Makes the views and tables that rules see, for this connection; `scope.create` and `chain.create` come
    first."""
    for record in EVENTS.values():
        con.register(f"judged_{record.name}", _judged(con, references, record))
    _allocated(con)
    con.execute(_VIEWS)


def build(con: duckdb.DuckDBPyConnection, references: References, size: Size) -> None:
    """Fills `chain_scope_*`, `chain_serial`, `context_*` and `judged_party` with the scope, and
    `judged_chain` with what of it was judged before. Expects the new accesses and placements not to be kept
    yet."""
    for record in EVENTS.values():
        if size.has(record) or con.execute(f"SELECT 1 FROM judged_{record.name} LIMIT 1").fetchall():
            con.register(f"judged_{record.name}", _judged(con, references, record))
    if size.has(ALLOCATION):
        _allocated(con)
    else:
        con.execute(_NOTHING_ALLOCATED)
    if filled(con, "scope_same_id"):
        con.execute(_SAME_ID)
    if any(size.older.values()):
        con.execute(f"INSERT INTO judged_chain SELECT {_AT} FROM older_event WHERE chain_rules")


def _judged(con: duckdb.DuckDBPyConnection, references: References, record: Record) -> pa.Table:
    """The scope's events of a stream as deadline and sweep rules see them."""
    columns = ", ".join(f's."{name}"' for name in (*_SEEN, *_SEEN_OF[record.name], "chain_rules"))
    more = ", a.serials AS allocation_serials" if record is PLACEMENT else ""
    rows = con.sql(with_allocation(record, columns, "true", more)).to_arrow_table().combine_chunks()
    return _with_parties(rows, references, record)


def _allocated(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(_ASKED_AUTHORIZATION)
    con.execute(_ALLOCATED.format(beside=intervals.beside_authorization(con, "asked_authorization")))
    con.execute(_ASKED_SERIAL.format(beside=intervals.beside_code(con, "asked_code")))
    con.execute(_SERIAL.format(beside=intervals.beside_serial(con, "asked_serial")))
    since = intervals.least(con, "chain_scope_allocated", "t") or intervals.moment(datetime.max)
    con.execute(_PLACES.format(since=since))


def _with_parties(rows: pa.Table, references: References, record: Record) -> pa.Table:
    """Adds `party_id` (the one the event is judged with), and by stream what else the rules ask for."""
    t = times(_whole(rows["t"]))
    sent = _named(rows, "party_id_sent", "principal")
    nobody = pc.and_(sent["party_id"].is_null(), sent["principal"].is_null())
    own, _ = parties(sent, t, references)
    allocations, _ = parties(_named(rows, "allocation_party_id_sent", "allocation_principal"), t, references)
    own_id, allocation_id = references.ids(PARTY, own), references.ids(PARTY, allocations)
    through = pc.and_(nobody, pc.not_equal(_whole(rows["action"]), "allocated"))
    rows = rows.append_column("party_id", pc.if_else(through, allocation_id, own_id))
    if record is ALLOCATION:
        authorization = references.at(AUTHORIZATION, _whole(rows["authorization_id"]), t)
        (cap,) = references.columns(AUTHORIZATION, authorization, ["max_accelerators"])
        return rows.append_column("max_accelerators", cap)
    if record is PLACEMENT:
        return rows
    differ = (own >= 0) & (allocations >= 0) & (own != allocations)
    for name, ids, held in (("own", own_id, own), ("allocation", allocation_id, allocations)):
        asked = held.copy()
        asked[~differ] = -1
        (brokers,) = references.columns(PARTY, asked, ["brokers"])
        rows = rows.append_column(f"{name}_party_id", ids).append_column(f"{name}_brokers", brokers)
    return rows


def _named(rows: pa.Table, party: str, principal: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({"party_id": _whole(rows[party]), "principal": _whole(rows[principal])})


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)

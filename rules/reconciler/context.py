"""What the deadline and sweep rules see of an event beyond its own fields: its parties, its allocation, what
was open, placed and released around it. `rules.reconciler.views` gives the rules their names.
"""

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from rules.join import parties
from rules.reconciler import intervals
from rules.reconciler.chain import with_allocation
from rules.references import References
from rules.versions import times
from schemas.events import ACCESS, ALLOCATION, PLACEMENT
from schemas.record import Record
from schemas.reference import AUTHORIZATION, PARTY

COLUMNS = frozenset({"P.brokers", "A.max_accelerators"})
"""What is needed of the reference versions."""

_AT = 'topic, "partition", "offset"'

_PLACES = """
CREATE OR REPLACE TEMP TABLE context_placed AS
SELECT allocation_id, t, action FROM (
  SELECT allocation_id, t, action FROM recent_placement
  UNION ALL SELECT allocation_id, t, action FROM new_placement)
SEMI JOIN chain_scope_allocated USING (allocation_id);

CREATE OR REPLACE TEMP TABLE context_released AS
SELECT allocation_id, t FROM step_released SEMI JOIN chain_scope_allocated USING (allocation_id);
"""

_ALLOCATED = f"""
CREATE OR REPLACE TEMP TABLE asked_authorization AS
SELECT {_AT}, authorization_id AS key, t, allocation_id FROM step_judged WHERE max_accelerators IS NOT NULL;

CREATE OR REPLACE TEMP TABLE chain_scope_allocated AS
SELECT s.* EXCLUDE (accelerators), {intervals.ACCELERATORS}::HUGEINT AS accelerators,
  coalesce(o.beside, 0)::HUGEINT AS others_open
FROM step_judged s
LEFT JOIN ({intervals.beside_authorization("asked_authorization")}) o USING ({_AT});

CREATE OR REPLACE TEMP TABLE asked_serial AS
SELECT DISTINCT {_AT}, source, event_id, unnest(serials) AS key, t, allocation_id, party_id FROM step_judged;

CREATE OR REPLACE TEMP TABLE chain_serial AS
SELECT {_AT}, source, event_id, t, allocation_id, party_id, serial, beside AS held_by
FROM ({intervals.beside_serial("(SELECT *, key AS serial FROM asked_serial)")});
"""

_LAST_ACTION = """
CREATE OR REPLACE TEMP TABLE chain_scope_access AS
SELECT s.*, CASE WHEN r.t IS NOT NULL AND (s.allocated_at IS NULL OR r.t >= s.allocated_at) THEN 'released'
  WHEN s.allocated_at IS NOT NULL THEN 'allocated' END AS last_action
FROM step_judged s ASOF LEFT JOIN step_released r ON s.allocation_id = r.allocation_id AND s.t >= r.t
"""


_START = """
CREATE OR REPLACE TEMP TABLE judged_party (
  topic VARCHAR, "partition" INTEGER, "offset" BIGINT, party_id VARCHAR, allocation_id VARCHAR)
"""

_SAME_ID = f"""
CREATE OR REPLACE TEMP TABLE scope_same_id AS
SELECT s.* EXCLUDE (party_id, allocation_id), p.party_id, p.allocation_id
FROM scope_same_id s LEFT JOIN judged_party p USING ({_AT})
"""
"""An event in conflict may be old: it is in the scope only for its party."""


def build(con: duckdb.DuckDBPyConnection, references: References) -> None:
    """Makes `chain_scope_*`, `chain_serial`, `context_*` and `judged_party` of the scope, and fills
    `judged_chain`."""
    con.execute(_START)
    _judged(con, references, ALLOCATION)
    con.execute(_ALLOCATED)
    con.execute(_PLACES)
    _judged(con, references, ACCESS)
    con.execute(_LAST_ACTION)
    _judged(con, references, PLACEMENT)
    con.execute("CREATE OR REPLACE TEMP TABLE chain_scope_placement AS FROM step_judged")
    con.execute(_SAME_ID)


def _judged(con: duckdb.DuckDBPyConnection, references: References, record: Record) -> None:
    """Makes `step_judged`: the stream's rows that deadline and sweep rules judge, with their parties."""
    more = ", a.serials AS allocation_serials" if record is PLACEMENT else ""
    rows = con.sql(with_allocation(record, "true", more)).to_arrow_table().combine_chunks()
    con.register("judged_rows", _with_parties(rows, references, record))
    con.execute("CREATE OR REPLACE TEMP TABLE step_judged AS FROM judged_rows WHERE chain_rules")
    con.execute(f"INSERT INTO judged_party SELECT {_AT}, party_id, allocation_id FROM judged_rows")
    con.execute(f"INSERT INTO judged_chain SELECT {_AT} FROM step_judged")
    con.unregister("judged_rows")


def _with_parties(rows: pa.Table, references: References, record: Record) -> pa.Table:
    """Adds `party_id` (the one the event is judged with), and by stream what else the rules ask for."""
    t = times(_whole(rows["t"]))
    sent = _named(rows, "party_id_sent", "principal")
    nobody = pc.and_(sent["party_id"].is_null(), sent["principal"].is_null())
    if record is ALLOCATION:
        party, _ = parties(sent, t, references)
        authorization = references.at(AUTHORIZATION, _whole(rows["authorization_id"]), t)
        (cap,) = references.columns(AUTHORIZATION, authorization, ["max_accelerators"])
        rows = rows.append_column("max_accelerators", cap)
        return rows.append_column("party_id", references.ids(PARTY, party))
    own, _ = parties(sent, t, references)
    named = _named(rows, "allocation_party_id_sent", "allocation_principal")
    allocations, _ = parties(named, t, references)
    own_id, allocation_id = references.ids(PARTY, own), references.ids(PARTY, allocations)
    rows = rows.append_column("party_id", pc.if_else(nobody, allocation_id, own_id))
    if record is not ACCESS:
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

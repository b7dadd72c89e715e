"""What the deadline and sweep rules see of an event beyond its own fields: its parties, its allocation, what
was open, placed and released around it. `rules.reconciler.views` gives the rules their names.
"""

from collections.abc import Sequence
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.asof import Ints
from rules.join import parties
from rules.reconciler import intervals, store
from rules.reconciler.parts import Part, parts
from rules.reconciler.state import has_rows
from rules.references import References
from rules.versions import Mask, times
from schemas.events import ACCESS, ALLOCATION, EVENTS, PLACEMENT
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
    """Makes the views and tables that rules see, for this connection; `scope.create` comes first."""
    nothing = parts(con, {record.name: store.nothing_new(record) for record in EVENTS.values()})
    for part in nothing:
        con.register(f"judged_{part.record.name}", _judged(part, references))
    _allocated(con)
    con.execute(_VIEWS)


def build(con: duckdb.DuckDBPyConnection, references: References, scope: Sequence[Part]) -> None:
    """Fills `chain_scope_*`, `chain_serial`, `context_*` and `judged_party` with the scope, and
    `judged_chain` with what of it was judged before. Expects the new accesses and placements not to be kept
    yet."""
    for record in EVENTS.values():
        found = [_judged(part, references) for part in scope if part.record is record]
        con.register(f"judged_{record.name}", pa.concat_tables(found))
    if any(part.rows.num_rows for part in scope if part.record is ALLOCATION):
        _allocated(con)
    else:
        con.execute(_NOTHING_ALLOCATED)
    if has_rows(con, "scope_same_id"):
        con.execute(_SAME_ID)
    if any(not part.is_new for part in scope):
        con.execute(f"INSERT INTO judged_chain SELECT {_AT} FROM older_event WHERE chain_rules")


def _allocated(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(_ASKED_AUTHORIZATION)
    con.execute(_ALLOCATED.format(beside=intervals.beside_authorization(con, "asked_authorization")))
    con.execute(_ASKED_SERIAL.format(beside=intervals.beside_code(con, "asked_code")))
    con.execute(_SERIAL.format(beside=intervals.beside_serial(con, "asked_serial")))
    since = intervals.least(con, "chain_scope_allocated", "t") or intervals.moment(datetime.max)
    con.execute(_PLACES.format(since=since))


def _judged(part: Part, references: References) -> pa.Table:
    """Events as deadline and sweep rules see them: with the party each is judged with, and by stream what
    else the rules ask for."""
    record, t = part.record, times(part.column("t"))
    columns = {name: part.rows[name] for name in (*_SEEN, *_SEEN_OF[record.name])}
    columns["chain_rules"] = part.chain_rules
    sent, principal = part.column("party_id_sent"), part.column("principal")
    own = _party(sent, principal, t, references)
    through = _party(part.of_allocation("party_id_sent"), part.of_allocation("principal"), t, references)
    nobody = (sent.is_null().to_numpy(zero_copy_only=False)) & principal.is_null().to_numpy(
        zero_copy_only=False
    )
    if record is ALLOCATION:  # an `allocated` event is completed by nothing
        nobody &= pc.equal(part.column("action"), "released").to_numpy(zero_copy_only=False)
    columns["party_id"] = _ids(np.where(nobody, through, own), references)
    if record is ALLOCATION:
        authorization = references.at(AUTHORIZATION, part.column("authorization_id"), t)
        (columns["max_accelerators"],) = references.columns(
            AUTHORIZATION, authorization, ["max_accelerators"]
        )
        return pa.table(columns)
    columns["allocated_at"] = part.moment_of_allocation("t")
    if record is PLACEMENT:
        columns["allocation_serials"] = part.of_allocation("serials").dictionary_decode()
        return pa.table(columns)
    columns["allocation_released_at"] = part.moment_of_allocation("released_at")
    differ = (own >= 0) & (through >= 0) & (own != through)
    for name, party in (("own", own), ("allocation", through)):
        columns[f"{name}_party_id"] = _ids(party, references)
        columns[f"{name}_brokers"] = _brokers(party, differ, references)
    return pa.table(columns)


def _brokers(party: Ints, asked: Mask, references: References) -> pa.Array:
    """The brokers of the parties where they are asked for, which is nearly nowhere."""
    (brokers,) = references.columns(PARTY, party[asked], ["brokers"])
    if not len(brokers):
        return pa.nulls(len(party), brokers.type)
    return brokers.take(pa.array(np.cumsum(asked) - 1, mask=~asked))


def _party(sent: pa.Array, principal: pa.Array, t: Ints, references: References) -> Ints:
    """The row of the party in force that each event's party or else its principal leads to, or -1."""
    party, _ = parties(pa.RecordBatch.from_pydict({"party_id": sent, "principal": principal}), t, references)
    return party


def _ids(party: Ints, references: References) -> pa.Array:
    """The parties' ids, each text once."""
    encoded = pa.array(party).dictionary_encode()
    ids = references.ids(PARTY, encoded.dictionary.to_numpy())
    return pa.DictionaryArray.from_arrays(encoded.indices, ids)

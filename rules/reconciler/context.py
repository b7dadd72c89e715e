"""What the deadline and sweep rules see of an event beyond its own fields: its parties, its allocation, what
was open, placed and released around it. `rules.reconciler.views` gives the rules their names.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.reconciler import intervals, store
from rules.reconciler.chain import Chains
from rules.reconciler.parties import Told, judged_with, of_allocation, union
from rules.reconciler.parts import Part, parts
from rules.reconciler.state import has_rows, least, moment
from rules.references import References
from rules.versions import times
from schemas.events import ACCESS, ALLOCATION, EVENTS, PLACEMENT
from schemas.reference import AUTHORIZATION, PARTY

COLUMNS = frozenset({"P.brokers", "A.max_accelerators"})
"""What is needed of the reference versions."""

_REGISTERED = ("judged_party", "judged_allocation", "chain_scope_access", "chain_scope_placement")

_PLACE = ("topic", "partition", "offset")
_SEEN = (*_PLACE, "source", "event_id", "t", "action", "allocation_id")
_SEEN_OF = {
    ALLOCATION.name: ("authorization_id", "model", "accelerators", "serials"),
    ACCESS.name: (),
    PLACEMENT.name: ("workload_id", "serials"),
}
"""The columns of an event that such rules see, of every stream and of each."""

_AT = 'topic, "partition", "offset"'

_ASKED_AUTHORIZATION = """
CREATE OR REPLACE TEMP TABLE asked_authorization AS
SELECT number, authorization_id AS key, t, allocation_id FROM judged_allocation
WHERE max_accelerators IS NOT NULL
"""

_OPEN = "INSERT INTO others_open SELECT number, beside FROM ({beside}) WHERE beside <> 0"

_ALLOCATED = f"""
CREATE TEMP VIEW chain_scope_allocated AS
SELECT s.* EXCLUDE (number, accelerators), {intervals.ACCELERATORS}::HUGEINT AS accelerators,
  coalesce(o.beside, 0)::HUGEINT AS others_open
FROM judged_allocation s LEFT JOIN others_open o USING (number)
"""

_ASKED_CODE = """
CREATE OR REPLACE TEMP TABLE asked_code AS
SELECT t, hash(serial) AS code FROM (SELECT t, unnest(serials) AS serial FROM judged_allocation)
"""

_ASKED_SERIAL = f"""
CREATE OR REPLACE TEMP TABLE asked_serial AS
SELECT DISTINCT {_AT}, source, event_id, t, allocation_id, party_id, serial, serial AS key
FROM (SELECT *, unnest(serials) AS serial FROM judged_allocation)
WHERE hash(serial) IN (SELECT code FROM shared_code)
"""
"""Serials are counted only where another allocation may list them, too: nearly none is."""

_SERIAL = """
INSERT INTO chain_serial BY NAME
SELECT * EXCLUDE (beside), beside AS held_by FROM ({beside}) WHERE beside > 0
"""

_PLACES = """
CREATE OR REPLACE TEMP TABLE context_placed AS
SELECT allocation_id, t, action FROM (
  SELECT allocation_id, t, action FROM placement WHERE t >= {since} - INTERVAL 1 DAY
  UNION ALL SELECT allocation_id, t, action FROM new_placement)
SEMI JOIN judged_allocation USING (allocation_id);

CREATE OR REPLACE TEMP TABLE context_released AS
SELECT allocation_id, t FROM step_released SEMI JOIN judged_allocation USING (allocation_id);
"""

_RELEASED_ONLY = """
SELECT a.number FROM asked_release a JOIN step_released r USING (allocation_id) WHERE r.t <= a.t
"""

_CREATE = f"""
CREATE TEMP TABLE others_open (number BIGINT, beside HUGEINT);

CREATE TEMP TABLE chain_serial (
  topic VARCHAR, "partition" INTEGER, "offset" BIGINT, source VARCHAR, event_id VARCHAR, t TIMESTAMP,
  allocation_id VARCHAR, party_id VARCHAR, serial VARCHAR, held_by HUGEINT);

CREATE TEMP VIEW older_event AS
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
    con.execute(_CREATE)
    nothing = parts(con, Chains(con), {record.name: store.nothing_new(record) for record in EVENTS.values()})
    _register(con, references, nothing, [union([])] * len(nothing), (), every_party=False)
    con.execute(_ALLOCATED)
    _look_around(con)


def build(
    con: duckdb.DuckDBPyConnection,
    references: References,
    scope: Sequence[Part],
    told: Sequence[Told],
    current: Sequence[int],
) -> None:
    """Fills `chain_scope_*`, `chain_serial`, `context_*` and `judged_party` with the scope, and
    `judged_chain` with what of it was judged before. Expects the new accesses and placements not to be kept
    yet.

    Args:
        con: the state.
        references: all versions known now.
        scope: the events.
        told: what judging row rules again has found of their parties.
        current: the step's commits that were judged with exactly the versions that are known now.
    """
    in_conflict = has_rows(con, "scope_same_id")
    allocated = _register(con, references, scope, told, current, every_party=in_conflict)
    con.execute("DELETE FROM others_open; DELETE FROM chain_serial")
    if allocated.num_rows:
        _look_around(con)
        if allocated["max_accelerators"].null_count < allocated.num_rows:
            _count_open(con)
        _count_serials(con)
    if in_conflict:
        con.execute(_SAME_ID)
    if any(not part.is_new for part in scope):
        con.execute(f"INSERT INTO judged_chain SELECT {_AT} FROM older_event WHERE chain_rules")


def let_go(con: duckdb.DuckDBPyConnection) -> None:
    """Lets go what `build` has given names, once the rules have run: a large part of a step's memory."""
    for name in _REGISTERED:
        con.unregister(name)


def _register(
    con: duckdb.DuckDBPyConnection,
    references: References,
    scope: Sequence[Part],
    told: Sequence[Told],
    current: Sequence[int],
    every_party: bool,
) -> pa.Table:
    """Gives `judged_allocation`, `chain_scope_access`, `chain_scope_placement` and `judged_party` their
    names, and returns the first. Of new events `judged_party` has those with verdicts, whose firings workers
    wrote, or else all."""
    seen: dict[str, list[pa.Table]] = {record.name: [] for record in EVENTS.values()}
    judged = []
    for part, found in zip(scope, told, strict=True):
        party = judged_with(part, found, current, references)
        rows = part.rows.select([*_PLACE, "allocation_id"]).append_column("party_id", party)
        if part.is_new and not every_party:
            rows = rows.filter(pc.greater(pc.list_value_length(part.column("verdicts")), 0))
        judged.append(rows)
        seen[part.record.name].append(_seen(con, *_chosen(part, party), references))
    tables = {name: pa.concat_tables(rows) for name, rows in seen.items()}
    allocated = tables[ALLOCATION.name]
    allocated = allocated.append_column("number", pa.array(np.arange(allocated.num_rows)))
    everything = (pa.concat_tables(judged), allocated, tables[ACCESS.name], tables[PLACEMENT.name])
    for name, table in zip(_REGISTERED, everything, strict=True):
        con.register(name, table)
    return allocated


def _look_around(con: duckdb.DuckDBPyConnection) -> None:
    """What was placed and released of the allocations judged."""
    since = least(con, "judged_allocation", "t") or moment(datetime.max)
    con.execute(_PLACES.format(since=since))


def _count_open(con: duckdb.DuckDBPyConnection) -> None:
    """What was open beside them under one authorization."""
    con.execute(_ASKED_AUTHORIZATION)
    con.execute(_OPEN.format(beside=intervals.beside_authorization(con, "asked_authorization")))


def _count_serials(con: duckdb.DuckDBPyConnection) -> None:
    """How many others listed their serials."""
    con.execute(_ASKED_CODE)
    codes = intervals.shared(con, "asked_code")
    if len(codes):
        con.register("shared_code", pa.table({"code": codes}))
        con.execute(_ASKED_SERIAL)
        con.unregister("shared_code")
        con.execute(_SERIAL.format(beside=intervals.beside_serial(con, "asked_serial")))


def _chosen(part: Part, party: pa.StringArray) -> tuple[Part, pa.StringArray]:
    """Those that deadline and sweep rules judge: nearly always all, which need no copy."""
    chosen = part.chain_rules
    if pc.all(chosen).as_py():  # null for none
        return part, party
    in_effect = part.in_effect[chosen.to_numpy(zero_copy_only=False)]
    return replace(part, rows=part.rows.filter(chosen), in_effect=in_effect), party.filter(chosen)


def _seen(
    con: duckdb.DuckDBPyConnection, part: Part, party: pa.StringArray, references: References
) -> pa.Table:
    """Events as deadline and sweep rules see them: with the party each is judged with, and by stream what
    else the rules ask for."""
    columns = {name: part.rows[name] for name in (*_SEEN, *_SEEN_OF[part.record.name])}
    columns["party_id"] = party
    if part.record is ALLOCATION:
        t = times(part.column("t"))
        authorization = references.at(AUTHORIZATION, part.column("authorization_id"), t)
        (columns["max_accelerators"],) = references.columns(
            AUTHORIZATION, authorization, ["max_accelerators"]
        )
        return pa.table(columns)
    columns["allocated_at"] = part.moment_of_allocation("t")
    if part.record is PLACEMENT:
        columns["allocation_serials"] = part.of_allocation("serials").dictionary_decode()
        return pa.table(columns)
    return pa.table({**columns, "last_action": _last_action(con, part), **_both(part, party, references)})


def _last_action(con: duckdb.DuckDBPyConnection, part: Part) -> pa.DictionaryArray:
    """What was done to each event's allocation last: `allocated`, `released`, or null for nothing."""
    t = part.column("t")
    released = pc.less_equal(part.moment_of_allocation("released_at"), t).fill_null(False)
    action = np.array(released.cast(pa.int8()))
    nothing = part.in_effect < 0
    ask = np.flatnonzero(nothing & part.column("allocation_id").is_valid().to_numpy(zero_copy_only=False))
    if len(ask):  # there may be releases of what was never allocated
        rows = part.rows.select(["allocation_id", "t"]).take(pa.array(ask))
        con.register("asked_release", rows.append_column("number", pa.array(ask)))
        found = con.sql(_RELEASED_ONLY).fetchnumpy()["number"]
        con.unregister("asked_release")
        action[found], nothing[found] = 1, False
    return pa.DictionaryArray.from_arrays(pa.array(action, mask=nothing), ["allocated", "released"])


def _both(part: Part, party: pa.StringArray, references: References) -> dict[str, pa.Array]:
    """The party that each access names itself, the one of its allocation, and the brokers of both where they
    differ, which is nearly nowhere."""
    nobody = pc.and_(part.column("party_id_sent").is_null(), part.column("principal").is_null())
    own = pc.if_else(nobody, pa.scalar(None, pa.string()), party)
    through = of_allocation(part, party, references)
    differ = pc.not_equal(own, through).fill_null(False).to_numpy(zero_copy_only=False)
    ask = np.flatnonzero(differ)
    at, t = pa.array(ask), times(part.column("t"))[ask]
    columns = {}
    for name, ids in (("own", own), ("allocation", through)):
        (brokers,) = references.columns(PARTY, references.at(PARTY, ids.take(at), t), ["brokers"])
        columns[f"{name}_party_id"] = ids
        columns[f"{name}_brokers"] = brokers.take(pa.array(np.cumsum(differ) - 1, mask=~differ))
    return columns

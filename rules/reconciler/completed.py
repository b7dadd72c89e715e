"""Row rules judged again: with all versions known now, and on rows completed through their allocation.

An event that names neither party nor principal, or no authorization, is judged for it through the allocation
it names (contract 3.2). What fires on the event as sent keeps its subject; of the completed row only rules
that did not fire on the event as sent are added.
"""

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.join import join
from rules.judge import Judge
from rules.reconciler.chain import with_allocation
from rules.reconciler.scope import Size
from rules.reconciler.store import listed
from rules.references import References
from schemas.events import EVENTS
from schemas.record import TIME, Record

BATCH_ROWS = 100_000

_PLACES = ("topic", "partition", "offset", "source", "event_id", "t")
_NAMED = {"party_id": "party_id_sent", "occurred_at": "t"}


def judge_rows(
    con: duckdb.DuckDBPyConnection, references: References, judge: Judge, size: Size, stale: bool
) -> None:
    """Judges the scope's rows with `row_rules` or `completes`: fills `desired` and `judged_row`.

    What fired at landing, with nothing learned since, is not judged again: workers have said it.

    Args:
        con: the state.
        references: all versions known now.
        judge: the row rules.
        size: that of the scope.
        stale: whether some of the new events were judged without versions that are known now.
    """
    for record in EVENTS.values():
        again = stale or size.older[record.name] > 0
        wheres = ["s.row_rules"] if again else []
        wheres += ["s.completes AND NOT s.row_rules"] if size.new[record.name] else []
        for where in wheres:
            for rows in _batches(con, record, where):
                con.register("found", _judge(record, rows, references, judge))
                con.execute("INSERT INTO desired BY NAME SELECT * FROM found")
                con.unregister("found")
        if again:
            con.execute(
                'INSERT INTO judged_row SELECT topic, "partition", "offset" '
                f"FROM scope_{record.name} WHERE row_rules"
            )


def _batches(con: duckdb.DuckDBPyConnection, record: Record, where: str) -> Iterator[pa.RecordBatch]:
    columns = f"{listed(record, 's')}, s.verdicts, s.row_rules"
    rows = con.sql(with_allocation(record, columns, where)).to_arrow_table()
    for batch in rows.combine_chunks().to_batches(max_chunksize=BATCH_ROWS):
        if batch.num_rows:
            yield batch


def _judge(record: Record, rows: pa.RecordBatch, references: References, judge: Judge) -> pa.Table:
    """Rows of `desired` for one batch, which is judged as sent or not as a whole."""
    wanted = judge.columns_of(record) | judge.columns_of(record, "serials")
    sent, broker_time = as_sent(record, rows), rows["broker_time"].cast(TIME)
    lacks_party, lacks_authorization = lacking(record, rows)
    allocated = rows["allocated_at"].is_valid()
    take_party = pc.and_(lacks_party, allocated)
    take_authorization = pc.and_(lacks_authorization, allocated)
    # without its allocation an event that names nobody is of an unknown party, once that is decided
    completes = pc.or_(pc.or_(take_party, take_authorization), lacks_party)
    at = pa.array(np.flatnonzero(completes.to_numpy(zero_copy_only=False)))
    completed = _complete(sent, rows, take_party, take_authorization).take(at)
    again = join(record, completed, broker_time.take(at), references, wanted)
    through = judge.judge(record, again, completed=True).firings
    through = through.set_column(0, "row", at.take(through["row"]))

    found = _nothing()
    if rows["row_rules"][0].as_py():
        joined = join(record, sent, broker_time, references, wanted)
        judgement = judge.judge(record, joined)
        party = pc.replace_with_mask(joined.rows["party_id"], completes, again.rows["party_id"])
        due = pa.nulls(judgement.firings.num_rows, pa.timestamp("us"))
        found = _desired(rows, judgement.firings, party, due)
        verdicts = judgement.verdicts
    else:
        party = pc.replace_with_mask(pa.nulls(rows.num_rows, pa.string()), completes, again.rows["party_id"])
        verdicts = rows["verdicts"]
    through = _beyond(through, verdicts)
    undecided = pc.and_(lacks_party, pc.invert(allocated)).take(through["row"])
    due = pc.if_else(undecided, rows["t"].take(through["row"]), pa.scalar(None, pa.timestamp("us")))
    return pa.concat_tables([found, _desired(rows, through, party, due)])


def as_sent(record: Record, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Kept rows with the columns of the stream's record, as they were sent."""
    return pa.RecordBatch.from_arrays(
        [rows[_NAMED.get(field.name, field.name)].cast(field.type) for field in record.schema],
        schema=record.schema,
    )


def lacking(record: Record, rows: pa.RecordBatch) -> tuple[pa.BooleanArray, pa.BooleanArray]:
    """(names neither party nor principal, names no authorization) of events that name an allocation; an
    `allocated` event lacks nothing that another could tell."""
    asks = pc.and_(rows["allocation_id"].is_valid(), pc.not_equal(rows["action"], "allocated"))
    nobody = pc.and_(rows["party_id_sent"].is_null(), rows["principal"].is_null())
    return pc.and_(asks, nobody), pc.and_(asks, rows["authorization_id"].is_null())


def _complete(
    sent: pa.RecordBatch, rows: pa.RecordBatch, party: pa.BooleanArray, authorization: pa.BooleanArray
) -> pa.RecordBatch:
    taken = {
        "party_id": (party, "allocation_party_id_sent"),
        "principal": (party, "allocation_principal"),
        "authorization_id": (authorization, "allocation_authorization_id"),
    }
    return pa.RecordBatch.from_arrays(
        [
            pc.if_else(taken[name][0], rows[taken[name][1]], sent[name]) if name in taken else sent[name]
            for name in sent.schema.names
        ],
        schema=sent.schema,
    )


def _beyond(firings: pa.RecordBatch, verdicts: pa.ListArray) -> pa.RecordBatch:
    """The firings whose rule is not among the verdicts of their row as sent."""
    rows = pc.list_parent_indices(verdicts).to_numpy()
    if not firings.num_rows or not len(rows):
        return firings
    rules = pa.chunked_array([firings["rule_id"], verdicts.flatten()]).dictionary_encode()
    codes = [chunk.indices.to_numpy().astype(np.int64) for chunk in rules.unify_dictionaries().chunks]
    width = 1 + max(int(chunk.max()) for chunk in codes)
    added = firings["row"].to_numpy() * width + codes[0]
    return firings.filter(pa.array(~np.isin(added, rows * width + codes[1])))


def _desired(rows: pa.RecordBatch, firings: pa.RecordBatch, party: pa.Array, due: pa.Array) -> pa.Table:
    at = firings["row"]
    return pa.table(
        {
            "rule_id": firings["rule_id"],
            "subject": firings["subject"],
            **{name: rows[name].take(at) for name in _PLACES},
            "due": due,
            "party_id": party.take(at),
            "allocation_id": rows["allocation_id"].take(at),
            "confirmed": pa.repeat(False, len(at)),
        }
    )


def _nothing() -> pa.Table:
    text, moment = pa.string(), pa.timestamp("us")
    schema = pa.schema(
        [
            *[("rule_id", text), ("subject", text), ("topic", text), ("partition", pa.int32())],
            *[("offset", pa.int64()), ("source", text), ("event_id", text), ("t", moment)],
            *[("due", moment), ("party_id", text), ("allocation_id", text), ("confirmed", pa.bool_())],
        ]
    )
    return schema.empty_table()

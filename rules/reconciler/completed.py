"""Row rules judged again: with all versions known now, and on rows completed through their allocation.

An event that names neither party nor principal, or no authorization, is judged for it through the allocation
it names (contract 3.2). What fires on the event as sent keeps its subject; of the completed row only rules
that did not fire on the event as sent are added.
"""

from collections.abc import Collection, Iterator, Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.asof import Ints
from rules.join import join
from rules.judge import Judge, Judgement
from rules.reconciler.parties import Told, lacking, union
from rules.reconciler.parts import Part
from rules.references import References
from schemas.record import TIME, Record

BATCH_ROWS = 400_000

_PLACES = ("topic", "partition", "offset", "source", "event_id", "t")
_NAMED = {"party_id": "party_id_sent", "occurred_at": "t"}
_LOOKED_UP = ("party_id_sent", "principal", "authorization_id", "site_id", "serials", "model")
_TAKEN = (*_LOOKED_UP, "t", "allocation_id", "action", "source_country", "broker_time", "verdicts")
"""What is taken of an event beyond the fields that rules read, where its stream has it."""


def judge_rows(
    con: duckdb.DuckDBPyConnection,
    references: References,
    judge: Judge,
    parts: Sequence[Part],
    stale: Sequence[int],
) -> list[Told]:
    """Judges row rules for the scope where they may say other than what landed: fills `desired` and
    `judged_row`. Returns, part by part, the parties that it looked up.

    What fired at landing, with nothing learned since, is not judged again: workers have said it.

    Args:
        con: the state.
        references: all versions known now.
        judge: the row rules.
        parts: the scope.
        stale: the step's commits that were judged without versions that are known now.
    """
    return [union(list(_judge_part(con, references, judge, part, stale))) for part in parts]


def _judge_part(
    con: duckdb.DuckDBPyConnection, references: References, judge: Judge, part: Part, stale: Sequence[int]
) -> Iterator[Told]:
    again = _again(part, stale)
    fields = judge.fields_of(part.record)
    for at, rows in _batches(part, again, fields):
        con.register("judged_rows", part.rows.select(["topic", "partition", "offset"]).take(pa.array(at)))
        con.execute("INSERT INTO judged_row FROM judged_rows")
        con.unregister("judged_rows")
        found, party = _judge(part.record, rows, references, judge, None)
        _note(con, part, at, found)
        yield Told(at, party)
    if part.is_new:
        lacks_party, lacks_authorization = lacking(part)
        # without its allocation an event that names nobody is of an unknown party, once that is decided
        completes = pc.or_(lacks_party, pc.and_(lacks_authorization, pa.array(part.in_effect >= 0)))
        for at, rows in _batches(part, pc.and_(completes, pc.invert(again)), fields):
            found, party = _judge(part.record, rows, references, judge, rows["verdicts"])
            _note(con, part, at, found)
            yield Told(at, party)


def _again(part: Part, stale: Sequence[int]) -> pa.BooleanArray:
    """Which events are judged again as they were sent."""
    if not part.is_new:
        return part.column("row_rules")
    if not stale:
        return pa.repeat(False, part.rows.num_rows)
    return pc.is_in(part.column("commit"), pa.array(stale, pa.int32()))


def _batches(
    part: Part, mask: pa.BooleanArray, fields: Collection[str]
) -> Iterator[tuple[Ints, pa.RecordBatch]]:
    """(numbers, rows with the fields asked for and what their allocations name) of the mask."""
    at = np.flatnonzero(mask.to_numpy(zero_copy_only=False))
    names = {*_TAKEN, *(_NAMED.get(name, name) for name in fields)}
    taken = part.rows.select([name for name in part.rows.column_names if name in names])
    for start in range(0, len(at), BATCH_ROWS):
        chosen = at[start : start + BATCH_ROWS]
        rows = taken.take(pa.array(chosen))
        indices = pa.array(part.in_effect[chosen], mask=part.in_effect[chosen] < 0)
        for name in ("party_id_sent", "principal", "authorization_id", "t"):
            rows = rows.append_column(f"allocation_{name}", part.allocated[name].take(indices))
        (batch,) = rows.combine_chunks().to_batches()
        yield chosen, batch


def _note(con: duckdb.DuckDBPyConnection, part: Part, at: Ints, found: pa.Table) -> None:
    """Adds to `desired` what was found; its `row` is a position in `at`."""
    if found.num_rows:
        rows = part.rows.select(_PLACES).take(pa.array(at[found["row"].to_numpy()]))
        for name in rows.column_names:
            found = found.append_column(name, rows[name])
        con.register("found", found.drop_columns("row"))
        con.execute("INSERT INTO desired BY NAME SELECT * FROM found")
        con.unregister("found")


def _judge(
    record: Record,
    rows: pa.RecordBatch,
    references: References,
    judge: Judge,
    verdicts: pa.ListArray | None,
) -> tuple[pa.Table, pa.StringArray]:
    """(what fires, by its `row`, the parties judged with) of one batch; `verdicts` are those as sent, of rows
    that all lack something, or None to judge that too."""

    def judged(events: pa.RecordBatch, completed: bool) -> tuple[Judgement, pa.StringArray]:
        joined = join(record, events, events["broker_time"], references, wanted, levels)
        return judge.judge(record, joined, completed), joined.rows["party_id"]

    wanted = judge.columns_of(record) | judge.columns_of(record, "serials")
    levels = judge.levels_of(record)
    sent = _as_sent(record, rows)
    lacks_party, lacks_authorization = lacking(rows)
    allocated = rows["allocation_t"].is_valid()
    take_party, take_authorization = pc.and_(lacks_party, allocated), pc.and_(lacks_authorization, allocated)
    completed = _complete(sent, rows, take_party, take_authorization)
    if verdicts is not None:
        judgement, party = judged(completed, True)
        found, through = [], judgement.firings
    else:
        judgement, party = judged(sent, False)
        verdicts = judgement.verdicts
        completes = pc.or_(lacks_party, take_authorization)
        at = pa.array(np.flatnonzero(completes.to_numpy(zero_copy_only=False)))
        again, theirs = judged(completed.take(at), True)
        through = again.firings.set_column(0, "row", at.take(again.firings["row"]))
        party = pc.replace_with_mask(party, completes, theirs)
        found = [_desired(rows, judgement.firings, party, None)]
    through = _beyond(through, verdicts)
    undecided = pc.and_(lacks_party, pc.invert(allocated)).take(through["row"])
    due = pc.if_else(undecided, rows["t"].take(through["row"]), pa.scalar(None, pa.timestamp("us")))
    return pa.concat_tables([*found, _desired(rows, through, party, due)]), party


def _as_sent(record: Record, rows: pa.RecordBatch) -> pa.RecordBatch:
    """Kept rows with the columns of the stream's record, as they were sent (null where nothing reads them),
    and their broker times."""
    schema = record.schema.append(pa.field("broker_time", TIME))
    there = set(rows.schema.names)
    columns = [
        rows[name].cast(field.type) if name in there else pa.nulls(rows.num_rows, field.type)
        for field in schema
        for name in [_NAMED.get(field.name, field.name)]
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([f.with_nullable(True) for f in schema]))


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


def _desired(
    rows: pa.RecordBatch, firings: pa.RecordBatch, party: pa.StringArray, due: pa.Array | None
) -> pa.Table:
    """Columns of `desired`, and the `row` of each; `due`: when each is, None for at once."""
    at = firings["row"]
    return pa.table(
        {
            "row": at,
            "rule_id": firings["rule_id"],
            "subject": firings["subject"],
            "due": pa.nulls(len(at), pa.timestamp("us")) if due is None else due,
            "party_id": party.take(at),
            "allocation_id": rows["allocation_id"].take(at),
            "confirmed": pa.repeat(False, len(at)),
        }
    )

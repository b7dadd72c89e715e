"""The party that each event of the scope is judged with (contract 3.2), and the party of its allocation.

A worker has said at landing whom an event's party or principal leads to. Where it knew the versions that are
known now that still holds; and where an event names whom its allocation names, both have one party. What is
left is looked up: nearly nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.asof import Ints
from rules.join import parties
from rules.reconciler.parts import Part
from rules.references import References
from rules.versions import Mask, times
from schemas.reference import PARTY


@dataclass(frozen=True)
class Told:
    """Parties that were looked up: of a part's rows `at`, ascending, the ids they are judged with."""

    at: Ints
    party_id: pa.StringArray


def union(told: Sequence[Told]) -> Told:
    """All of them as one; no two are of one row."""
    if len(told) == 1:
        return told[0]
    at = np.concatenate([np.zeros(0, np.int64), *(one.at for one in told)])
    ids = pa.concat_arrays([pa.array([], pa.string()), *(one.party_id for one in told)])
    order = np.argsort(at)
    return Told(at[order], ids.take(pa.array(order)))


def lacking(rows: pa.RecordBatch | Part) -> tuple[pa.BooleanArray, pa.BooleanArray]:
    """(names neither party nor principal, names no authorization) of events that name an allocation; an
    `allocated` event lacks nothing that another could tell."""
    read = rows.column if isinstance(rows, Part) else rows.__getitem__
    asks = pc.and_(read("allocation_id").is_valid(), pc.not_equal(read("action"), "allocated"))
    nobody = pc.and_(read("party_id_sent").is_null(), read("principal").is_null())
    return pc.and_(asks, nobody), pc.and_(asks, read("authorization_id").is_null())


def judged_with(part: Part, told: Told, current: Sequence[int], references: References) -> pa.StringArray:
    """The id of the party that each event is judged with, null for none.

    Args:
        part: the events.
        told: what judging row rules again has found; it goes before all else.
        current: the step's commits whose workers knew all versions that are known now, and no others.
        references: what is known now.
    """
    if part.is_new:
        party = part.column("party_id")
        known = _mask(pc.is_in(part.column("commit"), pa.array(current, pa.int32())))
    else:
        party = pa.nulls(part.rows.num_rows, pa.string())
        known = np.zeros(part.rows.num_rows, bool)
    if len(told.at):
        party = _put(party, told)
        known[told.at] = True
    ask = np.flatnonzero(~known)
    return _put(party, _looked_up(part, ask, references)) if len(ask) else party


def of_allocation(part: Part, party: pa.StringArray, references: References) -> pa.StringArray:
    """The id of the party that the allocation of each event leads to at the event's time, null for none.

    `party` is what `judged_with` gives. The events are not `allocated` ones.
    """
    sent, principal = part.column("party_id_sent"), part.column("principal")
    their_sent, their_principal = (
        part.of_allocation(name).dictionary_decode() for name in ("party_id_sent", "principal")
    )
    same_sent = pc.equal(sent, their_sent).fill_null(False)
    none_sent = pc.and_(sent.is_null(), their_sent.is_null())
    same_principal = pc.equal(principal, their_principal).fill_null(False)
    nobody = pc.and_(sent.is_null(), principal.is_null())
    same = _mask(pc.or_(nobody, pc.or_(same_sent, pc.and_(none_sent, same_principal))))
    allocated = part.in_effect >= 0
    through = pc.if_else(pa.array(allocated & same), party, pa.scalar(None, pa.string()))
    ask = np.flatnonzero(allocated & ~same)
    if not len(ask):
        return through
    at = pa.array(ask)
    return _put(through, _resolved(part, ask, their_sent.take(at), their_principal.take(at), references))


def _looked_up(part: Part, ask: Ints, references: References) -> Told:
    """The parties of the events `ask`, those that name nobody through their allocations."""
    at = pa.array(ask)
    lacks = lacking(part)[0].take(at)
    sent, principal = (
        pc.if_else(lacks, part.of_allocation(name).take(at).dictionary_decode(), part.column(name).take(at))
        for name in ("party_id_sent", "principal")
    )
    return _resolved(part, ask, sent, principal, references)


def _resolved(
    part: Part, ask: Ints, sent: pa.StringArray, principal: pa.StringArray, references: References
) -> Told:
    """The ids that these parties and principals lead to at the times of the events `ask`."""
    who = pa.RecordBatch.from_pydict({"party_id": sent, "principal": principal})
    rows, _ = parties(who, times(part.column("t"))[ask], references)
    return Told(ask, references.ids(PARTY, rows))


def _put(ids: pa.StringArray, told: Told) -> pa.StringArray:
    """The ids with those told in their places."""
    replaced = np.zeros(len(ids), bool)
    replaced[told.at] = True
    return pc.replace_with_mask(ids, pa.array(replaced), told.party_id)


def _mask(flags: pa.BooleanArray) -> Mask:
    mask: Mask = flags.to_numpy(zero_copy_only=False)
    return mask

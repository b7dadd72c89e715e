"""Judges the links of coverage pieces by the versions in force at their starts (contract section 4)."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.asof import Ints
from rules.reconciler.pieces import Mask, Pieces, Running
from rules.references import References
from schemas.models import controlled, model_keys
from schemas.reference import AUTHORIZATION, PARTY, SITE

COLUMNS = frozenset({"P.status", "A.party_ids", "A.skus", "A.site_ids"})
"""What `References` must hold for this."""


@dataclass(frozen=True)
class Links:
    """One value per piece: the resolved party (its row in `References`, -1 for none), the site of the latest
    placement in effect at a known one (its number, -1 for none), and the links that need versions."""

    party: Ints
    site: Ints
    who: Mask
    where: Mask
    under_what: Mask


def judge(
    pieces: Pieces,
    running: Running,
    allocations: pa.RecordBatch,
    sites: pa.StringArray,
    references: References,
) -> Links:
    """The links of the pieces.

    Args:
        pieces: what to judge.
        running: where their workloads are; its sites number `sites`.
        allocations: the rows that `pieces.chain` numbers: `party_id_sent`, `principal`, `authorization_id`
            and `model`, each as a dictionary array.
        sites: the ids of the sites.
        references: what is known now.
    """
    party, who = _who(pieces, allocations, references)
    site, where = _where(pieces, running, sites, references)
    covered = _covered(pieces, running, allocations, party, sites, references)
    harmless = ~_mask(controlled(allocations["model"]))
    return Links(party, site, who, where, covered | harmless[pieces.chain])


def until(
    pieces: Pieces,
    running: Running,
    allocations: pa.RecordBatch,
    sites: pa.StringArray,
    references: References,
) -> Ints:
    """The time (µs) before which a piece of the same allocation and the same placements has the same links
    that need versions; for the arguments see `judge`."""
    principal = _of(allocations, "principal", pieces)
    sent = _of(allocations, "party_id_sent", pieces)
    found = np.where(
        _mask(sent.is_valid()),
        references.until(PARTY, sent, pieces.start),
        references.resolved_until(principal, pieces.start),
    )
    named = _of(allocations, "authorization_id", pieces)
    found = np.minimum(found, references.until(AUTHORIZATION, named, pieces.start))
    ids = _numbered(running.site, sites)
    np.minimum.at(found, running.piece, references.until(SITE, ids, pieces.start[running.piece]))
    return found


def _who(pieces: Pieces, allocations: pa.RecordBatch, references: References) -> tuple[Ints, Mask]:
    """(the party that each piece's allocation resolves to, whether it is verified) at the piece's start."""
    sent = _of(allocations, "party_id_sent", pieces)
    principal = _of(allocations, "principal", pieces)
    rows = np.full(len(pieces.start), -1, np.int64)
    ask = np.flatnonzero(_mask(sent.is_valid()))
    if len(ask):
        rows[ask] = references.at(PARTY, sent.take(pa.array(ask)), pieces.start[ask])
    ask = np.flatnonzero(_mask(sent.is_null()) & _mask(principal.is_valid()))
    if len(ask):
        rows[ask] = references.resolve(principal.take(pa.array(ask)), pieces.start[ask])[0]
    distinct, inverse = _distinct(rows)
    (status,) = references.columns(PARTY, distinct, ["status"])
    return rows, _mask(pc.equal(status, "verified").fill_null(False))[inverse]


def _where(
    pieces: Pieces, running: Running, sites: pa.StringArray, references: References
) -> tuple[Ints, Mask]:
    """(the site of the latest placement in effect at a site in force, whether there is one)."""
    ids = _numbered(running.site, sites)
    known = np.flatnonzero(references.at(SITE, ids, pieces.start[running.piece]) >= 0)
    piece, placement = running.piece[known], running.placement[known]
    latest = np.full(len(pieces.start), -1, np.int64)
    np.maximum.at(latest, piece, placement)
    site = np.full(len(latest), -1, np.int64)
    greatest = placement == latest[piece]
    site[piece[greatest]] = running.site[known][greatest]
    return site, site >= 0


def _covered(
    pieces: Pieces,
    running: Running,
    allocations: pa.RecordBatch,
    party: Ints,
    sites: pa.StringArray,
    references: References,
) -> Mask:
    """Whether the authorization in force covers the party, the model and every site in effect."""
    named = _of(allocations, "authorization_id", pieces)
    rows = references.at(AUTHORIZATION, named, pieces.start)
    distinct, which = _distinct(rows)
    parties, models, places = references.columns(AUTHORIZATION, distinct, ["party_ids", "skus", "site_ids"])
    keys = model_keys(allocations["model"]).dictionary_encode()
    covered = rows >= 0
    covered &= _holds(parties, which, references.ids(PARTY, party).dictionary_encode())
    covered &= _holds(models, which, keys.take(pa.array(pieces.chain)))
    held = _holds(places, which[running.piece], _numbered(running.site, sites))
    covered[running.piece[~held]] = False
    return covered


def _holds(lists: pa.ListArray, which: Ints, values: pa.DictionaryArray) -> Mask:
    """Whether list number `which` is null (no limit) or holds the value; a null value is held by none."""
    holds = _mask(lists.is_null())[which]
    ask = np.flatnonzero(~holds & _mask(values.is_valid()))
    if len(ask) == 0:
        return holds
    asked = values.take(pa.array(ask))
    codes = asked.indices.to_numpy()
    owners = np.repeat(np.arange(len(lists)), pc.list_value_length(lists).fill_null(0).to_numpy())
    items = pc.index_in(lists.flatten(), value_set=asked.dictionary)
    size = len(asked.dictionary)
    there = owners * size + items.fill_null(-1).to_numpy()
    there = there[_mask(items.is_valid())]
    holds[ask] = np.isin(which[ask] * size + codes, there)
    return holds


def _distinct(rows: Ints) -> tuple[Ints, Ints]:
    """(the distinct rows, the position of each row among them); rows are small numbers from -1 on."""
    occurs = np.zeros(int(rows.max(initial=-1)) + 2, bool)
    occurs[rows + 1] = True
    position = np.cumsum(occurs) - 1
    return np.flatnonzero(occurs) - 1, position[rows + 1]


def _of(allocations: pa.RecordBatch, name: str, pieces: Pieces) -> pa.DictionaryArray:
    return allocations[name].take(pa.array(pieces.chain))


def _numbered(codes: Ints, values: pa.StringArray) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), values)


def _mask(flags: pa.BooleanArray) -> Mask:
    mask: Mask = flags.to_numpy(zero_copy_only=False)
    return mask

"""Resolves each event's party and joins the versions in force at its time (contract section 3).

Every event's party, authorization, site and serials are looked up at the event's own time, never by arrival.
Nothing is fetched that no rule reads, and of a version that many events share one copy.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.asof import Ints
from rules.growing import ranges
from rules.references import PREFIXES, References
from rules.versions import times
from rules.vocabulary import EACH
from schemas.countries import countries
from schemas.models import controlled, model_keys, unknown
from schemas.record import Record
from schemas.reference import ASSET, AUTHORIZATION, PARTY, SITE

FUTURE_US = 5 * 60 * 1_000_000
"""An event more than this ahead of its broker time is marked `future` (contract 3.6)."""

_NAIVE = pa.timestamp("us")


@dataclass(frozen=True)
class Joined:
    """A batch of one stream's events with what rules judge them by. All times are naive UTC.

    `rows`: one per event, in order. Every field as sent, except that `party_id` is the resolved party, null
    unless exactly one resolves; `party_id_sent`, `party_version`, `authorization_version`, `site_version`,
    `sku_unknown` (null unless the stream has models), `future`, `broker_time`; `t` (the event time),
    `stream`, `parties` (how many candidate parties are in force), `sku` and `controlled` (null unless the
    stream has models), `country` (the normalised `source_country`), and the columns of the versions in
    force, named like `P.status`, texts and lists dictionary-encoded, null where none is.

    `serials`: one per distinct serial of an event: `row` (position in `rows`), `serial`, and columns like
    `X.sku`.

    `conditions`: one per condition of an event's authorization: `row`, `condition_id`, `due_at`, `met_at`.
    """

    rows: pa.RecordBatch
    serials: pa.RecordBatch
    conditions: pa.RecordBatch


def join(
    record: Record,
    events: pa.RecordBatch,
    broker_time: pa.Array,
    references: References,
    columns: Collection[str] | None = None,
    levels: Collection[str] = EACH,
) -> Joined:
    """Join a batch of decoded events of one stream.

    Args:
        record: the stream.
        events: its decoded columns (`record.schema`).
        broker_time: per event, TIME; an event without one is not `future`.
        references: what is known now.
        columns: the reference columns to gather, like `P.status`; None for all that are held.
        levels: of `serials` and `conditions` those to go through; others are left empty.
    """
    t = times(events["occurred_at"])
    party, candidates = parties(events, t, references)
    authorization = references.at(AUTHORIZATION, events["authorization_id"], t)
    site = references.at(SITE, events["site_id"], t)
    rows = {
        **{name: _naive(events[name]) for name in record.by_name},
        "party_id": _party_ids(events["party_id"], party, references),
        "party_id_sent": events["party_id"],
        "party_version": references.numbers(PARTY, party),
        "authorization_version": references.numbers(AUTHORIZATION, authorization),
        "site_version": references.numbers(SITE, site),
        "future": _future(t, broker_time),
        "broker_time": _naive(broker_time),
        "t": _naive(events["occurred_at"]),
        "stream": pa.repeat(record.name, events.num_rows),
        "parties": pa.array(candidates),
        **_models(record, events),
        "country": _country(record, events),
        **_gather("P", party, references, columns),
        **_gather("A", authorization, references, columns),
        **_gather("S", site, references, columns),
    }
    return Joined(
        pa.RecordBatch.from_pydict(rows),
        _serials(record, events if "serials" in levels else events[:0], t, references, columns),
        _conditions(authorization if "conditions" in levels else authorization[:0], references),
    )


def parties(events: pa.RecordBatch, t: Ints, references: References) -> tuple[Ints, Ints]:
    """(row of each event's party or -1, number of candidates in force): by `party_id`, else by principal."""
    sent, principal = events["party_id"], events["principal"]
    party = references.at(PARTY, sent, t)
    parties = (party >= 0).astype(np.int64)
    ask = np.flatnonzero(pc.and_(sent.is_null(), principal.is_valid()).to_numpy(zero_copy_only=False))
    if len(ask):
        party[ask], parties[ask] = references.resolve(principal.take(pa.array(ask)), t[ask])
    return party, parties


def _party_ids(sent: pa.Array, party: Ints, references: References) -> pa.Array:
    """The ids of the resolved parties: what was sent where it resolved, else the party of the principal."""
    resolved = pc.if_else(pa.array(party >= 0), sent, pa.scalar(None, pa.string()))
    if resolved.null_count == int((party < 0).sum()):
        return resolved
    return pc.coalesce(resolved, references.ids(PARTY, party))


def _future(t: Ints, broker_time: pa.Array) -> pa.Array:
    future = t - FUTURE_US > times(broker_time)
    return pa.array(future & broker_time.is_valid().to_numpy(zero_copy_only=False))


def _models(record: Record, events: pa.RecordBatch) -> dict[str, pa.Array]:
    if "model" not in record.by_name:
        nothing = pa.nulls(events.num_rows, pa.bool_())
        return {"sku": nothing.cast(pa.string()), "controlled": nothing, "sku_unknown": nothing}
    models = events["model"].dictionary_encode()
    return {"sku": model_keys(models), "controlled": controlled(models), "sku_unknown": unknown(models)}


def _country(record: Record, events: pa.RecordBatch) -> pa.Array:
    if "source_country" not in record.by_name:
        return pa.nulls(events.num_rows, pa.string())
    return countries(events["source_country"])


def _gather(
    prefix: str, rows: Ints, references: References, columns: Collection[str] | None
) -> dict[str, pa.Array]:
    """The wanted columns of the versions in these rows, named with the prefix.

    Texts and lists are dictionary-encoded, so that an authorization with a thousand parties that covers ten
    thousand events is copied once, and DuckDB looks into one copy.
    """
    record = PREFIXES[prefix]
    names = [name for name in references.names(record) if columns is None or f"{prefix}.{name}" in columns]
    taken = references.columns(record, rows, names, encode=True) if names else []
    return {f"{prefix}.{name}": column for name, column in zip(names, taken, strict=True)}


def _serials(
    record: Record, events: pa.RecordBatch, t: Ints, references: References, columns: Collection[str] | None
) -> pa.RecordBatch:
    """One row per distinct (event, serial), with the asset's columns."""
    if "serials" in record.by_name:
        lists = events["serials"]
    else:
        lists = pa.nulls(events.num_rows, pa.list_(pa.string()))
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
    row = np.repeat(np.arange(len(lists)), lengths)
    serials = lists.flatten().dictionary_encode()
    kept = _distinct(row * max(len(serials.dictionary), 1) + serials.indices.to_numpy())
    if len(kept) < len(row):
        row, serials = row[kept], serials.take(pa.array(kept))
    assets = references.at(ASSET, serials, t[row])
    return pa.RecordBatch.from_pydict(
        {
            "row": pa.array(row),
            "serial": serials.dictionary_decode(),
            **_gather("X", assets, references, columns),
        }
    )


def _distinct(codes: Ints) -> Ints:
    """The positions of the first of each code, ascending."""
    ordered = np.sort(codes)
    if not (ordered[1:] == ordered[:-1]).any():
        return np.arange(len(codes))
    first: Ints = np.sort(np.unique(codes, return_index=True)[1])
    return first


def _conditions(authorization: Ints, references: References) -> pa.RecordBatch:
    """One row per condition of the authorization in force of each event."""
    row = np.flatnonzero(authorization >= 0)
    distinct, inverse = np.unique(authorization[row], return_inverse=True)
    (lists,) = references.columns(AUTHORIZATION, distinct, ["conditions"])
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy().astype(np.int64)
    firsts = np.cumsum(lengths) - lengths
    items = lists.flatten().take(pa.array(ranges(firsts[inverse], lengths[inverse])))
    names = ("condition_id", "due_at", "met_at")
    columns = dict(zip((field.name for field in items.type), items.flatten(), strict=True))
    return pa.RecordBatch.from_pydict(
        {
            "row": pa.array(np.repeat(row, lengths[inverse])),
            **{name: columns[name] for name in names},
        }
    )


def _naive(column: pa.Array) -> pa.Array:
    return column.cast(_NAIVE) if pa.types.is_timestamp(column.type) else column

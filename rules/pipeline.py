"""The middle of the pipeline as a few calls: what a batch as read becomes, before it lands.

Pure: no clock, no I/O, no state but the references and the judge that are handed in. Workers, `scan`,
`replay`, rule tests and benchmarks all call these.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.digest import digests
from rules.join import join
from rules.judge import Judge
from rules.references import References
from rules.rule import Rule
from schemas.columns import Decoded, decode
from schemas.record import TIME, Record
from schemas.rows import Rejected, Tombstone, tombstone_line
from schemas.tables import COORDINATES, FINDING_EVENT, RAW, typed
from schemas.ticks import TICK


def _before_landing(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name != "ingested_at"])


_RAW = _before_landing(RAW)
_FINDINGS = _before_landing(FINDING_EVENT)
_NO_FINDINGS = pa.RecordBatch.from_pylist([], _FINDINGS)


@dataclass(frozen=True)
class Landing:
    """What a batch of one topic becomes, each without `ingested_at`.

    `raw` has every record read, in order; `typed` the accepted ones (`schemas.tables.typed`; of ticks, which
    have no table, none); `findings` one row per event, rule and subject that fired. `duplicates` counts
    reference versions that equal one already there: accepted in `raw`, left out of `typed`.
    """

    raw: pa.RecordBatch
    typed: pa.RecordBatch
    findings: pa.RecordBatch
    record: Record
    duplicates: int = 0


@dataclass(frozen=True)
class Events:
    """Events of one stream: FETCHED rows of its topic, and what they say."""

    record: Record
    fetched: pa.RecordBatch
    decoded: Decoded


def decode_events(record: Record, fetched: pa.RecordBatch) -> Events:
    """Decode FETCHED rows of a stream's topic; as nothing else decides it, it may run ahead of judging."""
    return Events(record, fetched, decode(record, fetched["value"]))


def judge_events(events: Events, references: References, judge: Judge, until: int | None = None) -> Landing:
    """Join and judge events of one stream.

    Args:
        events: as decoded. Where `broker_time` is null (files have none) the event's own time stands in for
            it, or `until` if that is less.
        references: what is known now.
        judge: the row rules.
        until: the last tick of a scan, µs since the epoch (UTC).

    Raises:
        SekishoError: a rule cannot be computed on these values.
    """
    record, fetched, decoded = events.record, events.fetched, events.decoded
    accepted = _places(fetched, decoded.rows)
    fields = decoded.table
    broker_time = _broker_time(accepted["broker_time"], fields["occurred_at"], until)
    wanted = judge.columns_of(record) | judge.columns_of(record, "serials")
    joined = join(record, fields, broker_time, references, wanted, judge.levels_of(record))
    judgement = judge.judge(record, joined)
    landed = {
        **{name: fields[name] for name in record.by_name},
        **{name: accepted[name] for name in COORDINATES.names},
        **{
            name: joined.rows[name]
            for name in (
                "party_id",
                "party_id_sent",
                "party_version",
                "authorization_version",
                "site_version",
                "sku_unknown",
                "future",
            )
        },
        "verdicts": judgement.verdicts,
        "broker_time": broker_time,
    }
    table = _batch(landed, _before_landing(typed(record)))
    return Landing(_raw(fetched, decoded.reasons), table, _findings(table, judgement.firings, judge), record)


def admit_references(
    record: Record, fetched: pa.RecordBatch, references: References, keyed: bool = True
) -> Landing:
    """Decode reference records and say which versions are new; `references.add` takes the result's `typed`.

    Args:
        record: the reference record.
        fetched: FETCHED rows of its topic; a null value is a tombstone of its key.
        references: what is known now; unchanged.
        keyed: false for files, whose lines have no keys and may be tombstone lines (contract section 6); a
            tombstone's own time stands in for its broker time.
    """
    tombstones = fetched["value"].is_null().to_numpy(zero_copy_only=False)
    assert keyed or not tombstones.any(), "a file has no null values"
    present = np.flatnonzero(~tombstones)
    values = fetched["value"]
    decoded = decode(record, values.take(pa.array(present)) if tombstones.any() else values)
    reasons = np.full(fetched.num_rows, None, object)
    reasons[present] = decoded.reasons.to_numpy(zero_copy_only=False)
    rows = present[decoded.rows]
    table = _stamped(record, decoded.table, _places(fetched, rows))
    if keyed:
        wrong = _wrong_keys(record, table, fetched["key"].take(pa.array(rows)))
        reasons[rows[wrong]] = "key"
        rows, table = rows[~wrong], table.filter(pa.array(~wrong))
        ended = {int(row): _tombstone(record, fetched, int(row)) for row in np.flatnonzero(tombstones)}
    else:
        rejected = np.flatnonzero(decoded.reasons.is_valid().to_numpy(zero_copy_only=False)).tolist()
        lines = {row: tombstone_line(record, fetched["value"][row].as_py()) for row in rejected}
        ended = {row: line for row, line in lines.items() if line is not None}
    for row, line in ended.items():
        reasons[row] = line.reason if isinstance(line, Rejected) else None
    dead = {row: line for row, line in ended.items() if isinstance(line, Tombstone)}
    if dead:
        rows = np.concatenate((rows, np.fromiter(dead, np.int64)))
        order = np.argsort(rows)
        rows = rows[order]
        table = pa.concat_batches([table, _dead(record, fetched, dead)]).take(pa.array(order))
    admission = references.admit(record, table)
    reasons[rows[admission.conflict]] = "version_conflict"
    fresh = table.filter(pa.array(admission.fresh))
    raw = _raw(fetched, pa.array(reasons, pa.string()))
    return Landing(raw, fresh, _NO_FINDINGS, record, int(admission.duplicate.sum()))


def admit_ticks(fetched: pa.RecordBatch) -> Landing:
    """Decode ticks: they land in `raw` alone, accepted or rejected."""
    reasons = decode(TICK, fetched["value"]).reasons
    typed_rows = pa.RecordBatch.from_pylist([], TICK.schema)
    return Landing(_raw(fetched, reasons), typed_rows, _NO_FINDINGS, TICK)


def finding_id(rule_id: str, subject: str) -> str:
    """The id of the finding of a rule about a subject (contract section 5)."""
    return _digest(f"{rule_id}\n{subject}".encode())


def _digest(named: bytes) -> str:
    return hashlib.sha256(named).hexdigest()[:32]


def _batch(columns: dict[str, pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    """The columns in the schema's order; one that is not given is null."""
    rows = len(next(iter(columns.values())))
    return pa.RecordBatch.from_arrays(
        [columns[field.name] if field.name in columns else pa.nulls(rows, field.type) for field in schema],
        schema=schema,
    )


def _places(fetched: pa.RecordBatch, rows: np.ndarray) -> pa.RecordBatch:
    """Coordinates and broker times of these rows."""
    places = fetched.select([*COORDINATES.names, "broker_time"])
    return places if len(rows) == places.num_rows else places.take(pa.array(rows))


def _raw(fetched: pa.RecordBatch, reasons: pa.Array) -> pa.RecordBatch:
    disposition = pc.if_else(reasons.is_null(), "accepted", "rejected")
    return pa.RecordBatch.from_arrays([*fetched.columns, disposition, reasons], schema=_RAW)


def _broker_time(broker_time: pa.Array, occurred_at: pa.Array, until: int | None) -> pa.Array:
    if broker_time.null_count == 0:
        return broker_time
    if until is not None:
        tick = pa.scalar(until, TIME)
        occurred_at = pc.if_else(pc.less(occurred_at, tick), occurred_at, tick)
    return pc.coalesce(broker_time, occurred_at)


def _findings(events: pa.RecordBatch, firings: pa.RecordBatch, judge: Judge) -> pa.RecordBatch:
    """A row per event, rule and subject that fired, for `finding_event`."""
    if not firings.num_rows:
        return _NO_FINDINGS
    at, subject = firings["row"], firings["subject"]
    # what depends on the rule alone, or on rule and subject, is made once for each
    of = firings["rule_id"].dictionary_encode()
    rules = [judge.rules[rule_id] for rule_id in of.dictionary.to_pylist()]
    named = pc.binary_join_element_wise(firings["rule_id"], subject, "\n").dictionary_encode()
    ids = [_digest(text) for text in named.dictionary.cast(pa.binary()).to_pylist()]
    names = ("party_id", "allocation_id", "source", "event_id", *COORDINATES.names, "occurred_at")
    taken = events.select(names).take(at)
    return _batch(
        {
            "finding_id": pa.array(ids, pa.string()).take(named.indices),
            "rule_id": firings["rule_id"],
            "rule_sha256": pa.array([rule.sha256 for rule in rules]).take(of.indices),
            "severity": pa.array([str(rule.severity) for rule in rules]).take(of.indices),
            "subject": subject,
            "message": _messages(rules, of.indices, subject),
            **dict(zip(names, taken.columns, strict=True)),
            "state": pa.repeat("provisional", len(at)),
        },
        _FINDINGS,
    )


def _messages(rules: Sequence[Rule], of: pa.Int32Array, subject: pa.StringArray) -> pa.StringArray:
    """The message of each firing: `Rule.render` of the rule at position `of`."""
    columns: list[pa.StringArray] = []
    for texts in zip_longest(*(rule.around_subject for rule in rules)):
        text = pa.array(texts, pa.string()).take(of)
        columns += [pc.if_else(text.is_valid(), subject, None), text] if columns else [text]
    return pc.binary_join_element_wise(*columns, "", null_handling="skip")


def _stamped(record: Record, table: pa.RecordBatch, fetched: pa.RecordBatch) -> pa.RecordBatch:
    """Decoded versions with their digests, coordinates and broker times."""
    columns = {name: table[name] for name in record.by_name}
    columns |= {name: fetched[name] for name in (*COORDINATES.names, "broker_time")}
    return _batch({**columns, "sha256": digests(record, table)}, _before_landing(typed(record)))


def _wrong_keys(record: Record, versions: pa.RecordBatch, keys: pa.Array) -> np.ndarray:
    """Which versions' message keys are not their ids (`list|entry_id` for screening)."""
    ids = [versions[name] for name in record.key]
    expected = ids[0] if len(ids) == 1 else pc.binary_join_element_wise(*ids, "|")
    wrong: np.ndarray = ~pc.equal(keys, expected.cast(pa.binary())).fill_null(False).to_numpy(
        zero_copy_only=False
    )
    return wrong


def _tombstone(record: Record, fetched: pa.RecordBatch, row: int) -> Tombstone | Rejected:
    """A null value's tombstone: its key names what it ends, its broker time when."""
    key = fetched["key"][row].as_py()
    try:
        text = (key or b"").decode()
    except UnicodeDecodeError:
        return Rejected("key")
    ids = tuple(text.split("|", len(record.key) - 1))
    if len(ids) != len(record.key) or "" in ids:
        return Rejected("key")
    at = fetched["broker_time"][row].value
    assert at is not None, "a record from Kafka has a broker time"
    return Tombstone(ids, at)


def _dead(record: Record, fetched: pa.RecordBatch, tombstones: dict[int, Tombstone]) -> pa.RecordBatch:
    """The rows of tombstones: their ids, and the time at which they end what came before."""
    ids = zip(*(tombstone.ids for tombstone in tombstones.values()), strict=True)
    at = pa.array([tombstone.at for tombstone in tombstones.values()], TIME)
    named = {name: pa.array(values, pa.string()) for name, values in zip(record.key, ids, strict=True)}
    table = _batch({**named, "tombstone_at": at}, _before_landing(typed(record)))
    rows = _places(fetched, np.fromiter(tombstones, np.int64))
    columns = {name: rows[name] for name in COORDINATES.names}
    columns["broker_time"] = pc.coalesce(rows["broker_time"], at)
    stamped = {**{name: table[name] for name in (*record.by_name, "tombstone_at")}, **columns}
    return _batch({**stamped, "sha256": digests(record, table)}, table.schema)

"""All reference records a worker knows, and the answers that joins ask of them.

Versions arrive in any order: loaded from the lake, read from the topics, late or retroactive. The same set of
them gives the same answers, and each addition is visible to the next batch that is joined.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from rules.asof import Ints
from rules.bindings import Bindings
from rules.rowstore import RowStore
from rules.versions import Admission, Versions, times
from schemas.countries import countries, country_lists
from schemas.models import model_key_lists, model_keys
from schemas.record import Record
from schemas.reference import ASSET, AUTHORIZATION, PARTY, PRINCIPAL, REFERENCES, SITE

KEPT: dict[str, tuple[str, ...]] = {
    "party": (
        "status",
        "role",
        "country",
        "hq_country",
        "parent_hq_country",
        "incorporated_on",
        "brokers",
        "verified_at",
        "review_due_at",
        "screened_at",
        "screening_list",
        "screening_disposition",
        "end_use",
        "model_training",
    ),
    "authorization": (
        "kind",
        "party_ids",
        "models",
        "site_ids",
        "methods",
        "remote_countries",
        "max_accelerators",
        "max_tpp",
        "conditions",
    ),
    "site": ("country", "region", "operator_party_id", "it_power_kw"),
    "asset": ("model", "site_id", "status"),
}
"""The columns held in memory for rules, by record; what else a record says is in the lake."""

_COUNTRIES = {"country", "hq_country", "parent_hq_country", "remote_countries"}


def kept(record: Record, versions: pa.RecordBatch) -> pa.RecordBatch:
    """The columns that rules may ask for, as they compare.

    Countries are normalised, times are naive UTC, and a model key stands beside every model (`sku`, `skus`).
    """
    columns = {}
    for name in KEPT[record.name]:
        column = versions[name]
        if name in _COUNTRIES:
            column = country_lists(column) if pa.types.is_list(column.type) else countries(column)
        elif pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us"))
        columns[name] = column
        if name == "models":
            columns["skus"] = model_key_lists(column)
        elif name == "model":
            columns["sku"] = model_keys(column)
    return pa.RecordBatch.from_pydict({name: _naive(column) for name, column in columns.items()})


def _naive(column: pa.Array) -> pa.Array:
    """The column with the times inside its structs made naive UTC."""
    if not (pa.types.is_list(column.type) and pa.types.is_struct(column.type.value_type)):
        return column
    fields = [
        pa.field(field.name, pa.timestamp("us") if pa.types.is_timestamp(field.type) else field.type)
        for field in column.type.value_type
    ]
    return column.cast(pa.list_(pa.struct(fields)))


class References:
    """The index over all reference records.

    `known` says how far each reference partition has been read: (topic, partition) → next offset.
    """

    def __init__(self) -> None:
        self.known: dict[tuple[str, int], int] = {}
        self._versions = {record.name: Versions(record) for record in REFERENCES.values()}
        self._stores = {name: RowStore(_kept_schema(name)) for name in KEPT}
        self._newest: dict[str, int] = {}
        self._bindings = Bindings(self._versions[PRINCIPAL.name], self._versions[PARTY.name].keys)

    def admit(self, record: Record, versions: pa.RecordBatch) -> Admission:
        """Which of these versions are new, duplicates of one held (or earlier in the batch), or conflicts.

        `versions` has the columns of `typed(record)` except `ingested_at`, with coordinates and `sha256` set;
        a row with `version` null is a tombstone and always fresh. What is held at the same coordinates is
        fresh again, so that a record read twice gets one answer. Nothing is remembered.
        """
        return self._versions[record.name].admit(versions)

    def add(self, record: Record, versions: pa.RecordBatch) -> None:
        """Add fresh versions and tombstones (columns as for `admit`); coordinates held are ignored."""
        if versions.num_rows == 0:
            return
        held = self._versions[record.name]
        changed, added = held.add(versions)
        if record.name in self._stores:
            self._stores[record.name].append(kept(record, versions.filter(pa.array(added))))
        elif record.name == PRINCIPAL.name:
            self._bindings.follow(versions, changed, added)
        newest = times(versions["broker_time"]).max()
        if newest:
            self._newest[record.name] = max(int(newest), self._newest.get(record.name, 0))

    def note_read(self, topic: str, partition: int, next_offset: int) -> None:
        """Note that a reference partition has been read up to `next_offset` (exclusive)."""
        key = (topic, partition)
        self.known[key] = max(next_offset, self.known.get(key, 0))

    def count(self, record: Record) -> int:
        """How many versions of the record are held, tombstones not counted."""
        return self._versions[record.name].count

    def newest(self, record: Record) -> int | None:
        """The broker time (µs) of the newest version or tombstone held; None where none had one."""
        return self._newest.get(record.name)

    def at(self, record: Record, ids: pa.Array, at: Ints) -> Ints:
        """The row of the version of each id in force at each time (int64 µs), -1 for none and for null.

        Rows number what was added; they hold for as long as this object lives.
        """
        assert record in (PARTY, AUTHORIZATION, SITE, ASSET)
        return self._versions[record.name].at(ids, at)

    def resolve(self, principals: pa.Array, at: Ints) -> tuple[Ints, Ints]:
        """(row of the party each principal resolves to or -1, number of its candidates) at each time.

        Candidates are the distinct parties that the principal's bindings in force name and that have a
        version in force themselves; exactly one resolves.
        """
        owners, parties = self._bindings.candidates(principals, at)
        rows = self._versions[PARTY.name].intervals.at(parties, at[owners])
        known = rows >= 0
        owners, rows = owners[known], rows[known]
        number = np.bincount(owners, minlength=len(at))
        resolved = np.full(len(at), -1, np.int64)
        resolved[owners] = rows
        resolved[number != 1] = -1
        return resolved, number

    def ids(self, record: Record, rows: Ints) -> pa.StringArray:
        """The id of each row; null for -1."""
        held = self._versions[record.name]
        keys = np.where(rows >= 0, held.row_keys.values[rows], -1) if held.count else rows
        return held.keys.take(keys)

    def numbers(self, record: Record, rows: Ints) -> pa.Int64Array:
        """The version number of each row; null for -1."""
        held = self._versions[record.name].versions.values
        return pa.array(held[rows] if len(held) else rows, mask=rows < 0)

    def columns(self, record: Record, rows: Ints, names: Sequence[str]) -> list[pa.Array]:
        """Kept columns of the given rows; null for -1."""
        return self._stores[record.name].take(rows, names)


def _kept_schema(name: str) -> pa.Schema:
    record = REFERENCES[f"custody.{name}"]
    return kept(record, pa.RecordBatch.from_pylist([], record.schema)).schema

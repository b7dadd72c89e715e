"""All reference records a worker knows, and the answers that joins ask of them.

Versions arrive in any order: loaded from the lake, read from the topics, late or retroactive. The same set of
them gives the same answers, and each addition is visible to the next batch that is joined.
"""

from collections.abc import Collection, Sequence

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

PREFIXES: dict[str, Record] = {"P": PARTY, "A": AUTHORIZATION, "S": SITE, "X": ASSET}
"""What rules call the versions in force: `P.status` is the status of the party's."""

_COUNTRIES = {"country", "hq_country", "parent_hq_country", "remote_countries"}
_DERIVED = {"sku": "model", "skus": "models"}  # model keys, and the column they are made from


def columns_of(record: Record) -> tuple[str, ...]:
    """Every column of a version that a rule may ask for; documents are evidence, not input to a rule."""
    names = (field.name for field in record.fields if field.name != "documents")
    return (*names, *(name for name, origin in _DERIVED.items() if origin in record.by_name))


def _held(record: Record, wanted: Collection[str] | None) -> tuple[str, ...]:
    """The columns to hold as rows: those wanted; the id and the version are held anyway."""
    prefix = next(prefix for prefix, prefixed in PREFIXES.items() if prefixed is record)
    return tuple(
        name
        for name in columns_of(record)
        if name not in (*record.key, "version")
        and (wanted is None or f"{prefix}.{name}" in wanted or name == "conditions")
    )


def comparable(versions: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """The named columns as rules compare them: countries normalised, models as keys, times naive UTC."""
    columns = {}
    for name in names:
        column = versions[_DERIVED.get(name, name)]
        if name in _COUNTRIES:
            column = country_lists(column) if pa.types.is_list(column.type) else countries(column)
        elif name in _DERIVED:
            column = model_key_lists(column) if pa.types.is_list(column.type) else model_keys(column)
        columns[name] = _naive(column)
    return pa.RecordBatch.from_pydict(columns)


def _naive(column: pa.Array) -> pa.Array:
    """The column with its times, also those inside structs, made naive UTC."""
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.timestamp("us"))
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

    def __init__(self, columns: Collection[str] | None = None) -> None:
        """`columns` are those that rules read, like `P.status` (`Judge.columns`): no other is held in memory.

        None holds them all.
        """
        self.known: dict[tuple[str, int], int] = {}
        self._versions = {record.name: Versions(record) for record in REFERENCES.values()}
        self._names = {record.name: _held(record, columns) for record in PREFIXES.values()}
        self._stores = {
            record.name: RowStore(_store_schema(record, self._names[record.name]))
            for record in PREFIXES.values()
        }
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
            fresh = versions.filter(pa.array(added))
            self._stores[record.name].append(comparable(fresh, self._names[record.name]))
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
        assert record.name in self._stores, f"{record.name} is not joined by id"
        return self._versions[record.name].at(ids, at)

    def until(self, record: Record, ids: pa.Array, at: Ints) -> Ints:
        """The time (µs) before which `at` gives for each id what it gives at this time, as far as is known;
        FOREVER where it always does."""
        return self._versions[record.name].until(ids, at)

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

    def resolved_until(self, principals: pa.Array, at: Ints) -> Ints:
        """The time (µs) before which `resolve` gives for each principal what it gives at this time."""
        found = self._bindings.until(principals, at)
        owners, parties = self._bindings.candidates(principals, at)
        np.minimum.at(found, owners, self._versions[PARTY.name].intervals.until(parties, at[owners]))
        return found

    def ids(self, record: Record, rows: Ints) -> pa.StringArray:
        """The id of each row; null for -1."""
        held = self._versions[record.name]
        keys = np.where(rows >= 0, held.row_keys.values[rows], -1) if held.count else rows
        return held.keys.take(keys)

    def numbers(self, record: Record, rows: Ints) -> pa.Int64Array:
        """The version number of each row; null for -1."""
        held = self._versions[record.name].versions.values
        return pa.array(held[rows] if len(held) else rows, mask=rows < 0)

    def names(self, record: Record) -> tuple[str, ...]:
        """The columns that `columns` gives: the id, the version and what is held as rows."""
        return (*record.key, "version", *self._names[record.name])

    def columns(
        self, record: Record, rows: Ints, names: Sequence[str], encode: bool = False
    ) -> list[pa.Array]:
        """Columns (without prefix) of the versions in the given rows, as rules compare them; null for -1.

        With `encode`, what `RowStore.take` says comes dictionary-encoded.
        """
        missing = set(names) - set(self.names(record))
        assert not missing, f"{record.name}: {missing} not held; name them when References is made"
        store = self._stores[record.name]
        stored = [name for name in names if name in self._names[record.name]]
        taken = dict(zip(stored, store.take(rows, stored, encode), strict=True))
        for name in names:
            if name == "version":
                taken[name] = self.numbers(record, rows)
            elif name in record.key:
                taken[name] = self.ids(record, rows)
        return [taken[name] for name in names]


def _store_schema(record: Record, names: Sequence[str]) -> pa.Schema:
    return comparable(pa.RecordBatch.from_pylist([], record.schema), names).schema

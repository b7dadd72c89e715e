"""The events that a step judges, as Arrow tables: the new ones, and those kept before that changes touch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.asof import Ints
from rules.reconciler.chain import Chains
from rules.reconciler.given import landed_schema
from rules.reconciler.state import has_rows
from schemas.events import ACCESS, ALLOCATION, EVENTS, PLACEMENT
from schemas.record import Record


@dataclass(frozen=True)
class Part:
    """Events of one stream, with what `allocated` says of their allocations.

    `rows` have the kept columns (`rules.reconciler.store`); new ones `verdicts` and `commit`, others
    `row_rules` and `chain_rules`. `in_effect`: each one's row of `allocated`, or -1; that has what
    `Chains.rows` says, and the `serials` of those that placements are held against.
    """

    record: Record
    rows: pa.Table
    is_new: bool
    in_effect: Ints
    allocated: pa.Table

    def column(self, name: str) -> pa.Array:
        """One column as one array."""
        whole = self.rows[name].combine_chunks()
        return whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)

    def of_allocation(self, name: str) -> pa.Array:
        """A column of the allocated events in effect, dictionary-encoded; null where there is none."""
        column = self.allocated[name].combine_chunks()
        values = column if isinstance(column, pa.Array) else pa.concat_arrays(column.chunks)
        indices = pa.array(self.in_effect.astype(np.int32), mask=self.in_effect < 0)
        return pa.DictionaryArray.from_arrays(indices, values)

    def moment_of_allocation(self, name: str) -> pa.Array:
        """A time of the allocated events in effect; null where there is none."""
        return self.of_allocation(name).dictionary_decode()

    @property
    def chain_rules(self) -> pa.BooleanArray:
        """Which of them deadline and sweep rules judge now."""
        if not self.is_new:
            return self.column("chain_rules")
        if self.record is ACCESS:
            return pa.repeat(True, self.rows.num_rows)
        action = self.column("action")
        return pc.equal(action, "allocated") if self.record is ALLOCATION else pc.not_equal(action, "stopped")


def parts(con: duckdb.DuckDBPyConnection, chains: Chains, new: Mapping[str, pa.Table]) -> list[Part]:
    """What is in scope: `new` as `store.take_new` returns it, and `older_<stream>`; of each stream the new
    ones, if any or not. Makes `step_released`, all releases of the allocations that these name. Expects the
    new allocation events to be kept."""
    none = np.empty(0, np.int64), pa.table({})
    found = [Part(record, rows, is_new, *none) for record, rows, is_new in _scope(con, new)]
    slots = chains.find([part.column("allocation_id") for part in found])
    rows = [
        chains.at(some, part.column("t").cast(pa.int64()).to_numpy())
        for part, some in zip(found, slots, strict=True)
    ]
    con.register("step_released", chains.releases(_distinct(slots)))
    used = _distinct(rows)
    place = np.full(int(used.max(initial=-1)) + 2, -1)  # of each row among them; the last is for -1
    place[used] = np.arange(len(used))
    placed = _distinct([some for part, some in zip(found, rows, strict=True) if part.record is PLACEMENT])
    listed = chains.serials(placed).take(_positions(placed, used))
    allocated = chains.rows(used).append_column("serials", listed)
    return [
        replace(part, in_effect=place[some], allocated=allocated)
        for part, some in zip(found, rows, strict=True)
    ]


def _distinct(numbers: Sequence[Ints]) -> Ints:
    """The numbers, ascending, without -1."""
    every = np.concatenate([np.empty(0, np.int64), *numbers])
    there = np.zeros(int(every.max(initial=-1)) + 2, bool)
    there[every] = True
    there[-1] = False
    return np.flatnonzero(there)


def _positions(numbers: Ints, of: Ints) -> pa.Array:
    """Where each of `of` stands among the numbers, null where it does not; both ascend."""
    if not len(numbers):
        return pa.nulls(len(of), pa.int64())
    at = np.minimum(np.searchsorted(numbers, of), len(numbers) - 1)
    return pa.array(at, mask=numbers[at] != of)


def _scope(
    con: duckdb.DuckDBPyConnection, new: Mapping[str, pa.Table]
) -> Iterator[tuple[Record, pa.Table, bool]]:
    for record in EVENTS.values():
        yield record, new[record.name], True
        older = _older(con, record)
        if older.num_rows:
            yield record, older, False


def _older(con: duckdb.DuckDBPyConnection, record: Record) -> pa.Table:
    if not has_rows(con, f"older_{record.name}"):
        return pa.table({})
    rows = con.sql(f"FROM older_{record.name} ORDER BY number").to_arrow_table()
    # texts come as they went in, whatever DuckDB would rather call them
    kinds = {field.name: field.type for field in landed_schema(record)}
    kinds |= {"party_id_sent": pa.string(), "t": pa.timestamp("us"), "broker_time": pa.timestamp("us")}
    fields = [pa.field(f.name, kinds.get(f.name, f.type)) for f in rows.schema]
    return rows.cast(pa.schema(fields))

"""The events that a step judges, as Arrow tables: the new ones, and those kept before that changes touch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.asof import Ints
from rules.reconciler import chain
from schemas.events import ACCESS, ALLOCATION, EVENTS
from schemas.record import Record
from schemas.tables import typed


@dataclass(frozen=True)
class Part:
    """Events of one stream, with what `allocated` says of their allocations.

    `rows` have the kept columns (`rules.reconciler.store`); new ones `verdicts` and `commit`, others
    `row_rules` and `chain_rules`. `in_effect`: each one's row of `allocated` (`chain.gather`), or -1.
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


def parts(con: duckdb.DuckDBPyConnection, new: Mapping[str, pa.Table]) -> list[Part]:
    """What is in scope: `new` as `store.take_new` returns it, and `older_<stream>`; of each stream the new
    ones, if any or not. Expects the new allocation events to be kept."""
    allocated = chain.gather(con)
    return list(_parts(con, new, allocated))


def _parts(
    con: duckdb.DuckDBPyConnection, new: Mapping[str, pa.Table], allocated: pa.Table
) -> Iterator[Part]:
    for record in EVENTS.values():
        for is_new in (True, False):
            relation = f"{'new' if is_new else 'older'}_{record.name}"
            rows = new[record.name] if is_new else _older(con, record)
            if is_new or rows.num_rows:
                in_effect = chain.in_effect(con, relation, rows.num_rows)
                yield Part(record, rows, is_new, in_effect, allocated)


def _older(con: duckdb.DuckDBPyConnection, record: Record) -> pa.Table:
    rows = con.sql(f"FROM older_{record.name} ORDER BY number").to_arrow_table()
    # texts come as they went in, whatever DuckDB would rather call them
    kinds = {field.name: field.type for field in typed(record)}
    kinds |= {"party_id_sent": pa.string(), "t": pa.timestamp("us"), "broker_time": pa.timestamp("us")}
    fields = [pa.field(f.name, kinds.get(f.name, f.type)) for f in rows.schema]
    return rows.cast(pa.schema(fields))

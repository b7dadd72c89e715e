"""Columns of made rows: names that count, lists, one value for all."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


def named(prefix: str, number: Ints) -> pa.Array:
    """`prefix` with each number behind it."""
    return pc.binary_join_element_wise(prefix, pa.array(number).cast(pa.string()), "")


def lists(prefix: str, number: Ints, each: int) -> pa.Array:
    """For each number a list of `each` names that no other number has."""
    items = (number[:, None] * each + np.arange(each)[None, :]).reshape(-1)
    offsets = np.arange(0, len(items) + 1, each, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), named(prefix, items))


def same(value: object, rows: int, kind: pa.DataType | None = None) -> pa.Array:
    """One value for every row."""
    return pa.repeat(pa.scalar(value, kind), rows)


def filled(fields: Mapping[str, pa.Array], schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """The fields in the schema's order and types; one that is not given is null."""
    return pa.RecordBatch.from_arrays(
        [fields[f.name].cast(f.type) if f.name in fields else pa.nulls(rows, f.type) for f in schema],
        schema=schema,
    )


def before_landing(schema: pa.Schema) -> pa.Schema:
    """The columns of a row before it lands."""
    return pa.schema([field for field in schema if field.name != "ingested_at"])

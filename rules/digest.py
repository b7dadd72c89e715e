"""The SHA-256 of reference versions, by which equal ones are told from conflicting ones."""

import hashlib

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from schemas.record import Record


def digests(record: Record, versions: pa.RecordBatch) -> pa.FixedSizeBinaryArray:
    """SHA-256 over each row's decoded fields as canonical JSON, as `pa.binary(32)`.

    Canonical: sorted names, no spaces, times as int µs since the epoch (UTC), dates as YYYY-MM-DD. A null and
    an empty list differ, and so do any two values that decoding tells apart.
    """
    names = [field.name for field in record.fields]
    rows = zip(*(_values(versions[name]) for name in names), strict=True)
    hashed = [
        hashlib.sha256(orjson.dumps(dict(zip(names, row, strict=True)), option=orjson.OPT_SORT_KEYS)).digest()
        for row in rows
    ]
    return pa.array(hashed, pa.binary(32))


def _values(column: pa.Array) -> list[object]:
    """The column as Python values, faster than `to_pylist` where that matters."""
    if column.null_count == len(column):
        return [None] * len(column)
    if pa.types.is_string(column.type):
        strings: list[object] = column.to_numpy(zero_copy_only=False).tolist()
        return strings
    if pa.types.is_timestamp(column.type):
        column = column.view(pa.int64())
    if pa.types.is_floating(column.type):
        column = pc.add(column, 0.0)  # -0.0 is 0.0
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        numbers = column.fill_null(0).to_numpy().astype(object)
        numbers[np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))] = None
        values: list[object] = numbers.tolist()
        return values
    return list(_integral(column).to_pylist())


def _integral(column: pa.Array) -> pa.Array:
    """The column with the times inside its structs as int µs."""
    if not (pa.types.is_list(column.type) and pa.types.is_struct(column.type.value_type)):
        return column
    fields = [
        pa.field(field.name, pa.int64() if pa.types.is_timestamp(field.type) else field.type)
        for field in column.type.value_type
    ]
    return column.cast(pa.list_(pa.struct(fields)))

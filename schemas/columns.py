"""The strict columnar decoder: a batch of payloads to typed columns, at about the cost of parsing them.

It answers as `rows.decode_row` would for every payload (tests/test_columns.py and tests/fuzz_decoders.py
hold it to that). `json_parse` parses what is sound; the value checks of the contract run here on whole
columns; whatever is left over goes through the row decoder and is put back in its place.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.json_guards import Ints, Mask
from schemas.json_parse import parse, parse_schema, views
from schemas.record import MAX_BYTES, Field, Record, Type
from schemas.rows import Rejected, Row, decode_row
from schemas.times import mask, parse_dates, parse_times

Reasons = npt.NDArray[np.object_]

_SPACES = np.array([chr(byte).encode() in b" \t\r\n" for byte in range(256)], dtype=bool)


@dataclass(frozen=True)
class Decoded:
    """A batch of payloads, decoded.

    `table` holds the accepted rows in input order with the schema `record.schema`; `rows` (int64) their
    positions in the input; `reasons` is as long as the input, null where a payload was accepted.
    """

    table: pa.RecordBatch
    rows: npt.NDArray[np.int64]
    reasons: pa.StringArray


def decode(record: Record, values: pa.BinaryArray) -> Decoded:
    """Decode payloads strictly. A null payload is a `tombstone`: only for event records."""
    assert values.type == pa.binary(), f"payloads must be binary, not {values.type}"
    assert record.is_event or not values.null_count, "tombstones of reference records are not decoded"
    reasons: Reasons = np.full(len(values), None, dtype=object)
    framed = _sort_out(values, reasons)
    sound = values if len(framed) == len(values) else values.take(pa.array(framed))
    parts = parse(record, sound)
    parsed = framed[np.concatenate([rows for _, rows in parts])] if parts else framed[:0]
    table, faults = _check(record, _one_batch(record, [table for table, _ in parts]))
    reasons[parsed] = faults
    accepted = _unset(faults)
    if not accepted.all():
        table, parsed_rows = table.filter(pa.array(accepted)), parsed[accepted]
    else:
        parsed_rows = parsed
    left = _unset(reasons)
    left[parsed] = False
    table, rows = _splice(record, table, parsed_rows, _by_row(record, values, np.flatnonzero(left), reasons))
    return Decoded(table, rows, pa.array(reasons, pa.string()))


def _sort_out(values: pa.BinaryArray, reasons: Reasons) -> Ints:
    """Name what needs no parsing in `reasons`; return the positions of payloads in braces."""
    offsets, data = views(values)
    lengths = np.diff(offsets)
    reasons[lengths > MAX_BYTES] = "too_large"
    if values.null_count:
        reasons[mask(values.is_null())] = "tombstone"
    rows = np.flatnonzero(_unset(reasons) & (lengths >= 2))
    ends = offsets[rows + 1] - 1
    for _ in range(2):  # lines of a Windows file end in a carriage return
        ends = ends - (_SPACES[data[ends]] & (ends > offsets[rows]))
    return rows[(data[offsets[rows]] == ord("{")) & (data[ends] == ord("}"))]


def _unset(reasons: Reasons) -> Mask:
    return np.fromiter((reason is None for reason in reasons), dtype=bool, count=len(reasons))


def _one_batch(record: Record, tables: list[pa.Table]) -> pa.RecordBatch:
    whole = pa.concat_tables([parse_schema(record).empty_table(), *tables]).combine_chunks()
    return pa.RecordBatch.from_arrays(
        [column.chunk(0) if column.num_chunks else pa.array([], column.type) for column in whole.columns],
        schema=whole.schema,
    )


def _by_row(
    record: Record, values: pa.BinaryArray, rows: Ints, reasons: Reasons
) -> tuple[list[Row], list[int]]:
    """Decode the payloads at `rows` one by one: accepted ones and their positions; the rest in `reasons`."""
    accepted: list[Row] = []
    places: list[int] = []
    for place, value in zip(rows.tolist(), values.take(pa.array(rows)).to_pylist(), strict=True):
        row = decode_row(record, value)
        if isinstance(row, Rejected):
            reasons[place] = row.reason
        else:
            accepted.append(row)
            places.append(place)
    return accepted, places


def _splice(
    record: Record, table: pa.RecordBatch, rows: Ints, more: tuple[list[Row], list[int]]
) -> tuple[pa.RecordBatch, Ints]:
    """Put rows decoded one by one into their places among the others."""
    decoded, places = more
    if not decoded:
        return table, rows
    others = pa.RecordBatch.from_pylist(decoded, schema=record.schema)
    joined = pa.Table.from_batches([table, others]).combine_chunks().to_batches()[0]
    positions = np.concatenate([rows, np.array(places, dtype=np.int64)])
    order = np.argsort(positions)
    return joined.take(pa.array(order)), positions[order]


@dataclass
class _Faults:
    """Where each reason of the contract holds, kept in the order of its tables within each kind."""

    missing: list[tuple[str, Mask]] = field(default_factory=list)
    type: list[tuple[str, Mask]] = field(default_factory=list)
    enum: list[tuple[str, Mask]] = field(default_factory=list)

    def reasons(self, count: int) -> Reasons:
        """The first reason of each of `count` rows, or None."""
        first: Reasons = np.full(count, None, dtype=object)
        for name, where in reversed([*self.missing, *self.type, *self.enum]):
            first[where] = name
        return first


def _check(record: Record, parsed: pa.RecordBatch) -> tuple[pa.RecordBatch, Reasons]:
    """The columns of the record from parsed ones, and the reason of each row that breaks the contract."""
    faults = _Faults()
    columns = []
    for named, column in zip(record.fields, parsed.columns, strict=True):
        present, wrong = _convert(named, column)
        columns.append(present)
        if wrong is not None and wrong.any():
            faults.type.append((f"type:{named.name}", wrong))
        if named.required and (nulls := mask(_blank_to_null(column).is_null())).any():
            faults.missing.append((f"missing:{named.name}", nulls))
        if named.enum:
            known = pc.is_in(present, pa.array([*named.enum, None], pa.string()))
            if not pc.all(known).as_py() and len(known):
                faults.enum.append((f"enum:{named.name}", mask(pc.invert(known))))
    table = pa.RecordBatch.from_arrays(columns, schema=record.schema)
    return table, faults.reasons(parsed.num_rows)


def _blank_to_null(column: pa.Array) -> pa.Array:
    """Empty strings are nulls; other types have none."""
    if not pa.types.is_string(column.type) or pc.min(pc.binary_length(column)).as_py() != 0:
        return column
    return pc.if_else(pc.equal(column, ""), None, column)


def _convert(named: Field, column: pa.Array) -> tuple[pa.Array, Mask | None]:
    """The column as the record holds it, and the rows whose value is of the wrong type, if any."""
    match named.type:
        case Type.STRING:
            return _blank_to_null(column), None
        case Type.INT:
            return column, None if named.minimum is None else _below(column, named.minimum)
        case Type.NUMBER:
            return pc.add(column, 0.0), None  # no negative zero
        case Type.BOOL:
            return column, None
        case Type.TIME:
            return parse_times(_blank_to_null(column))
        case Type.DATE:
            return parse_dates(_blank_to_null(column))
        case Type.STRINGS:
            return column, _parents(column, column.flatten().is_null())
        case Type.OBJECTS:
            return _convert_objects(named, column)


def _below(column: pa.Int64Array, minimum: int) -> Mask | None:
    lowest = pc.min(column).as_py()
    return None if lowest is None or lowest >= minimum else mask(pc.less(column, minimum))


def _parents(lists: pa.ListArray, items: pa.BooleanArray) -> Mask | None:
    """The rows that hold one of the flagged items of the flattened lists."""
    if not pc.any(items).as_py():
        return None
    rows = np.zeros(len(lists), dtype=bool)
    rows[np.asarray(pc.list_parent_indices(lists).filter(items))] = True
    return rows


def _convert_objects(named: Field, lists: pa.ListArray) -> tuple[pa.ListArray, Mask | None]:
    """A list of objects, its times converted; a null item or a wrong value in one is a fault of its row."""
    items = lists.flatten()
    wrong = mask(items.is_null())
    columns = []
    for inner in named.fields:
        column, faulty = _convert(inner, items.field(inner.name))
        columns.append(column)
        if faulty is not None:
            wrong |= faulty
    structs = pa.StructArray.from_arrays(columns, fields=[inner.arrow for inner in named.fields])
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    rebuilt = pa.ListArray.from_arrays(offsets, structs, type=named.arrow.type, mask=lists.is_null())
    return rebuilt, _parents(lists, pa.array(wrong))

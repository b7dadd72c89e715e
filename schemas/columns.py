"""The strict columnar decoder: a batch of payloads to typed columns, at about the cost of parsing them.

It answers as `rows.decode_row` would for every payload (tests/test_columns.py and tests/fuzz_decoders.py
hold it to that). `json_flat` and `json_parse`, in turn, parse what is sound; the value checks of the contract
run here on whole columns; whatever is left over goes through the row decoder and is put back in its place.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.json_guards import Ints, Mask
from schemas.json_parse import Parsed, blank_to_null, parse, parse_schema, views
from schemas.loops import loops
from schemas.record import MAX_BYTES, Field, Record, Type
from schemas.rows import Rejected, Row, decode_row
from schemas.times import mask, parse_dates, parse_times

WORTH_LOADING = 2_000
"""Payloads in one batch for which `json_flat` is loaded. That takes most of a second, and some more where it
has not been compiled yet; once it is there, it takes batches of any size."""

_RARE = 32
"""Where at most one payload in so many is left over by `json_flat`, it is decoded by row at once: most are
wrong, and a parser that stumbles begins again."""

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


class _Reasons:
    """The reason of each payload or row; the first one given stands."""

    def __init__(self, count: int) -> None:
        self._codes = np.zeros(count, dtype=np.int32)  # 0: none yet
        self._names: dict[str, int] = {}

    @property
    def unset(self) -> Mask:
        return self._codes == 0

    def give(self, name: str, where: Mask | Ints | int) -> None:
        """Give the reason at the places of `where` that have none."""
        code = self._names.setdefault(name, len(self._names) + 1)
        self._codes[where] = np.where(self._codes[where] == 0, code, self._codes[where])

    def place(self, others: "_Reasons", rows: Ints) -> None:
        """Give what `others` say of its rows, which are `rows` here."""
        for name, code in others._names.items():
            self.give(name, rows[others._codes == code])

    def column(self) -> pa.StringArray:
        """Null where there is no reason."""
        return pa.array([None, *self._names], pa.string()).take(pa.array(self._codes))


def decode(record: Record, values: pa.BinaryArray) -> Decoded:
    """Decode payloads strictly. A null payload is a `tombstone`: only for event records."""
    assert values.type == pa.binary(), f"payloads must be binary, not {values.type}"
    assert record.is_event or not values.null_count, "tombstones of reference records are not decoded"
    reasons = _Reasons(len(values))
    framed = _sort_out(values, reasons)
    left = reasons.unset
    tables, rows = _parse(record, values, framed)
    left[rows] = False
    table, faults = _check(record, _one_batch(record, tables))
    reasons.place(faults, rows)
    one_by_one = _by_row(record, values, np.flatnonzero(left), reasons)
    table, rows = _splice(record, table, rows, faults.unset, *one_by_one)
    return Decoded(table, rows, reasons.column())


def _sort_out(values: pa.BinaryArray, reasons: _Reasons) -> Ints:
    """Give reasons for what needs no parsing; return the positions of the payloads in braces."""
    offsets, data = views(values)
    lengths = np.diff(offsets)
    if values.null_count:
        reasons.give("tombstone", mask(values.is_null()))
    if len(lengths) and lengths.max() > MAX_BYTES:
        reasons.give("too_large", lengths > MAX_BYTES)
    rows = np.flatnonzero(reasons.unset & (lengths >= 2))
    ends = offsets[rows + 1] - 1
    for _ in range(2):  # lines of a Windows file end in a carriage return
        ends = ends - (_SPACES[data[ends]] & (ends > offsets[rows]))
    return rows[(data[offsets[rows]] == ord("{")) & (data[ends] == ord("}"))]


def _parse(record: Record, values: pa.BinaryArray, rows: Ints) -> tuple[list[pa.Table], Ints]:
    """Tables of payloads in braces, which lie at `rows`, and the rows that they are of."""
    tables: list[pa.Table] = []
    done = [rows[:0]]
    for parser in _parsers(len(values)):
        if tables and len(rows) <= len(values) // _RARE:
            break
        parts = parser(record, values if len(rows) == len(values) else values.take(pa.array(rows)))
        if parts:
            taken = np.concatenate([part_rows for _, part_rows in parts])
            tables += [table for table, _ in parts]
            done.append(rows[taken])
            rows = np.delete(rows, taken)
    return tables, np.concatenate(done)


def _parsers(count: int) -> list[Callable[[Record, pa.BinaryArray], list[Parsed]]]:
    """What may parse so many payloads, the fastest first."""
    flat = loops("schemas.json_flat", count >= WORTH_LOADING)
    return [parse] if flat is None else [flat.parse_flat, parse]


def _one_batch(record: Record, tables: list[pa.Table]) -> pa.RecordBatch:
    batches = [batch for table in tables for batch in table.to_batches()]
    if not batches:
        return pa.RecordBatch.from_pylist([], parse_schema(record))
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _by_row(
    record: Record, values: pa.BinaryArray, rows: Ints, reasons: _Reasons
) -> tuple[list[Row], list[int]]:
    """Decode the payloads at `rows` one by one: accepted ones and their positions; the rest in `reasons`."""
    accepted: list[Row] = []
    places: list[int] = []
    for place, value in zip(rows.tolist(), values.take(pa.array(rows)).to_pylist(), strict=True):
        row = decode_row(record, value)
        if isinstance(row, Rejected):
            reasons.give(row.reason, place)
        else:
            accepted.append(row)
            places.append(place)
    return accepted, places


def _splice(
    record: Record, table: pa.RecordBatch, rows: Ints, accepted: Mask, decoded: list[Row], places: list[int]
) -> tuple[pa.RecordBatch, Ints]:
    """The accepted rows and those decoded one by one, in the order of their positions, copied but once."""
    chosen = np.flatnonzero(accepted)
    if decoded:
        chosen = np.concatenate([chosen, len(rows) + np.arange(len(places))])
        table = pa.concat_batches([table, pa.RecordBatch.from_pylist(decoded, schema=record.schema)])
        rows = np.concatenate([rows, np.array(places, dtype=np.int64)])
    if len(chosen) == len(rows) and (np.diff(rows) > 0).all():
        return table, rows
    chosen = chosen[np.argsort(rows[chosen])]
    return table.take(pa.array(chosen)), rows[chosen]


def _check(record: Record, parsed: pa.RecordBatch) -> tuple[pa.RecordBatch, _Reasons]:
    """The columns of the record from parsed ones, and the reason of each row that breaks the contract."""
    faults = _Reasons(parsed.num_rows)
    given = parsed.columns
    for named, column in zip(record.fields, given, strict=True):
        if named.required and column.null_count:
            faults.give(f"missing:{named.name}", mask(column.is_null()))
    columns = []
    for named, column in zip(record.fields, given, strict=True):
        converted, wrong = _convert(named, column)
        columns.append(converted)
        if wrong is not None and wrong.any():
            faults.give(f"type:{named.name}", wrong)
    for named, column in zip(record.fields, given, strict=True):
        if named.enum:
            known = mask(pc.is_in(column, pa.array([*named.enum, None], pa.string())))
            if not known.all():
                faults.give(f"enum:{named.name}", ~known)
    return pa.RecordBatch.from_arrays(columns, schema=record.schema), faults


def _convert(named: Field, column: pa.Array) -> tuple[pa.Array, Mask | None]:
    """The column as the record holds it, and the rows whose value is of the wrong type, if any."""
    match named.type:
        case Type.STRING:
            return column, None
        case Type.INT:
            return column, None if named.minimum is None else _below(column, named.minimum)
        case Type.NUMBER:
            return pc.add(column, 0.0), None  # no negative zero
        case Type.BOOL:
            return column, None
        case Type.TIME:
            return parse_times(column)
        case Type.DATE:
            return parse_dates(column)
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
        column, faulty = _convert(inner, blank_to_null(items.field(inner.name)))
        columns.append(column)
        if faulty is not None:
            wrong |= faulty
    structs = pa.StructArray.from_arrays(columns, fields=[inner.arrow for inner in named.fields])
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    rebuilt = pa.ListArray.from_arrays(offsets, structs, type=named.arrow.type, mask=lists.is_null())
    return rebuilt, _parents(lists, pa.array(wrong))

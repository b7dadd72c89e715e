"""Many JSON payloads to columns by one walk over their bytes (`json_scan`): the fast way, for events.

It gives what `json_parse` gives and is held to the same, but takes or leaves each payload by itself: one that
is wrong costs nothing to the others. Records with lists of objects, or with numbers that are no integers, are
not for it. Needs numba (the extra `fast`).
"""

from functools import cache

import numpy as np
import pyarrow as pa

from schemas.json_guards import Bytes, Ints, Mask
from schemas.json_parse import Parsed, is_utf8, parse_schema, pieces, views
from schemas.json_scan import (
    IS_BOOL,
    IS_INT,
    IS_LIST,
    IS_NULL,
    IS_STRING,
    PAD,
    TABLE,
    Places,
    Words,
    place_of,
    scan,
)
from schemas.record import Record, Type

PIECE = 1 << 20
"""Bytes read at a time: few enough to be in a core's cache still when strings are copied out of them."""

_KINDS = {
    Type.STRING: IS_STRING,
    Type.TIME: IS_STRING,
    Type.DATE: IS_STRING,
    Type.INT: IS_INT,
    Type.BOOL: IS_BOOL,
    Type.STRINGS: IS_LIST,
}


def parse_flat(record: Record, values: pa.BinaryArray) -> list[Parsed]:
    """Tables of `parse_schema(record)` with the positions in `values` that their rows come from, ascending.

    As `json_parse.parse`, for any payloads.
    """
    if any(field.type not in _KINDS for field in record.fields):
        return []
    reader = _reader(record)
    return [reader.piece(values.slice(start, end - start), start) for start, end in pieces(values, PIECE)]


class _Reader:
    """Reads pieces of batches of one record."""

    def __init__(self, record: Record) -> None:
        assert len(record.fields) <= 64, "the scan has a bit for each of 64 fields"
        names = [field.name.encode() for field in record.fields]
        self._fields = record.fields
        self._schema = parse_schema(record)
        self._names = np.frombuffer(b"".join(names), dtype=np.uint8)
        self._name_ends = np.cumsum([0, *map(len, names)])
        self._table = np.full(TABLE, len(names))
        self._others = np.full(len(names), len(names))
        for field, name in enumerate(names):
            place = place_of(len(name), name[0], name[-1])
            self._others[field], self._table[place] = self._table[place], field
        self._texts = np.array([_KINDS[field.type] == IS_STRING for field in record.fields])
        self._permitted = np.array([_KINDS[field.type] | IS_NULL for field in record.fields])

    def piece(self, values: pa.BinaryArray, start: int) -> Parsed:
        """The table of the payloads that are understood, and their rows, counted from `start`."""
        data, offsets = _with_end(values)
        rows = np.empty(len(values), dtype=np.int64)
        shape = (len(values), len(self._fields))
        kinds = np.full(shape, IS_NULL, dtype=np.uint8)
        places, numbers = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int64)
        ends = np.empty(len(data), dtype=np.int32)  # a string has two ends and two quotation marks
        count, found = scan(
            data, _words(data), offsets, self._names, self._name_ends, self._table, self._others,
            self._permitted, rows, kinds, places, numbers, ends,
        )  # fmt: skip
        null = np.ascontiguousarray(kinds[:count].T) == IS_NULL
        places, numbers = np.ascontiguousarray(places[:count].T), np.ascontiguousarray(numbers[:count].T)
        strings = _Strings(data, ends[: 2 * found + 2])
        texts = iter(strings.columns(places[self._texts], null[self._texts]))
        columns = []
        for at, field in enumerate(self._fields):
            match field.type:
                case Type.INT:
                    columns.append(pa.array(numbers[at], mask=null[at]))
                case Type.BOOL:
                    columns.append(pa.array(numbers[at] != 0, mask=null[at]))
                case Type.STRINGS:
                    columns.append(strings.lists(places[at], numbers[at], null[at]))
                case _:
                    columns.append(next(texts))
        return pa.Table.from_arrays(columns, schema=self._schema), rows[:count] + start


_reader = cache(_Reader)


class _Strings:
    """Strings by their places in `ends` (see `json_scan.scan`)."""

    def __init__(self, data: Bytes, ends: Places) -> None:
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(data)]
        self._all = pa.Array.from_buffers(pa.string(), len(ends) - 1, buffers)

    def columns(self, places: Places, null: Mask) -> list[pa.StringArray]:
        """Columns of strings; both arguments have one row a column. Copied at one go: calls are dear."""
        taken = self._all.take(pa.array(places.ravel()))
        valid = pa.py_buffer(np.packbits(~null, bitorder="little"))
        whole = pa.Array.from_buffers(pa.string(), null.size, [valid, *taken.buffers()[1:]])
        columns, count = null.shape
        return [whole.slice(column * count, count) for column in range(columns)]

    def lists(self, places: Places, lengths: Ints, null: Mask) -> pa.ListArray:
        """Lists from their first items' places."""
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        items = 2 * np.arange(offsets[-1]) + np.repeat(places - 2 * offsets[:-1], lengths)
        return pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), self._all.take(pa.array(items)), mask=pa.array(null)
        )


def _words(data: Bytes) -> Words:
    """The 8 bytes from every place on as a number, but for the last places."""
    whole = np.frombuffer(data, np.uint64, len(data) // 8)
    return np.lib.stride_tricks.as_strided(whole, (len(data) - 7,), (1,))


def _with_end(values: pa.BinaryArray) -> tuple[Bytes, Ints]:
    """A copy of the payloads' bytes with zeros behind them, and the offsets of the payloads.

    Those that are not UTF-8 have lost their first byte: no object begins with a zero.
    """
    offsets, whole = views(values)
    data = np.empty(offsets[-1] - offsets[0] + PAD, dtype=np.uint8)
    data[:-PAD] = whole[offsets[0] : offsets[-1]]
    data[-PAD:] = 0
    offsets = offsets - offsets[0]
    if not is_utf8(pa.py_buffer(data)):
        beyond = np.searchsorted(offsets, np.flatnonzero(data >= 0x80), side="right") - 1
        for row in np.unique(beyond).tolist():
            if not is_utf8(pa.py_buffer(data[offsets[row] : offsets[row + 1]])):
                data[offsets[row]] = 0
    return data, offsets

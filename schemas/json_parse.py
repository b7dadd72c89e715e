"""Many JSON payloads to columns of the right types with `pyarrow.json`, held to the contract.

The parser is strict about syntax, types and repeated names. What it is lax about is closed off here, and
payloads that it, or a guard, does not like are left over for the row decoder:

- It tells objects apart by content. Each payload must begin with `{` and end with `}` (the caller sees to
  it); payloads are joined by line feeds, which no JSON string may contain and no object may have between
  `}` and `{`. So every payload holds one object at least, and equal counts mean one each.
- It lets invalid UTF-8 pass: the joined bytes are checked first. It takes NUL for an end: suspected.
- It does not look into fields without a name. A first attempt allows no such fields; only where that fails
  for their sake are they allowed, and the payloads searched by `json_guards`.
- It parses numbers beyond a double to infinity: checked after.
"""

import re
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from schemas.json_guards import Bytes, Ints, Mask, odd_payloads, with_byte
from schemas.record import Field, Record, Type
from schemas.times import mask

PIECE = 4 << 20
"""Bytes parsed at a time: large enough that the parser's start costs nothing, small enough for the caches."""

_START = 128  # what one call of the parser costs, in payloads
_SMALL = 64  # this few payloads are decoded row by row rather than searched
_PATIENCE = 8  # search for bad payloads until this many times their number were parsed
_IN_ROW = re.compile(r" in row ([0-9]+)$")
_UNNAMED = "unexpected field"

Parsed = tuple[pa.Table, Ints]


def parse_schema(record: Record) -> pa.Schema:
    """What the parser makes of a record: its own schema, with times and dates still strings."""
    return pa.schema([_parse_field(field) for field in record.fields])


def parse(record: Record, values: pa.BinaryArray) -> list[Parsed]:
    """Tables of `parse_schema(record)` with the positions in `values` that their rows come from, ascending.

    Every payload must be at least two bytes, begin with `{` and end, white space aside, with `}`. Positions
    not in the result are for the row decoder. Values are of the right JSON type, and everything else that
    the contract calls `not_json` or `not_object`, or a repeated name, has been ruled out; an empty string,
    a null in a list, bounds, times, enums and required fields have not been looked at.
    """
    parser = _Parser(record)
    return [
        part
        for start, end in _pieces(values)
        for part in parser.piece(values.slice(start, end - start), np.arange(start, end))
    ]


def views(values: pa.BinaryArray) -> tuple[Ints, Bytes]:
    """Offsets and bytes of a binary array, also of a slice of one; nothing is copied."""
    if len(values) == 0:
        return np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.uint8)
    _, offsets, data = values.buffers()
    window = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return window.astype(np.int64), np.frombuffer(data if data is not None else b"", np.uint8)


def _parse_field(field: Field) -> pa.Field:
    if field.type in (Type.TIME, Type.DATE):
        return pa.field(field.name, pa.string())
    if field.type is Type.OBJECTS:
        return pa.field(field.name, pa.list_(pa.struct([_parse_field(inner) for inner in field.fields])))
    return field.arrow


def _pieces(values: pa.BinaryArray) -> list[tuple[int, int]]:
    """Ranges of payloads of about `PIECE` bytes."""
    offsets, _ = views(values)
    cuts = np.flatnonzero(np.diff((offsets[1:] - offsets[0]) // PIECE)) + 1
    bounds = [0, *cuts.tolist(), len(values)]
    return [(start, end) for start, end in pairwise(bounds) if start < end]


class _FailedError(Exception):
    """The parser did not take the payloads; its message says why."""


class _Parser:
    """Parses pieces of one batch; remembers between them whether payloads have fields without a name."""

    def __init__(self, record: Record) -> None:
        self.schema = parse_schema(record)
        self.unnamed = False
        self.patience = 0
        self.fractional = _fractional_ints(record)

    def piece(self, values: pa.BinaryArray, rows: Ints) -> list[Parsed]:
        """Tables and rows of the payloads that parse; see `parse`."""
        self.patience = _PATIENCE * (len(values) + _START)
        offsets, data, joined = _join(values)
        suspected = np.zeros(len(values), dtype=bool)
        if data.min() == 0:
            suspected |= with_byte(data, offsets, 0)
        if not _is_utf8(joined):
            suspected |= ~np.fromiter(map(_decodes, values.to_pylist()), dtype=bool, count=len(values))
        if self.unnamed:
            suspected |= odd_payloads(data, offsets)
        if suspected.any():
            return self._without(suspected, values, rows)
        return self._settle(values, rows)

    def _without(self, suspected: Mask, values: pa.BinaryArray, rows: Ints) -> list[Parsed]:
        kept = ~suspected
        return self._settle(values.filter(pa.array(kept)), rows[kept])

    def _settle(self, values: pa.BinaryArray, rows: Ints) -> list[Parsed]:
        """Parse all, or find out which payloads are in the way and parse the others."""
        count = len(values)
        if count == 0:
            return []
        offsets, data, joined = _join(values)
        bad = np.zeros(count, dtype=bool)
        start = 0
        while start < count:
            self.patience -= _START
            if self.patience < 0:
                return []
            try:
                table = self._read(joined.slice(offsets[start]), count - start)
            except _FailedError as failed:
                if _UNNAMED in str(failed) and not self.unnamed:
                    self.unnamed = True
                    return self._without(odd_payloads(data, offsets), values, rows)
                blamed, start = self._blame(str(failed), values, start)
                if not blamed.any():
                    break
                bad |= blamed
            else:
                if start == 0:
                    return [_finite(table, rows)]
                break
        if bad.any():
            return self._without(bad, values, rows)
        if count <= _SMALL:
            return []
        half = count // 2
        return [*self._settle(values[:half], rows[:half]), *self._settle(values[half:], rows[half:])]

    def _read(self, joined: pa.Buffer, count: int) -> pa.Table:
        """The table of `count` payloads, or `_FailedError`."""
        # One block holds it all, so that row numbers in messages count from its start.
        blocks = pj.ReadOptions(use_threads=False, block_size=joined.size + 1)
        options = pj.ParseOptions(
            explicit_schema=self.schema,
            newlines_in_values=False,
            unexpected_field_behavior="ignore" if self.unnamed else "error",
        )
        try:
            table = pj.read_json(pa.BufferReader(joined), blocks, options)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise _FailedError(str(error)) from error
        if table.num_rows != count:
            self.patience -= count
            raise _FailedError("some payload holds more than one object")
        assert table.schema == self.schema
        return table

    def _blame(self, message: str, values: pa.BinaryArray, start: int) -> tuple[Mask, int]:
        """Payloads that the parser's message speaks of, and from where to look for more.

        Only a hint: whoever is blamed wrongly is decoded by row, whoever is not blamed fails again.
        """
        blamed = np.zeros(len(values), dtype=bool)
        place = _IN_ROW.search(message)
        if place is not None:
            row = start + int(place[1])
            self.patience -= row - start
            # What follows an object in its payload is counted as another row.
            blamed[row if "Column(/" in message else max(start, row - 1) : row + 1] = True
            return blamed, row + 1
        self.patience -= len(values)
        if "convert" in message and self.fractional is not None:
            blamed = mask(pc.match_substring_regex(values, self.fractional))
            return blamed, len(values)
        return blamed, start


def _fractional_ints(record: Record) -> bytes | None:
    """A pattern for ints that the parser cannot convert: with a fraction, an exponent, or too many digits."""
    names = [field.name for field in record.fields if field.type is Type.INT]
    if not names:
        return None
    return rf'"(?:{"|".join(names)})"\s*:\s*-?[0-9]*(?:[.eE]|[0-9]{{19}})'.encode()


def _join(values: pa.BinaryArray) -> tuple[Ints, Bytes, pa.Buffer]:
    """The payloads, each followed by a line feed: where each begins, and the bytes."""
    lines = pc.binary_join_element_wise(values, pa.scalar(b""), pa.scalar(b"\n"))
    offsets, data = views(lines)
    return offsets, data[: offsets[-1]], lines.buffers()[2].slice(0, int(offsets[-1]))


def _is_utf8(joined: pa.Buffer) -> bool:
    ends = pa.py_buffer(np.array([0, joined.size], dtype=np.int64))
    try:
        pa.Array.from_buffers(pa.large_string(), 1, [None, ends, joined]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _finite(table: pa.Table, rows: Ints) -> Parsed:
    """Without the rows whose numbers are NaN or beyond a double."""
    infinite = np.zeros(len(rows), dtype=bool)
    for column in table.columns:
        if pa.types.is_floating(column.type):
            infinite |= mask(pc.invert(pc.is_finite(column)))
    if not infinite.any():
        return table, rows
    return table.filter(pa.array(~infinite)), rows[~infinite]

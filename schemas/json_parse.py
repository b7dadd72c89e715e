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
_TWO_OBJECTS = "more objects than payloads"
_ADJACENT = rb"\}\s*\{"
_WRONG_BEGINNINGS = {
    r'[^"n\s]': (Type.STRING, Type.TIME, Type.DATE),
    r"[^-0-9n\s]|-?[0-9]*(?:[.eE]|[0-9]{19})": (Type.INT,),
    r"[^-0-9n\s]": (Type.NUMBER,),
    r"[^tfn\s]": (Type.BOOL,),
    r"[^\[n\s]": (Type.STRINGS, Type.OBJECTS),
}
"""How values of the wrong type begin, and ints that are none."""

Parsed = tuple[pa.Table, Ints]


def parse_schema(record: Record) -> pa.Schema:
    """What the parser makes of a record: its own schema, with times and dates still strings."""
    return pa.schema([_parse_field(field) for field in record.fields])


def parse(record: Record, values: pa.BinaryArray) -> list[Parsed]:
    """Tables of `parse_schema(record)` with the positions in `values` that their rows come from, ascending.

    Every payload must be at least two bytes, begin with `{` and end, white space aside, with `}`. Positions
    not in the result are for the row decoder. Values are of the right JSON type, and everything else that
    the contract calls `not_json` or `not_object`, or a repeated name, has been ruled out. Empty strings have
    become nulls, but not those in lists of objects; a null in a list, bounds, times, enums and required
    fields have not been looked at.
    """
    parser = _Parser(record)
    return [
        (_without_blanks(table), rows)
        for start, end in pieces(values, PIECE)
        for table, rows in parser.piece(values.slice(start, end - start), np.arange(start, end))
    ]


def blank_to_null(column: pa.Array) -> pa.Array:
    """Empty strings are nulls; columns of other types have none."""
    if not pa.types.is_string(column.type) or pc.min(pc.binary_length(column)).as_py() != 0:
        return column
    return pc.if_else(pc.equal(column, ""), None, column)


def views(values: pa.BinaryArray) -> tuple[Ints, Bytes]:
    """Offsets and bytes of a binary array, also of a slice of one; nothing is copied."""
    if len(values) == 0:
        return np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.uint8)
    _, offsets, data = values.buffers()
    window = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return window.astype(np.int64), np.frombuffer(data if data is not None else b"", np.uint8)


def _without_blanks(table: pa.Table) -> pa.Table:
    return pa.Table.from_arrays([blank_to_null(column) for column in table.columns], schema=table.schema)


def _parse_field(field: Field) -> pa.Field:
    if field.type in (Type.TIME, Type.DATE):
        return pa.field(field.name, pa.string())
    if field.type is Type.OBJECTS:
        return pa.field(field.name, pa.list_(pa.struct([_parse_field(inner) for inner in field.fields])))
    return field.arrow


def pieces(values: pa.BinaryArray, size: int) -> list[tuple[int, int]]:
    """Ranges of payloads of about `size` bytes."""
    offsets, _ = views(values)
    cuts = np.flatnonzero(np.diff((offsets[1:] - offsets[0]) // size)) + 1
    bounds = [0, *cuts.tolist(), len(values)]
    return [(start, end) for start, end in pairwise(bounds) if start < end]


class _FailedError(Exception):
    """The parser did not take the payloads; its message says why."""


class _Lines:
    """Payloads of one piece, their positions in the batch, and their bytes joined by line feeds.

    `searched`: `odd_payloads` finds nothing in them, so fields without a name can be allowed.
    `nulled`: `_null_blanks` has been applied.
    """

    def __init__(
        self, values: pa.BinaryArray, rows: Ints, searched: bool = False, nulled: bool = False
    ) -> None:
        self.values = values
        self.rows = rows
        self.searched = searched
        self.nulled = nulled
        lines = pc.binary_join_element_wise(values, pa.scalar(b""), pa.scalar(b"\n"))
        self.offsets, data = views(lines)
        self.data = data[: self.offsets[-1]]
        self.joined = lines.buffers()[2]

    def __len__(self) -> int:
        return len(self.rows)

    def but(self, left_out: Mask) -> "_Lines":
        """Without some payloads."""
        if not left_out.any():
            return self
        kept = ~left_out
        return _Lines(self.values.filter(pa.array(kept)), self.rows[kept], self.searched, self.nulled)

    def part(self, start: int, end: int) -> "_Lines":
        """The payloads from `start` up to `end`."""
        return _Lines(self.values[start:end], self.rows[start:end], self.searched, self.nulled)

    def tail(self, start: int) -> pa.Buffer:
        """The bytes from payload `start` on."""
        return self.joined.slice(int(self.offsets[start]), int(self.offsets[-1] - self.offsets[start]))


class _Parser:
    """Parses pieces of one batch, and remembers between them what its payloads are like."""

    def __init__(self, record: Record) -> None:
        self.schema = parse_schema(record)
        self.mistyped = _mistyped(record)
        self.unnamed = False  # payloads have fields without a name
        self.blank = False  # payloads have empty strings where other types belong
        self.patience = 0

    def piece(self, values: pa.BinaryArray, rows: Ints) -> list[Parsed]:
        """Tables and rows of the payloads that parse; see `parse`."""
        self.patience = _PATIENCE * (len(values) + _START)
        lines = _Lines(values, rows)
        suspected = np.zeros(len(lines), dtype=bool)
        if lines.data.min() == 0:
            suspected |= with_byte(lines.data, lines.offsets, 0)
        if not is_utf8(lines.tail(0)):
            suspected |= ~np.fromiter(map(_decodes, values.to_pylist()), dtype=bool, count=len(values))
        return self._settle(lines.but(suspected))

    def _prepare(self, lines: _Lines) -> _Lines:
        """What has been learnt about the payloads of the batch, applied to these."""
        if self.blank and not lines.nulled:
            lines = _Lines(_null_blanks(lines.values), lines.rows, lines.searched, nulled=True)
        if self.unnamed and not lines.searched:
            lines = lines.but(odd_payloads(lines.data, lines.offsets))
            lines.searched = True
        return lines

    def _settle(self, lines: _Lines) -> list[Parsed]:
        """Parse all, or find out which payloads are in the way and parse the others."""
        lines = self._prepare(lines)
        bad = np.zeros(len(lines), dtype=bool)
        start = 0
        while start < len(lines):
            self.patience -= _START
            if self.patience < 0:
                return []
            try:
                table = self._read(lines, start)
            except _FailedError as failed:
                if self._learn(str(failed)):
                    return self._settle(lines)
                blamed, start = self._blame(str(failed), lines, start)
                if not blamed.any():
                    break
                bad |= blamed
            else:
                if start == 0:
                    return [_finite(table, lines.rows)]
                self.patience -= len(lines) - start
                break
        if bad.any():
            return self._settle(lines.but(bad))
        if len(lines) <= _SMALL:
            return []
        half = len(lines) // 2
        return [*self._settle(lines.part(0, half)), *self._settle(lines.part(half, len(lines)))]

    def _read(self, lines: _Lines, start: int) -> pa.Table:
        """The table of the payloads from `start` on, or `_FailedError`."""
        joined = lines.tail(start)
        # One block holds it all, so that row numbers in messages count from its start.
        blocks = pj.ReadOptions(use_threads=False, block_size=joined.size + 1)
        options = pj.ParseOptions(
            explicit_schema=self.schema,
            newlines_in_values=False,
            unexpected_field_behavior="ignore" if lines.searched else "error",
        )
        try:
            table = pj.read_json(pa.BufferReader(joined), blocks, options)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise _FailedError(str(error)) from error
        if table.num_rows != len(lines) - start:
            raise _FailedError(_TWO_OBJECTS)
        assert table.schema == self.schema
        return table

    def _learn(self, message: str) -> bool:
        """Whether the message shows something about the payloads of the batch that was not known."""
        known = (self.unnamed, self.blank)
        self.unnamed |= _UNNAMED in message
        self.blank |= message.partition(" in row ")[0].endswith(" to string")
        return (self.unnamed, self.blank) != known

    def _blame(self, message: str, lines: _Lines, start: int) -> tuple[Mask, int]:
        """Payloads that the parser's message speaks of, and from where to look for more.

        Only a hint: whoever is blamed wrongly is decoded by row, whoever is not blamed fails again.
        """
        if "changed from" in message or "convert" in message or message == _TWO_OBJECTS:
            self.patience -= len(lines)
            pattern = _ADJACENT if message == _TWO_OBJECTS else self.mistyped
            blamed = mask(pc.match_substring_regex(lines.values, pattern))
            if blamed.any():
                return blamed, len(lines)
        blamed = np.zeros(len(lines), dtype=bool)
        place = _IN_ROW.search(message)
        if place is None:
            self.patience -= len(lines) - start
            return blamed, start
        row = start + int(place[1])
        self.patience -= row - start
        # What follows an object in its payload is counted as another row.
        blamed[row if "Column(/" in message else max(start, row - 1) : row + 1] = True
        return blamed, row + 1


def _mistyped(record: Record) -> bytes:
    """A pattern for most payloads with a value that the parser cannot make into its field's type."""
    fields = [*record.fields, *(inner for field in record.fields for inner in field.fields)]
    patterns = []
    for wrong, types in _WRONG_BEGINNINGS.items():
        names = sorted({field.name for field in fields if field.type in types})
        if names:
            patterns.append(rf'"(?:{"|".join(names)})"\s*:\s*(?:{wrong})')
    return "|".join(patterns).encode()


def _null_blanks(values: pa.BinaryArray) -> pa.BinaryArray:
    """Null for every empty string that is the value of a field: the contract makes no difference.

    In valid JSON `:""` is nothing else. In what is not, it may lie within quotes: the tab, white space
    between values and forbidden in strings, sees to it that nothing wrong becomes right.
    """
    return pc.replace_substring_regex(values, pattern=rb':[ \t\r\n]*""', replacement=b":\tnull")


def is_utf8(joined: pa.Buffer) -> bool:
    """Whether the bytes are valid UTF-8."""
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

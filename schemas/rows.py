"""The strict row decoder: one payload at a time, plain, and the measure of the fast one (`columns.py`).

It follows the contract's *Values* paragraph and sections 1 and 2 word by word. The fast decoder hands it
every payload that is wrong or merely odd, so each reason that an operator reads is decided by the order here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import orjson

from schemas.record import MAX_BYTES, Field, Record, Type
from schemas.times import parse_date, parse_time

Row = dict[str, object]

_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Rejected:
    """Why a record is not accepted: one of the contract's reasons, such as `missing:event_id`."""

    reason: str


@dataclass(frozen=True)
class Tombstone:
    """A tombstone written as a line of a file.

    `ids` are the values of the record's id fields in the order of `Record.key`; `at` is in microseconds UTC.
    """

    ids: tuple[str, ...]
    at: int


class _Wrong:
    """What a converter returns for a value of the wrong type; every JSON value is taken."""


_WRONG = _Wrong()

Convert = Callable[[object], object]
"""From a JSON value that is not null to the decoded one, or `_WRONG`."""


class _Shape:
    """A record's fields made ready for decoding."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.required = [field.name for field in record.fields if field.required]
        self.converts = [(field.name, _convert(field)) for field in record.fields]
        self.enums = [(field.name, {None, *field.enum}) for field in record.fields if field.enum]
        self.inner_names = {field.name: {inner.name for inner in field.fields} for field in record.fields}
        names = set(self.inner_names).union(*self.inner_names.values())
        self.quoted = [f'"{name}"'.encode() for name in sorted(names)]

    @cached_property
    def tombstone(self) -> Record:
        """What a tombstone of this reference record looks like when it is written as a line."""
        assert self.record.key, "only reference records have tombstones"
        ids = tuple(self.record.by_name[name] for name in self.record.key)
        at = Field("tombstone_at", Type.TIME, required=True)
        return Record(self.record.name, (*ids, at), self.record.key)


_SHAPES: dict[int, _Shape] = {}


def _shape(record: Record) -> _Shape:
    # By identity: hashing a record hashes all its fields, which takes longer than decoding a row. The shape
    # holds the record, so that its id is not given to another.
    shape = _SHAPES.get(id(record))
    if shape is None:
        shape = _SHAPES[id(record)] = _Shape(record)
    return shape


def decode_row(record: Record, value: bytes | None) -> Row | Rejected:
    """The named fields of one payload, or the reason to reject it.

    A null payload is a tombstone, which only an event record rejects; reference records' tombstones are
    not records and must not come here. Every field of `record` is in the result, null where nothing was
    sent: times as microseconds since 1970 UTC, dates as `datetime.date`, numbers as float.
    """
    if value is None:
        assert record.is_event, "tombstones of reference records are not decoded"
        return Rejected("tombstone")
    if len(value) > MAX_BYTES:
        return Rejected("too_large")
    try:
        # orjson is strict where the contract is: UTF-8 without BOM, no lone surrogates, no NaN, no number
        # beyond a double, no more than 1024 levels. tests/test_rows.py holds it to that.
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return Rejected("not_json")
    if not isinstance(parsed, dict):
        return Rejected("not_object")
    shape = _shape(record)
    twice = repeated_fields(record, value)
    for name in shape.required:
        if name not in twice and _is_null(parsed.get(name)):
            return Rejected(f"missing:{name}")
    row: Row = {}
    for name, convert in shape.converts:
        sent = parsed.get(name)
        converted = _WRONG if name in twice else None if _is_null(sent) else convert(sent)
        if converted is _WRONG:
            return Rejected(f"type:{name}")
        row[name] = converted
    for name, known in shape.enums:
        if row[name] not in known:
            return Rejected(f"enum:{name}")
    return row


def tombstone_line(record: Record, value: bytes) -> Tombstone | Rejected | None:
    """Read a line of a reference file as a tombstone (contract section 6, `scan`).

    None where it is not one, that is where its names are not exactly the id fields and `tombstone_at`;
    rejected where the names are right and a value is not.
    """
    if b"tombstone_at" not in value and b"\\" not in value:
        return None
    shape = _shape(record).tombstone
    try:
        parsed = orjson.loads(value) if len(value) <= MAX_BYTES else None
    except orjson.JSONDecodeError:
        return None
    if not isinstance(parsed, dict) or parsed.keys() != shape.by_name.keys():
        return None
    row = decode_row(shape, value)
    if isinstance(row, Rejected):
        return row
    at = row["tombstone_at"]
    assert isinstance(at, int)
    return Tombstone(tuple(str(row[name]) for name in record.key), at)


def _is_null(value: object) -> bool:
    return value is None or value == ""


def _convert(field: Field) -> Convert:
    """The converter of a field's type."""
    match field.type:
        case Type.STRING:
            return _string
        case Type.INT:
            lowest = _INT64.start if field.minimum is None else field.minimum
            return lambda value: _int(value, lowest)
        case Type.NUMBER:
            return _number
        case Type.BOOL:
            return lambda value: value if isinstance(value, bool) else _WRONG
        case Type.TIME:
            return lambda value: _parsed(parse_time, value)
        case Type.DATE:
            return lambda value: _parsed(parse_date, value)
        case Type.STRINGS:
            return _strings
        case Type.OBJECTS:
            converts = [(inner.name, _convert(inner)) for inner in field.fields]
            return lambda value: _objects(converts, value)


def _string(value: object) -> object:
    return value if isinstance(value, str) else _WRONG


def _int(value: object, lowest: int) -> object:
    # type() and not isinstance(): a bool is an int in Python, and not in the contract
    return value if type(value) is int and lowest <= value < _INT64.stop else _WRONG


def _number(value: object) -> object:
    # + 0.0 makes -0.0 and the integer -0 the same plain zero
    return float(value) + 0.0 if type(value) is int or type(value) is float else _WRONG


def _parsed(parse: Callable[[str], object], value: object) -> object:
    parsed = parse(value) if isinstance(value, str) else None
    return _WRONG if parsed is None else parsed


def _strings(value: object) -> object:
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else _WRONG


def _objects(converts: list[tuple[str, Convert]], value: object) -> object:
    if not isinstance(value, list):
        return _WRONG
    items: list[Row] = []
    for item in value:
        if not isinstance(item, dict):
            return _WRONG
        converted: Row = {}
        for name, convert in converts:
            sent = item.get(name)
            converted[name] = None if _is_null(sent) else convert(sent)
        if any(inner is _WRONG for inner in converted.values()):
            return _WRONG
        items.append(converted)
    return items


_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}:]', re.DOTALL)


def repeated_fields(record: Record, value: bytes) -> set[str]:
    """The named fields that occur twice in the object, or twice in an item of their list of objects.

    `value` must be valid JSON. JSON parsers keep the last of two equal names without a word, so this walks
    the tokens: strings, brackets and colons; what stands between them does not matter. Names are compared
    after their escapes are resolved.
    """
    shape = _shape(record)
    if b"\\" not in value and all(value.count(name) < 2 for name in shape.quoted):
        return set()
    inner_names = shape.inner_names
    twice: set[str] = set()
    seen: set[str] = set()
    seen_in_item: set[str] = set()
    brackets: list[bytes] = []
    outer, string = "", b""
    for token in _TOKEN.finditer(value):
        text = token[0]
        if text == b":":
            if len(brackets) == 1:
                outer = _unquote(string)
                if outer in seen and outer in inner_names:
                    twice.add(outer)
                seen.add(outer)
            elif len(brackets) == 3 and brackets[1] == b"[" and inner_names.get(outer):
                inner = _unquote(string)
                if inner in seen_in_item and inner in inner_names[outer]:
                    twice.add(outer)
                seen_in_item.add(inner)
        elif text in b"[{":
            brackets.append(text)
            if len(brackets) == 3:
                seen_in_item.clear()
        elif text in b"]}":
            brackets.pop()
        else:
            string = text
    return twice


def _unquote(string: bytes) -> str:
    """The name that a JSON string token spells."""
    return str(orjson.loads(string)) if b"\\" in string else string[1:-1].decode()

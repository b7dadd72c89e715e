"""One payload: bytes to a decoded record or the reason why not (contract, *Values* and section 1)."""

import datetime
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.plain.tables import Column

MEBIBYTE = 1024 * 1024
DEEPEST = 1024
EPOCH = datetime.datetime(1970, 1, 1)
TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
    r"[T ]"
    r"([0-9]{2})(?::([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,9}))?)?)?"
    r"(?:(Z)|([+-])([0-9]{2})(?::?([0-9]{2}))?)"
)
DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")


@dataclass(frozen=True)
class Reason:
    """Why a record was rejected."""

    text: str


class NotJsonError(Exception):
    """The payload is not the JSON that the contract asks for."""


class WrongTypeError(Exception):
    """A value is not of its field's type."""


class Pairs:
    """A JSON object as the pairs it was written with: a name may occur twice."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        self.pairs = list(pairs)

    def all(self, name: str) -> list[Any]:
        return [value for key, value in self.pairs if key == name]

    def names(self) -> set[str]:
        return {key for key, _ in self.pairs}


def parse(payload: bytes) -> Any:
    """The JSON value of a payload, objects as `Pairs`; raises `NotJsonError`."""
    try:
        text = payload.decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise NotJsonError from None
    if depth(text) > DEEPEST:
        raise NotJsonError
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        value = json.loads(
            text,
            object_pairs_hook=Pairs,
            parse_constant=_no_constant,
            parse_float=_float,
            parse_int=_int,
        )
        if not sound(value):
            raise NotJsonError
    except ValueError:  # JSONDecodeError is one; a byte order mark too
        raise NotJsonError from None
    finally:
        sys.setrecursionlimit(limit)
    return value


def depth(text: str) -> int:
    """How deep brackets outside strings nest."""
    deepest = now = 0
    in_string = escaped = False
    for character in text:
        if in_string:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                in_string = False
        elif character == '"':
            in_string = True
        elif character in "[{":
            now += 1
            deepest = max(deepest, now)
        elif character in "]}":
            now -= 1
    return deepest


def _no_constant(name: str) -> Any:
    raise NotJsonError


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise NotJsonError
    return value


def _int(text: str) -> int:
    value = _float(text)  # a number beyond a double, whatever it is for
    return int(text) if len(text) < 400 else int(value)


def sound(value: Any) -> bool:
    """No lone surrogate anywhere, names included."""
    if isinstance(value, str):
        return not any(0xD800 <= ord(character) <= 0xDFFF for character in value)
    if isinstance(value, list):
        return all(sound(item) for item in value)
    if isinstance(value, Pairs):
        return all(sound(name) and sound(item) for name, item in value.pairs)
    return True


def decode(columns: Sequence[Column], payload: bytes) -> dict[str, Any] | Reason:
    """The named fields as decoded, or the first reason in the contract's order.

    Times are microseconds since 1970 (UTC), dates `datetime.date`, lists of objects lists of dictionaries.
    """
    if len(payload) > MEBIBYTE:
        return Reason("too_large")
    try:
        value = parse(payload)
    except NotJsonError:
        return Reason("not_json")
    if not isinstance(value, Pairs):
        return Reason("not_object")
    return decode_object(columns, value)


def decode_object(columns: Sequence[Column], pairs: Pairs) -> dict[str, Any] | Reason:
    """Missing fields first, then wrong types, then enums; each in the order of the tables."""
    for column in columns:
        sent = pairs.all(column.name)
        if column.required and (not sent or (len(sent) == 1 and is_null(sent[0]))):
            return Reason(f"missing:{column.name}")
    decoded = {}
    for column in columns:
        try:
            decoded[column.name] = field(column, pairs)
        except WrongTypeError:
            return Reason(f"type:{column.name}")
    for column in columns:
        value = decoded[column.name]
        if column.enum is not None and value is not None and value not in column.enum:
            return Reason(f"enum:{column.name}")
    return decoded


def is_null(value: Any) -> bool:
    return value is None or value == ""


def field(column: Column, pairs: Pairs) -> Any:
    """One field's decoded value, None where null; raises `WrongTypeError`."""
    sent = pairs.all(column.name)
    if len(sent) > 1:
        raise WrongTypeError
    if not sent or is_null(sent[0]):
        return None
    return convert(column, sent[0])


def convert(column: Column, value: Any) -> Any:
    """A value that is not null, by its field's type."""
    match column.kind:
        case "string":
            return text(value)
        case "bool":
            if not isinstance(value, bool):
                raise WrongTypeError
            return value
        case "int":
            return whole(value, column.least)
        case "number":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise WrongTypeError
            return float(value)
        case "time":
            return time(text(value))
        case "date":
            return date(text(value))
        case "strings":
            return [text(item) for item in items(value)]
        case "objects":
            return [_object(column, item) for item in items(value)]
    raise AssertionError(column.kind)


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise WrongTypeError
    return value


def items(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise WrongTypeError
    return value


def _object(column: Column, value: Any) -> dict[str, Any]:
    if not isinstance(value, Pairs):
        raise WrongTypeError
    return {inner.name: field(inner, value) for inner in column.inner}


def whole(value: Any, least: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise WrongTypeError
    if not -(2**63) <= value < 2**63 or (least is not None and value < least):
        raise WrongTypeError
    return value


def time(value: str) -> int:
    """Microseconds since 1970-01-01T00:00:00Z of a time as the contract writes it."""
    found = TIME.fullmatch(value)
    if found is None:
        raise WrongTypeError
    year, month, day, hour, minute, second, fraction, _, sign, off_hour, off_minute = found.groups()
    try:  # hours to 23, minutes and seconds to 59, and days that exist: as datetime has it
        local = datetime.datetime(
            int(year), int(month), int(day), int(hour), int(minute or 0), int(second or 0)
        )
    except ValueError:
        raise WrongTypeError from None
    offset = datetime.timedelta()
    if sign:
        if int(off_hour) > 23 or int(off_minute or 0) > 59:
            raise WrongTypeError
        offset = datetime.timedelta(hours=int(off_hour), minutes=int(off_minute or 0))
    try:
        utc = local + offset if sign == "-" else local - offset
    except OverflowError:
        raise WrongTypeError from None
    if not 1970 <= utc.year <= 9999:
        raise WrongTypeError
    return (utc - EPOCH) // datetime.timedelta(microseconds=1) + int(((fraction or "") + "000000")[:6])


def date(value: str) -> datetime.date:
    found = DATE.fullmatch(value)
    if found is None:
        raise WrongTypeError
    try:
        return datetime.date(*(int(part) for part in found.groups()))
    except ValueError:
        raise WrongTypeError from None

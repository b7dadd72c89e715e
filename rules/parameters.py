"""Typed parameters of a rule: literals of its SQL, with a unit that people read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import SekishoError

Value = int | float | str | bool | tuple[str, ...]

_SECONDS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86_400}
_PYTHON: dict[str, tuple[type, ...]] = {
    "duration": (int,),
    "int": (int,),
    "number": (int, float),
    "text": (str,),
    "texts": (list,),
}
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Parameter:
    """One `[parameters.<name>]` table. Only a duration must have a unit: seconds, minutes, hours or days."""

    name: str
    type: str
    value: Value
    unit: str | None

    @property
    def sql(self) -> str:
        """The literal that replaces `$name`; a duration is an interval of exactly that many seconds."""
        if self.type == "duration":
            assert isinstance(self.value, int) and self.unit is not None
            return f"INTERVAL {self.value * _SECONDS[self.unit]} SECOND"
        if isinstance(self.value, tuple):
            return f"CAST([{', '.join(map(quote, self.value))}] AS VARCHAR[])"
        return quote(self.value) if isinstance(self.value, str) else repr(self.value)

    @property
    def text(self) -> str:
        """The value as a message shows it."""
        value = ", ".join(self.value) if isinstance(self.value, tuple) else str(self.value)
        return f"{value} {self.unit}" if self.unit else value


def quote(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def read_parameter(name: str, table: object, where: str) -> Parameter:
    """One parameter from its TOML table.

    Raises:
        SekishoError: its type, value or unit cannot be used.
    """
    place = f"{where}: parameter {name}"
    if not isinstance(table, Mapping) or not set(table) <= {"type", "value", "unit"}:
        raise SekishoError(f"{place} must be a table of type, value and unit; correct it")
    if not _NAME.fullmatch(name):
        raise SekishoError(f"{place} must be named in lower case, digits and underscores; rename it")
    kind, unit = str(table.get("type")), table.get("unit")
    value: Any = table.get("value")
    if kind not in _PYTHON:
        raise SekishoError(f"{place}: type must be one of {', '.join(_PYTHON)}")
    if type(value) not in _PYTHON[kind] or (kind == "duration" and value < 0):
        raise SekishoError(f"{place}: value is not a {kind}; correct it")
    if unit is not None and not isinstance(unit, str):
        raise SekishoError(f"{place}: unit must be a text")
    if kind == "duration" and unit not in _SECONDS:
        raise SekishoError(f"{place}: the unit of a duration is one of {', '.join(_SECONDS)}")
    if kind == "texts" and not all(isinstance(item, str) for item in value):
        raise SekishoError(f"{place}: value must hold texts only")
    return Parameter(name, kind, tuple(value) if kind == "texts" else value, unit)

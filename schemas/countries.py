"""Country codes as the rules compare them, and the restricted set (`countries.json`).

The set (HQSET in the contract) is Country Group D:5, Macau, and Hong Kong as China. It changes by date, so
every question carries the time it is asked for; `as_of` in the file is the issue date of the country groups.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.resources import files
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from schemas.distinct import map_distinct, map_items

_DATA: dict[str, Any] = json.loads(files("schemas").joinpath("countries.json").read_text("utf-8"))

_ALIASES: dict[str, str] = _DATA["aliases"]


def _midnight(date: str) -> datetime:
    return datetime.fromisoformat(date).replace(tzinfo=UTC)


RESTRICTED: Mapping[str, datetime | None] = MappingProxyType(
    {
        code: _midnight(entry["until"]) if "until" in entry else None
        for code, entry in _DATA["restricted"].items()
    }
)
"""The restricted set: code → the UTC time it leaves the set (not in it any more at that time), or None."""


def country(code: str) -> str:
    """The code in the form in which countries compare: upper case, `HK` as `CN`."""
    upper = code.upper()
    return _ALIASES.get(upper, upper)


def countries(codes: pa.Array) -> pa.StringArray:
    """`country` of a string column; null stays null."""
    return map_distinct(codes, country, pa.string())


def country_lists(lists: pa.ListArray) -> pa.ListArray:
    """`country` of every item of a list column; null lists stay null."""
    return map_items(lists, country, pa.string())


def restricted_rows() -> list[tuple[str, datetime | None]]:
    """The set as rows (code, until as naive UTC), for a table or a literal in rule SQL."""
    return [
        (code, None if until is None else until.replace(tzinfo=None)) for code, until in RESTRICTED.items()
    ]

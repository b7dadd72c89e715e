"""Country codes as the rules compare them, and the restricted set (`countries.json`).

The set (HQSET in the contract) is Country Group D:5, Macau, and Hong Kong as China. It changes by date, so
every question carries the time it is asked for.
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

AS_OF: str = _DATA["as_of"]
"""Issue date of the country groups the set was computed from; refresh it before relying on a later state."""

SOURCES: Mapping[str, str] = MappingProxyType(_DATA["sources"])
"""What each source id cited in `countries.json` says."""

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

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNTIL: dict[str, int | None] = {
    code: None if until is None else round((until - _EPOCH).total_seconds()) * 1_000_000
    for code, until in RESTRICTED.items()
}


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


def is_restricted(code: str | None, t: int) -> bool:
    """Whether the country is in the restricted set at `t` (UTC µs since the epoch); null is in no set."""
    if code is None:
        return False
    normal = country(code)
    if normal not in _UNTIL:
        return False
    until = _UNTIL[normal]
    return until is None or t < until


def restricted_rows() -> list[tuple[str, datetime | None]]:
    """The set as rows (code, until as naive UTC), for a table or a literal in rule SQL."""
    return [
        (code, None if until is None else until.replace(tzinfo=None)) for code, until in RESTRICTED.items()
    ]

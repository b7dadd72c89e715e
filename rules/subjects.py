"""The subject vocabulary of findings (contract section 4), over the joined row and over query results.

A subject is written `name:value` pairs joined by `|`, nothing escaped. A rule lists the names; `site/source`
stands for the first of the two that is not null.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from rules import vocabulary
from rules.parameters import quote
from schemas.errors import SekishoError
from schemas.record import Record

NAMES = frozenset(
    {
        *(
            "party",
            "principal",
            "allocation",
            "event",
            "source",
            "broker",
            "country",
            "authorization",
            "method",
        ),
        *("model", "site", "workload", "serial", "condition", "topic", "reason", "first", "since"),
    }
)
"""Every name the contract knows; those without a row column are for deadline and sweep rules."""

_COLUMN = {
    "principal": "principal",
    "allocation": "allocation_id",
    "source": "source",
    "broker": "broker_id",
    "country": "country",
    "authorization": "authorization_id",
    "method": "method",
    "model": "model",
    "site": "site_id",
    "workload": "workload_id",
}
_ELEMENT = {"serial": ("serials", "serial"), "condition": ("conditions", "condition_id")}
_PARTY = (
    ("party", "party_id"),
    ("party", "party_id_sent"),
    ("principal", "principal"),
    ("allocation", "allocation_id"),
)


_RESULT = {
    **_COLUMN,
    "serial": "serial",
    "first": "first",
    "since": "since",
    "topic": "topic",
    "reason": "reason",
}
"""Subject name → result column of a deadline or sweep rule; `event` needs none."""


class SubjectError(SekishoError):
    """A subject that cannot be written on the stream or level."""


Alternative = tuple[tuple[str, str | None], ...]
"""Pairs of a literal and the column whose value follows it, if any; null where a column is null."""

Part = tuple[Alternative, ...]
"""The first alternative that is not null stands."""


@dataclass(frozen=True)
class Subject:
    """A row rule's subject on one stream and level: parts joined by `|`.

    `columns` are those read of the joined row, `element` those of the serial or condition; all are strings.
    """

    parts: tuple[Part, ...]
    columns: frozenset[str]
    element: frozenset[str]

    @property
    def sql(self) -> str:
        """The subject as a DuckDB expression."""
        return " || '|' || ".join(f"coalesce({', '.join(map(_sql, part))})" for part in self.parts)

    def write(self, columns: Mapping[str, pa.StringArray]) -> pa.StringArray:
        """The subject of each row of the columns that it reads. Never null."""
        parts = [pc.coalesce(*(_written(one, columns) for one in part)) for part in self.parts]
        written = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, "|")
        assert not written.null_count, "a subject is null"
        return written


def _sql(alternative: Alternative) -> str:
    return " || ".join(quote(text) + (f' || "{column}"' if column else "") for text, column in alternative)


def _written(alternative: Alternative, columns: Mapping[str, pa.StringArray]) -> pa.StringArray | pa.Scalar:
    if alternative[0][1] is None:
        return pa.scalar(alternative[0][0])
    pieces = [piece for text, column in alternative for piece in (pa.scalar(text), columns[column or ""])]
    return pc.binary_join_element_wise(*pieces, "")


def translate(subject: tuple[str, ...], record: Record, each: str | None) -> Subject:
    """A rule's subject on one stream and level.

    Raises:
        SubjectError: a name is unknown, or the stream or level has nothing to write for it.
    """
    parts = tuple(_part(name, subject, record, each) for name in subject)
    read = {column for part in parts for one in part for _, column in one if column}
    element = frozenset(column for _, column in _ELEMENT.values()) & read
    return Subject(parts, frozenset(read - element), element)


def columns_of_result(subject: tuple[str, ...]) -> set[str]:
    """The result columns of a deadline or sweep rule that its subject is made of, beside `event`.

    Raises:
        SubjectError: a name is unknown, or not for such rules.
    """
    for name in subject:
        if name not in _RESULT and name != "event":
            known = ", ".join(sorted([*_RESULT, "event"]))
            raise SubjectError(f"subject: {name} is not for deadline and sweep rules; use {known}")
    return {_RESULT[name] for name in subject if name != "event"}


def of_result(subject: tuple[str, ...], names: Sequence[str]) -> str:
    """A never-null VARCHAR expression over the result `found` of a deadline or sweep rule with these columns.

    Raises:
        SubjectError: a name is not for such rules, or its column is not selected.
    """
    missing = columns_of_result(subject) - set(names)
    if missing:
        raise SubjectError(f"subject: the condition does not select {min(missing)}; add it")
    return " || '|' || ".join(_result_part(name, bare="source" in subject) for name in subject)


def _result_part(name: str, bare: bool) -> str:
    if name == "event":
        source = "" if bare else "found.event.source || '/' || "
        return f"'event:' || {source}found.event.event_id"
    value = f'found."{_RESULT[name]}"'
    text = f"strftime({value}, '%Y-%m-%dT%H:%M:%S.%fZ')" if name == "since" else f"CAST({value} AS VARCHAR)"
    return _named(name, text)


def _part(name: str, subject: tuple[str, ...], record: Record, each: str | None) -> Part:
    alternatives = name.split("/")
    unknown = [one for one in alternatives if one not in NAMES]
    if unknown:
        raise SubjectError(f"subject: {unknown[0]} is not a subject name; use {', '.join(sorted(NAMES))}")
    if name == "party":
        return _party(record)
    if name == "event":
        return (_event(bare="source" in subject),)
    if name in _ELEMENT:
        level, column = _ELEMENT[name]
        if each != level:
            raise SubjectError(f'subject: {name} needs each = "{level}"; add it')
        columns = [column]
    else:
        columns = [_column(one, record) for one in alternatives]
    named: Part = tuple(((f"{one}:", column),) for one, column in zip(alternatives, columns, strict=True))
    return (*named, ((f"{alternatives[-1]}:", None),))  # a null value is written empty


def _column(name: str, record: Record) -> str:
    column = _COLUMN.get(name)
    if column is None:
        raise SubjectError(f"subject: {name} is not for row rules; use one that a row has")
    if not vocabulary.has(record, column):
        raise SubjectError(f"subject: stream {record.name} has no {name}; take the stream or the name out")
    return column


def _named(name: str, value: str) -> str:
    """A null value is written empty (contract: a null condition_id)."""
    return f"'{name}:' || coalesce({value}, '')"


def _event(bare: bool) -> Alternative:
    """After `source` in the same subject the event id stands alone."""
    return (("event:", "event_id"),) if bare else (("event:", "source"), ("/", "event_id"))


def _party(record: Record) -> Part:
    """The resolved party, else what was sent, else the account, else the allocation, else the event."""
    assert all(vocabulary.has(record, column) for _, column in _PARTY)
    return (*(((f"{name}:", column),) for name, column in _PARTY), _event(bare=False))

"""The subject vocabulary of findings (contract section 4), as SQL over the joined row.

A subject is written `name:value` pairs joined by `|`, nothing escaped. A rule lists the names; `site/source`
stands for the first of the two that is not null.
"""

from collections.abc import Sequence

from rules import vocabulary
from rules.vocabulary import Expression
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


def translate(subject: tuple[str, ...], record: Record, each: str | None) -> Expression:
    """A never-null VARCHAR expression over the joined row.

    Raises:
        SubjectError: a name is unknown, or the stream or level has nothing to write for it.
    """
    parts = [_part(name, subject, record, each) for name in subject]
    sql = " || '|' || ".join(part.sql for part in parts)
    columns = frozenset[str]().union(*(part.columns for part in parts))
    return Expression(sql, columns, frozenset[str]().union(*(part.element for part in parts)))


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


def _part(name: str, subject: tuple[str, ...], record: Record, each: str | None) -> Expression:
    alternatives = name.split("/")
    unknown = [one for one in alternatives if one not in NAMES]
    if unknown:
        raise SubjectError(f"subject: {unknown[0]} is not a subject name; use {', '.join(sorted(NAMES))}")
    if name == "party":
        return _party(record)
    if name in _ELEMENT:
        level, column = _ELEMENT[name]
        if each != level:
            raise SubjectError(f'subject: {name} needs each = "{level}"; add it')
        return Expression(_named(name, f'"{column}"'), frozenset(), frozenset({column}))
    if name == "event":
        return _event(bare="source" in subject)
    columns = [_column(one, record) for one in alternatives]
    named = [f"'{one}:' || \"{column}\"" for one, column in zip(alternatives, columns, strict=True)]
    return Expression(f"coalesce({', '.join(named)}, '{alternatives[-1]}:')", frozenset(columns), frozenset())


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


def _event(bare: bool) -> Expression:
    """After `source` in the same subject the event id stands alone."""
    if bare:
        return Expression("'event:' || \"event_id\"", frozenset({"event_id"}), frozenset())
    return Expression(
        "'event:' || \"source\" || '/' || \"event_id\"", frozenset({"source", "event_id"}), frozenset()
    )


def _party(record: Record) -> Expression:
    """The resolved party, else what was sent, else the account, else the allocation, else the event."""
    event = _event(bare=False)
    assert all(vocabulary.has(record, column) for _, column in _PARTY)
    named = [f"'{name}:' || \"{column}\"" for name, column in _PARTY]
    columns = event.columns | {column for _, column in _PARTY}
    return Expression(f"coalesce({', '.join([*named, event.sql])})", columns, frozenset())

"""The names that rule SQL may use, and its translation to the columns of the joined row.

A condition is one boolean DuckDB expression over one joined row (contract sections 3 and 4). It sees names,
not tables: event fields, what joining adds, the versions in force (`P.status`, `A.site_ids`, `S.country`,
`X.sku`), its parameters (`$max_age`), the macros below and DuckDB's pure functions. Everything else is
refused when the rule is read, so that a misspelt field is an error and not a rule that never fires.

Models and countries have only their comparable forms here (`sku`, `country`, `A.skus`, `X.sku`), and event
time only as `t`: comparing what was sent would break contract sections 3.3 and 3.4.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rules.parameters import Parameter, quote
from schemas.countries import restricted_rows
from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.record import Record, Type
from schemas.reference import ASSET, AUTHORIZATION, PARTY, SITE

EACH = ("serials", "conditions")
"""What a rule may go through one by one; each firing element makes its own subject."""


def _restricted() -> str:
    """list_contains, since IN over two dozen countries takes DuckDB twice as long."""
    rows = sorted(restricted_rows())
    always = ", ".join(quote(code) for code, until in rows if until is None)
    left = [(code, until.isoformat(sep=" ")) for code, until in rows if until is not None]
    parts = [f"list_contains([{always}], country)"]
    parts += [f"(country = {quote(code)} AND moment < TIMESTAMP {quote(until)})" for code, until in left]
    return f"(country, moment) AS ({' OR '.join(parts)})"


MACROS: Mapping[str, str] = {
    "restricted": _restricted(),
    # DuckDB holds that an empty list does not contain null, so null must be asked for.
    "outside": "(allowed, value) AS (value IS NOT NULL AND NOT list_contains(allowed, value))",
}
"""Name → parameters and body, as CREATE MACRO takes them. `restricted`: is the country in the restricted set
at that time? `outside`: does a list that limits not hold the value? A null list does not limit, and a null
value is outside no list, not even an empty one."""

_SQL_TYPE = {
    Type.STRING: "VARCHAR",
    Type.INT: "BIGINT",
    Type.NUMBER: "DOUBLE",
    Type.BOOL: "BOOLEAN",
    Type.TIME: "TIMESTAMP",
    Type.DATE: "DATE",
    Type.STRINGS: "VARCHAR[]",
}


def _scalars(record: Record, *without: str) -> dict[str, str]:
    return {f.name: _SQL_TYPE[f.type] for f in record.fields if f.type in _SQL_TYPE and f.name not in without}


_AS_SENT = ("occurred_at", "source_country", "model", "models")

_DERIVED: Mapping[str, tuple[str, str]] = {
    "t": ("TIMESTAMP", "occurred_at"),
    "broker_time": ("TIMESTAMP", "occurred_at"),
    "future": ("BOOLEAN", "occurred_at"),
    "parties": ("BIGINT", "party_id"),
    "party_id_sent": ("VARCHAR", "party_id"),
    "party_version": ("BIGINT", "party_id"),
    "authorization_version": ("BIGINT", "authorization_id"),
    "site_version": ("BIGINT", "site_id"),
    "sku": ("VARCHAR", "model"),
    "sku_unknown": ("BOOLEAN", "model"),
    "controlled": ("BOOLEAN", "model"),
    "country": ("VARCHAR", "source_country"),
}
"""What joining adds: type, and the field without which a stream has it null."""

_EVENT: Mapping[str, str] = {
    **{name: kind for record in EVENTS.values() for name, kind in _scalars(record, *_AS_SENT).items()},
    **{name: kind for name, (kind, _) in _DERIVED.items()},
}

REFERENCES: Mapping[str, Mapping[str, str]] = {
    "P": _scalars(PARTY),
    "A": {**_scalars(AUTHORIZATION, *_AS_SENT), "skus": "VARCHAR[]"},
    "S": _scalars(SITE),
    "X": {**_scalars(ASSET, *_AS_SENT), "sku": "VARCHAR"},
}
"""Prefix → column → type of the versions in force; null where there is none."""

_ELEMENT: Mapping[str, Mapping[str, str]] = {
    "serials": {"serial": "VARCHAR"},
    "conditions": {"condition_id": "VARCHAR", "due_at": "TIMESTAMP", "met_at": "TIMESTAMP"},
}

_KEYWORDS = frozenset(
    {
        *("and", "or", "not", "is", "null", "true", "false", "in", "between", "like", "distinct", "from"),
        *("case", "when", "then", "else", "end", "cast", "as"),
        *("interval", "second", "minute", "hour", "day", "date", "timestamp"),
        *("varchar", "bigint", "double", "boolean"),
    }
)

_TOKEN = re.compile(
    r"(?P<space>(?:\s|--[^\n]*(?:\n|$))+)"
    r"|(?P<string>'(?:[^']|'')*')"
    r"|(?P<parameter>\$[A-Za-z_]\w*)"
    r"|(?P<reference>[A-Z]\w*\s*\.\s*[A-Za-z_]\w*)"
    r"|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<number>\d+(?:\.\d+)?)"
    r"|(?P<dot>\.)"
    r"|(?P<operator><=|>=|<>|!=|\|\||::|[-+*/%<>=(),\[\]])"
)


class ConditionError(SekishoError):
    """A condition that uses what rule SQL does not have."""


@dataclass(frozen=True)
class Expression:
    """SQL over the columns of one level's batch.

    Every second of `parts` is a call of a macro, the others are what stands around these. `columns` are those
    read of the joined row, `element` those of the serial or condition.
    """

    parts: tuple[str, ...]
    columns: frozenset[str]
    element: frozenset[str]

    @property
    def sql(self) -> str:
        return "".join(self.parts)

    @property
    def calls(self) -> tuple[str, ...]:
        """The calls of macros, of nested ones the outer."""
        return self.parts[1::2]

    def sql_with(self, names: Mapping[str, str]) -> str:
        """The SQL, with the names of those calls that have one instead of these."""
        return "".join(
            names.get(part, part) if number % 2 else part for number, part in enumerate(self.parts)
        )


def tokens(condition: str) -> Iterator[tuple[str, str]]:
    """(class, text) of every token of a condition.

    Raises:
        ConditionError: something that no expression of a rule may hold, e.g. a semicolon or a quoted name.
    """
    at = 0
    while at < len(condition):
        match = _TOKEN.match(condition, at)
        if match is None:
            raise ConditionError(
                f"condition: {condition[at : at + 20]!r} cannot be part of a rule's SQL; remove it"
            )
        assert match.lastgroup is not None
        yield match.lastgroup, match.group()
        at = match.end()


def canonical(condition: str) -> str:
    """The condition without comments and with single spaces: two layouts of one condition are one logic."""
    return "".join(" " if kind == "space" else text for kind, text in tokens(condition)).strip()


def functions_used(condition: str) -> list[str]:
    """Names of the functions and macros that the condition calls, sorted."""
    words = [token for token in tokens(condition) if token[0] != "space"]
    following = [*words[1:], ("end", "")]
    calls = {
        word
        for (kind, word), (_, after) in zip(words, following, strict=True)
        if kind == "word" and after == "(" and word.lower() not in _KEYWORDS
    }
    return sorted(calls)


def macros_used(condition: str) -> list[str]:
    """Names of the macros that the condition calls, sorted."""
    return [name for name in functions_used(condition) if name in MACROS]


def create_macros() -> list[str]:
    """Statements that define the macros in a DuckDB connection."""
    return [f"CREATE OR REPLACE MACRO {name}{body}" for name, body in MACROS.items()]


def has(record: Record, column: str) -> bool:
    """Whether the joined row of the stream can hold anything else than null in the column."""
    base = _DERIVED[column][1] if column in _DERIVED else column
    return base in record.by_name


def translate(
    condition: str,
    record: Record,
    each: str | None = None,
    parameters: Sequence[Parameter] = (),
    completed: bool = False,
) -> Expression:
    """The condition as SQL over one stream's batch: a row level batch, or one of `each`.

    References become columns named like `"P.status"`, parameters literals, `stream` and `completed`
    constants, and fields that the stream lacks nulls of their type. `completed` tells whether what an event
    lacks has been looked up through its allocation (contract section 3.2).

    Raises:
        ConditionError: a name is unknown, or belongs to a level that the rule is not on.
    """
    constants = {"stream": quote(record.name), "completed": str(completed).lower()}
    literals = {parameter.name: parameter.sql for parameter in parameters}
    calls = frozenset(functions_used(condition))
    inner = _ELEMENT[each] if each else {}
    columns: set[str] = set()
    element: set[str] = set()
    out: list[str] = []
    words = list(tokens(canonical(condition)))
    for kind, text in words:
        if kind == "space":
            out.append(" ")
        elif kind == "parameter":
            if text[1:] not in literals:
                raise ConditionError(
                    f"condition: {text} is no parameter of the rule; declare it or correct the name"
                )
            out.append(f"({literals[text[1:]]})")
        elif kind == "reference":
            name = _reference(text, each)
            (element if name.startswith("X.") else columns).add(name)
            out.append(f'"{name}"')
        elif kind == "dot":
            raise ConditionError(
                "condition: a row rule has no names with a dot but P., A., S. and X.; correct it"
            )
        elif kind != "word" or text.lower() in _KEYWORDS:
            out.append(text)
        elif text in constants:
            out.append(constants[text])
        elif text in inner:
            element.add(text)
            out.append(f'"{text}"')
        elif text in _EVENT:
            out.append(f'"{text}"' if has(record, text) else f"CAST(NULL AS {_EVENT[text]})")
            columns.update({text} if has(record, text) else ())
        elif text in calls:
            out.append(text)
        else:
            raise ConditionError(
                f"condition: {text} is no field of a joined row; correct it (docs/writing-a-rule.md)"
            )
    return Expression(_parts(words, out), frozenset(columns), frozenset(element))


def _parts(words: Sequence[tuple[str, str]], out: Sequence[str]) -> tuple[str, ...]:
    """What the tokens have become, cut around the calls of macros."""
    parts, depth = [""], 0
    for (kind, text), sql in zip(words, out, strict=True):
        if len(parts) % 2 and kind == "word" and text in MACROS:
            parts.append("")
        parts[-1] += sql
        if len(parts) % 2 == 0:
            depth += (text == "(") - (text == ")")
            if text == ")" and depth == 0:
                parts.append("")
    return tuple(parts)


def _reference(text: str, each: str | None) -> str:
    prefix, name = (part.strip() for part in text.split("."))
    if name not in REFERENCES.get(prefix, {}):
        raise ConditionError(f"condition: {text} is no column of a version in force; correct it")
    if prefix == "X" and each != "serials":
        raise ConditionError(f'condition: {text} needs each = "serials"; add it')
    return f"{prefix}.{name}"


def column_types(record: Record, each: str | None = None) -> dict[str, str]:
    """Every column that a condition on the stream and level can see, with its DuckDB type."""
    types = {name: kind for name, kind in _EVENT.items() if has(record, name)}
    types |= {f"{p}.{n}": kind for p in "PAS" for n, kind in REFERENCES[p].items()}
    if each:
        types |= _ELEMENT[each]
    if each == "serials":
        types |= {f"X.{name}": kind for name, kind in REFERENCES["X"].items()}
    return types

"""The corpus checks behind `sekisho rules lint`: what must hold of every rule file before it is merged."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb

from rules import query, suppressions, vocabulary
from rules.citations import Citation, load_citations
from rules.judge import connect, is_judged, translate
from rules.lock import PATH, Pin, check, read_lock
from rules.query import is_query
from rules.rule import ROOT, Rule, Severity, load, paths
from schemas.errors import SekishoError
from schemas.events import EVENTS

LINKS = ("identity", "access", "location", "authorization", "procurement", "source")
_UNFIT = {"gap": (Severity.CRITICAL,), "flag": (Severity.INFO, Severity.LOW)}
_VERDICT_OF_LAW = re.compile(r"\b(violat|illegal|unlawful|offence|offense|guilty)", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Problem:
    """One defect and where it is."""

    path: Path
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def lint(root: Path = ROOT, today: date = date.min) -> list[Problem]:
    """Every defect of the rules under `root`, its lock and its suppressions; empty if all is sound.

    Timelines are not run. A suppression that has expired before `today` (UTC) is a defect. Raises UsageError:
    there are no rules.
    """
    known = load_citations(root)
    lock = root / PATH.name
    problems: list[Problem] = []
    rules: list[Rule] = []
    for path in paths(root):
        try:
            rules.append(load(path))
        except SekishoError as error:
            problems.append(Problem(path, str(error).removeprefix(f"{path}: ")))
    connection = connect()
    for rule in rules:
        problems += [Problem(rule.path, text) for text in _rule(rule, known, connection)]
    problems += _repeated(rules)
    ids = {rule.id for rule in rules}
    problems += [Problem(path, text) for path, text in suppressions.problems(root, ids, today)]
    if not problems:  # a lock says nothing of rules that cannot be read
        problems += _lock(rules, read_lock(lock), lock)
    return problems


def _rule(
    rule: Rule, citations: Mapping[str, Citation], connection: duckdb.DuckDBPyConnection
) -> Iterator[str]:
    yield from _place(rule)
    yield from _words(rule)
    for citation in rule.citations:
        if citation not in citations:
            yield f"citation {citation} is not in citations.toml; add it with text, mark and source"
    if rule.severity in _UNFIT[rule.finding_kind]:
        limits = "a flag is at least medium, a gap at most high"
        yield f"severity {rule.severity} does not fit a {rule.finding_kind}; {limits}"
    if rule.in_force.enforced and not rule.in_force.codified:
        yield "in_force: what is not codified cannot be enforced; correct one of the two"
    if rule.in_force.from_ and rule.in_force.to and rule.in_force.to < rule.in_force.from_:
        yield "in_force: to is before from; correct them"
    yield from _tests(rule)
    if is_judged(rule):
        yield from _condition(rule, connection)
    elif is_query(rule):
        yield from _query(rule)


def _place(rule: Rule) -> Iterator[str]:
    expected = f"{rule.link}/{rule.id}.toml"
    if f"{rule.path.parent.name}/{rule.path.name}" != expected:
        yield f"a rule with the id {rule.id} belongs into {expected}; move the file or correct the id"
    if rule.link not in LINKS:
        yield f"link {rule.link} is none of {', '.join(LINKS)}; correct the id"


def _words(rule: Rule) -> Iterator[str]:
    """A finding is a question for people; and a message names nothing that does not exist."""
    for field in ("title", "message", "what_to_do"):
        if _VERDICT_OF_LAW.search(getattr(rule, field)):
            yield f"{field} passes a verdict of law; say what was found, not what it amounts to"
    names = set(_PLACEHOLDER.findall(rule.message))
    unknown = names - {"subject"} - {parameter.name for parameter in rule.parameters}
    if unknown:
        yield f"message: {{{min(unknown)}}} is neither subject nor a parameter; correct it"
    if "subject" not in names:
        yield "message does not name its {subject}; add it"
    for parameter in rule.parameters:
        if ("parameter", f"${parameter.name}") not in _tokens(rule.condition):
            yield f"parameter {parameter.name} is not used in the condition; use it or take it out"


def _tokens(condition: str) -> set[tuple[str, str]]:
    try:
        return set(vocabulary.tokens(condition))
    except SekishoError:
        return set()  # reported with the condition


def _tests(rule: Rule) -> Iterator[str]:
    fires = [any(line.split(" ", 1)[0] == rule.id for line in test.fires) for test in rule.tests]
    if not any(fires):
        yield "has no test in which it fires; add one"
    if all(fires):
        yield "has no test in which it stays silent; add one"
    names = [test.name for test in rule.tests]
    if len(set(names)) < len(names):
        yield "has two tests of one name; rename one"


def _query(rule: Rule) -> Iterator[str]:
    """Deadline and sweep rules: the SELECT, and what it does with nulls and with the ends of every type."""
    try:
        query.check(rule)
    except SekishoError as error:
        yield str(error).removeprefix(f"{rule.path}: ")


def _condition(rule: Rule, connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    try:
        impure = _impure(rule.condition, connection)
        if impure:
            yield f"condition: {impure[0]}() is unknown or depends on more than the row; take it out"
            return
        for record in EVENTS.values():
            if record.name in rule.streams:
                condition, subject = translate(rule, record)
                _try(connection, vocabulary.column_types(record, rule.each), condition.sql, subject.sql)
    except SekishoError as error:
        yield str(error).removeprefix(f"{rule.path}: ")
    except duckdb.Error as error:
        yield f"condition: DuckDB refuses it ({str(error).splitlines()[0]}); correct it"


def _impure(condition: str, connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Functions that are unknown, aggregate, or give different answers to the same row."""
    pure = connection.execute(
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions()"
        " WHERE function_type = 'macro' OR (function_type = 'scalar' AND stability = 'CONSISTENT')"
    ).fetchall()
    known = {name for (name,) in pure}
    return [name for name in vocabulary.functions_used(condition) if name.lower() not in known]


_EXTREMES = {
    "VARCHAR": ("''", "'x'", "'関所'", "'-9223372036854775808'", "chr(0)"),
    "BIGINT": ("0", "-9223372036854775808", "9223372036854775807"),
    "DOUBLE": ("0.0", "1.7e308", "-1.7e308"),
    "BOOLEAN": ("true", "false"),
    "TIMESTAMP": ("TIMESTAMP '1970-01-01'", "TIMESTAMP '9999-12-31 23:59:59.999999'"),
    "DATE": ("DATE '0001-01-01'", "DATE '9999-12-31'"),
    "VARCHAR[]": ("CAST([] AS VARCHAR[])", "['']", "['x', 'x']"),
}


def _try(
    connection: duckdb.DuckDBPyConnection, types: Mapping[str, str], condition: str, subject: str
) -> None:
    """Runs both expressions over nulls and the ends of every type: what overflows there stops a worker."""
    types = {**types, "model": "VARCHAR"}  # subjects have it as sent
    depth = max(len(values) for values in _EXTREMES.values())
    rows = []
    for number in range(depth + 1):
        values = {
            kind: ends[number % len(ends)] if number < depth else "NULL" for kind, ends in _EXTREMES.items()
        }
        cells = [f'CAST({values[kind]} AS {kind}) AS "{name}"' for name, kind in types.items()]
        rows.append(f"SELECT {', '.join(cells)}")
    sql = f"SELECT ({condition}) IS TRUE, typeof({condition}), {subject} FROM ({' UNION ALL '.join(rows)})"  # noqa: S608
    kinds = {kind for _, kind, _ in connection.execute(sql).fetchall()}
    if kinds != {"BOOLEAN"}:
        raise vocabulary.ConditionError(f"condition: is of type {min(kinds)}, not BOOLEAN; compare something")


def _repeated(rules: Sequence[Rule]) -> list[Problem]:
    problems = []
    for what in ("id", "title"):
        seen: dict[str, Path] = {}
        for rule in rules:
            first = seen.setdefault(getattr(rule, what), rule.path)
            if first is not rule.path:
                problems.append(Problem(rule.path, f"has the {what} of {first.name}; change one"))
    return problems


def _lock(rules: Sequence[Rule], pins: Mapping[str, Pin], lock: Path) -> list[Problem]:
    by_id = {rule.id: rule.path for rule in rules}
    return [
        Problem(by_id.get(name, lock), f"{name} {drift.text}") for name, drift in check(rules, pins).items()
    ]

"""Makes a deadline or sweep rule one statement over the step's tables; `rules.query_shape` checks it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import duckdb

from rules import subjects, vocabulary
from rules.public_views import CORE, TABLES, VIEWS
from rules.query_shape import Shape, shape
from rules.rule import Kind, Rule, RuleError, Status
from rules.vocabulary import ConditionError


@dataclass(frozen=True)
class Query:
    """A compiled rule. `table` is the step's table of what it judges; where that is empty, nothing fires.

    `sql` gives a row for each firing: rule_id, subject, topic, partition, offset, source, event_id, t, due,
    party_id, allocation_id, confirmed.
    """

    rule: Rule
    table: str
    sql: str


def is_query(rule: Rule) -> bool:
    """Whether the reconciler runs the rule's SELECT: a deadline or sweep rule that is not deprecated."""
    return rule.kind is not Kind.ROW and rule.status is not Status.DEPRECATED


@cache
def compile_rule(rule: Rule) -> Query:
    """The rule as a statement.

    Raises:
        RuleError: the condition or the subject uses what such a rule does not have.
    """
    try:
        sql = _with_parameters(rule)
        read = shape(sql)
        _check_core(rule, read.judged)
        _check_streams(rule, read)
        return Query(rule, VIEWS[read.judged].table, _statement(rule, sql, read))
    except (ConditionError, subjects.SubjectError) as error:
        raise RuleError(f"{rule.path}: {error}") from None


def check(rule: Rule) -> None:
    """Compiles the rule and runs it over rows of nulls and of the ends of every type.

    Raises:
        RuleError: it cannot be compiled, does not fit the views' types, or fails on some value.
    """
    query = compile_rule(rule)
    connection = _laboratory()
    try:
        kinds = {name: str(kind) for name, kind in _described(connection, rule)}
        connection.execute(query.sql).fetchall()
    except duckdb.Error as error:
        line = str(error).splitlines()[0]
        raise RuleError(f"{rule.path}: condition: DuckDB refuses it ({line}); correct it") from None
    if kinds.get("due", "TIMESTAMP") != "TIMESTAMP":
        raise RuleError(
            f"{rule.path}: condition: due is a {kinds['due']}; it must be a time, e.g. t + $window"
        )


def _with_parameters(rule: Rule) -> str:
    """The condition with its parameters as literals, without comments."""
    literals = {parameter.name: parameter.sql for parameter in rule.parameters}
    out: list[str] = []
    for kind, text in vocabulary.tokens(rule.condition):
        if kind == "parameter" and text[1:] not in literals:
            raise ConditionError(
                f"condition: {text} is no parameter of the rule; declare it or correct the name"
            )
        out.append(f"({literals[text[1:]]})" if kind == "parameter" else " " if kind == "space" else text)
    return "".join(out).strip()


def _check_core(rule: Rule, judged: str) -> None:
    """A view that is made for one rule is judged by that rule, and the rule judges nothing else."""
    for view, (core, subject) in CORE.items():
        if (view == judged or core == rule.id) and (view, core, subject) != (judged, rule.id, rule.subject):
            raise ConditionError(
                f"condition: {view} and {core} belong together, with the subject {', '.join(subject)}; "
                "correct the one that differs, or judge another view by a rule of another id"
            )


def _check_streams(rule: Rule, read: Shape) -> None:
    """The file says truly whose events it judges."""
    streams = VIEWS[read.judged].streams
    if set(rule.streams) != set(streams):
        raise ConditionError(f"streams: the condition judges {', '.join(streams)}; list exactly these")
    if rule.each is not None:
        raise ConditionError("each: is for row rules; select from a view that has a row for each")


def _statement(rule: Rule, sql: str, read: Shape) -> str:
    """The rule's SELECT with the views it reads, as a row of `desired` for each firing."""
    subject = subjects.of_result(rule.subject, read.columns)
    spare = set(read.columns) - {"event", "due"} - subjects.columns_of_result(rule.subject)
    if spare:
        raise ConditionError(f"condition: {min(spare)} is selected and not used; take it out")
    place = ", ".join(
        f'found.event."{name}" AS "{name}"'
        for name in ("topic", "partition", "offset", "source", "event_id", "t")
    )
    due = "found.due" if "due" in read.columns else "CAST(NULL AS TIMESTAMP)"
    return (
        f"WITH {_views(read.views)} "  # noqa: S608
        f"SELECT '{rule.id}' AS rule_id, {subject} AS subject, {place}, {due} AS due,"
        " found.event.party_id AS party_id, found.event.allocation_id AS allocation_id,"
        f" found.event.t IS NULL AS confirmed FROM ({sql}) AS found"
    )


def _views(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}" AS ({VIEWS[name].sql})' for name in names)


_EXTREMES: Mapping[str, tuple[str, ...]] = {
    "VARCHAR": ("''", "'x'", "'関所'", "'-9223372036854775808'", "chr(0)"),
    "INTEGER": ("0", "2147483647"),
    "BIGINT": ("0", "-9223372036854775808", "9223372036854775807"),
    "HUGEINT": ("0", "9223372036854775807", "9223372036854775807 * 1000000000::HUGEINT"),
    "BOOLEAN": ("true", "false"),
    "TIMESTAMP": ("TIMESTAMP '1970-01-01'", "TIMESTAMP '9999-12-31 23:59:59.999999'"),
    "VARCHAR[]": ("CAST([] AS VARCHAR[])", "['']", "['x', 'x']"),
}


@cache
def _laboratory() -> duckdb.DuckDBPyConnection:
    """A DuckDB that reaches nothing outside; the step's tables hold nulls and the ends of every type."""
    connection = duckdb.connect(":memory:", config={"threads": "1"})
    for statement in vocabulary.create_macros():
        connection.execute(statement)
    depth = max(len(values) for values in _EXTREMES.values())
    for table, types in TABLES.items():
        rows = []
        for number in range(depth + 1):
            cells = [
                f'CAST({"NULL" if number == depth else ends[number % len(ends)]} AS {kind}) AS "{name}"'
                for name, kind in types.items()
                for ends in [_EXTREMES[kind]]
            ]
            rows.append(f"SELECT {', '.join(cells)}")
        connection.execute(f'CREATE TABLE "{table}" AS {" UNION ALL ".join(rows)}')
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _described(connection: duckdb.DuckDBPyConnection, rule: Rule) -> list[tuple[str, str]]:
    """(name, type) of the rule's result columns."""
    found = connection.execute(f"DESCRIBE WITH {_views(VIEWS)} {_with_parameters(rule)}").fetchall()
    return [(name, kind) for name, kind, *_ in found]

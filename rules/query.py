"""Checks the SELECT of a deadline or sweep rule and makes it one statement over the step's tables.

DuckDB's own parser says what the text means; what it says is then held against a short list of what a rule
may use: one SELECT, one judged view, the context views by allocation, pure functions. So a rule reaches no
file, no other table and no clock, and what it finds of an event does not depend on which events happen to be
judged with it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb
import orjson

from rules import subjects, vocabulary
from rules.public_views import TABLES, VIEWS
from rules.rule import Kind, Rule, RuleError, Status
from rules.vocabulary import ConditionError

Node = dict[str, Any]

_CLASSES = frozenset(
    {
        *("COLUMN_REF", "CONSTANT", "COMPARISON", "CONJUNCTION", "FUNCTION", "OPERATOR", "CASE", "CAST"),
        *("BETWEEN", "SUBQUERY", "TYPE"),
    }
)
_CASTS = frozenset({"VARCHAR", "BIGINT", "HUGEINT", "DOUBLE", "BOOLEAN", "TIMESTAMP", "DATE", "INTERVAL"})
_IMPURE = frozenset({"age"})  # of one argument, it counts from today
_LAYOUT = "write: select event, … from <view> where …"


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


def compile_rule(rule: Rule) -> Query:
    """The rule as a statement.

    Raises:
        RuleError: the condition or the subject uses what such a rule does not have.
    """
    try:
        sql = _with_parameters(rule)
        select = _parsed(sql)
        views = _check_select(select)
        _check_streams(rule, views)
        view = VIEWS[_main(select)]
        names = [_result_name(item) for item in select["select_list"]]
        if not any(
            item["class"] == "COLUMN_REF" and item["column_names"][-1] == "event" == name
            for item, name in zip(select["select_list"], names, strict=True)
        ):
            raise ConditionError("condition: does not select event as it is; add it")
        return Query(rule, view.table, _statement(rule, sql, sorted(views), names))
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


def _parsed(sql: str) -> Node:
    """The one SELECT of the text, as DuckDB's parser reads it."""
    row = _laboratory().execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    assert row is not None
    read = orjson.loads(row[0])
    if read["error"]:
        raise ConditionError(f"condition: is no SELECT ({read['error_message']}); {_LAYOUT}")
    if len(read["statements"]) != 1:
        raise ConditionError("condition: must be one SELECT; take the others out")
    select: Node = read["statements"][0]["node"]
    return select


def _check_select(select: Node) -> set[str]:
    """Refuses what a rule does not have; returns the views that the SELECT reads, its EXISTS included."""
    _check_shape(select)
    main = next(_tables(select["from_table"]))
    name = _view_of(main)
    if VIEWS[name].context:
        raise ConditionError(f"condition: {name} is context and not what is judged; select from another view")
    scope = {_alias(main): name}
    for join in _joins(select["from_table"]):
        scope |= _check_context(join["right"], join["condition"], scope, _alias(main))
    for item in (*select["select_list"], select["where_clause"]):
        _check_expression(item, scope, _alias(main))
    for join in _joins(select["from_table"]):
        _check_expression(join["condition"], scope, _alias(main))
    return {_view_of(table) for table in _all_tables(select)}


def _check_shape(select: Node) -> None:
    """One plain SELECT: what would look at several events at once has no place in a rule."""
    plain = (
        select["type"] == "SELECT_NODE"
        and not select["modifiers"]
        and not select["cte_map"]["map"]
        and not select["group_expressions"]
        and select["aggregate_handling"] == "STANDARD_HANDLING"
        and not (select["having"] or select["sample"] or select["qualify"])
    )
    if not plain:
        raise ConditionError(
            "condition: union, with, distinct, group by, having, qualify, order by, limit and sample look"
            f" at several events at once; {_LAYOUT}"
        )


def _main(select: Node) -> str:
    return _view_of(next(_tables(select["from_table"])))


def _tables(table: Node) -> Iterator[Node]:
    """The tables of a FROM, the judged one first."""
    if table["type"] == "JOIN":
        if table["right"]["type"] == "JOIN":
            raise ConditionError("condition: joins in brackets are not for rules; write them one by one")
        yield from _tables(table["left"])
        yield from _tables(table["right"])
    else:
        yield table


def _joins(table: Node) -> Iterator[Node]:
    if table["type"] == "JOIN":
        yield from _joins(table["left"])
        once = table["ref_type"] == "ASOF" or table["join_type"] in ("SEMI", "ANTI")
        if not once or table["join_type"] not in ("INNER", "LEFT", "SEMI", "ANTI") or not table["condition"]:
            raise ConditionError(
                "condition: a join must leave each event at most once; use asof, semi or anti join … on"
            )
        yield table


def _all_tables(value: object) -> Iterator[Node]:
    """Every table named anywhere below, whatever holds it."""
    if isinstance(value, dict):
        if value.get("type") == "BASE_TABLE":
            yield value
        for inner in value.values():
            yield from _all_tables(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _all_tables(inner)


def _view_of(table: Node) -> str:
    """The public view that a FROM item names."""
    name = table.get("table_name", "")
    plain = table["type"] == "BASE_TABLE" and not (
        table["schema_name"] or table["catalog_name"] or table["at_clause"] or table["column_name_alias"]
    )
    if not plain or table["sample"] or name not in VIEWS:
        raise ConditionError(
            f"condition: {name or table['type'].lower()} is no view of the reconciler; use {_listed()}"
        )
    return str(name)


def _listed() -> str:
    return ", ".join(sorted(VIEWS))


def _alias(table: Node) -> str:
    return str(table["alias"] or table["table_name"])


def _check_context(table: Node, on: object, scope: Mapping[str, str], main: str) -> dict[str, str]:
    """One context view, held against the judged one by allocation; returns its alias → view."""
    name, alias = _view_of(table), _alias(table)
    if not VIEWS[name].context:
        raise ConditionError(f"condition: {name} is judged itself; only placed and released can be joined")
    if alias in scope:
        raise ConditionError(f"condition: {alias} occurs twice; give one of them another name")
    wanted = ([alias, "allocation_id"], [main, "allocation_id"])
    for part in _conjuncts(on):
        if part["type"] == "COMPARE_EQUAL":
            sides = [part["left"].get("column_names"), part["right"].get("column_names")]
            if sides[0] != sides[1] and all(side in wanted for side in sides):
                return {alias: name}
    raise ConditionError(
        f"condition: {alias} must be met by allocation; add {alias}.allocation_id = {main}.allocation_id"
    )


def _conjuncts(condition: Any) -> Iterator[Node]:
    if condition and condition["type"] == "CONJUNCTION_AND":
        for child in condition["children"]:
            yield from _conjuncts(child)
    elif condition:
        yield condition


def _check_expression(value: object, scope: Mapping[str, str], main: str) -> None:
    """Every expression below uses columns in scope, pure functions, and EXISTS for context."""
    if isinstance(value, list):
        for inner in value:
            _check_expression(inner, scope, main)
    if not isinstance(value, dict):
        return
    kind = value.get("class")
    if kind is not None and kind not in _CLASSES:
        raise ConditionError(f"condition: {_words(str(kind))} is not for rules; take it out")
    if kind == "SUBQUERY":
        _check_exists(value, scope, main)
        return
    if kind == "COLUMN_REF":
        _check_column(value["column_names"], scope)
    elif kind == "FUNCTION":
        _check_function(value)
    elif kind == "TYPE" and value["type_name"].upper() not in _CASTS:
        raise ConditionError(
            f"condition: no rule casts to {value['type_name']}; use {', '.join(sorted(_CASTS))}"
        )
    for inner in value.values():
        _check_expression(inner, scope, main)


def _words(kind: str) -> str:
    return {"STAR": "*", "WINDOW": "over ()", "PARAMETER": "?"}.get(kind, kind.lower().replace("_", " "))


def _check_exists(value: Node, scope: Mapping[str, str], main: str) -> None:
    if value["subquery_type"] != "EXISTS":
        raise ConditionError("condition: of subqueries a rule has only exists (…); correct it")
    inner: Node = value["subquery"]["node"]
    _check_shape(inner)
    (table, *more) = _tables(inner["from_table"])
    if more:
        raise ConditionError("condition: exists (…) reads one context view; write one for each")
    seen = {**scope, **_check_context(table, inner["where_clause"], scope, main)}
    for item in (*inner["select_list"], inner["where_clause"]):
        _check_expression(item, seen, main)


def _check_column(path: list[str], scope: Mapping[str, str]) -> None:
    """A column of a view in scope; the view's name may stand before it, a field of `event` behind it."""
    if path[0] in scope and len(path) > 1:
        known = path[1] in VIEWS[scope[path[0]]].columns
    else:
        known = any(path[0] in VIEWS[name].columns for name in scope.values())
    if not known:
        raise ConditionError(
            f"condition: {'.'.join(path)} is no column of {', '.join(scope.values())}; correct it"
            " (docs/writing-a-deadline-rule.md)"
        )


def _check_function(value: Node) -> None:
    name = value["function_name"].lower()
    plain = not (
        value["schema"]
        or value["catalog"]
        or value["distinct"]
        or value["filter"]
        or value["order_bys"]["orders"]
    )
    if not plain or name in _IMPURE or (name not in _pure() and name not in vocabulary.MACROS):
        raise ConditionError(
            f"condition: {name}() is unknown or depends on more than its arguments; take it out"
        )


def _check_streams(rule: Rule, views: set[str]) -> None:
    """The file says truly whose events it judges."""
    (judged,) = (VIEWS[name] for name in views if not VIEWS[name].context)
    if set(rule.streams) != set(judged.streams):
        raise ConditionError(f"streams: the condition judges {', '.join(judged.streams)}; list exactly these")
    if rule.each is not None:
        raise ConditionError("each: is for row rules; select from a view that has a row for each")


def _result_name(item: Node) -> str:
    """The name of a result column."""
    if item["alias"]:
        return str(item["alias"])
    if item["class"] != "COLUMN_REF":
        raise ConditionError("condition: a result column needs a name; write `… as due` or another")
    return str(item["column_names"][-1])


def _statement(rule: Rule, sql: str, views: list[str], names: list[str]) -> str:
    """The rule's SELECT with the views it reads, as a row of `desired` for each firing."""
    if len(set(names)) < len(names):
        raise ConditionError("condition: two result columns have one name; rename one")
    subject = subjects.of_result(rule.subject, names)
    spare = set(names) - {"event", "due"} - subjects.columns_of_result(rule.subject)
    if spare:
        raise ConditionError(f"condition: {min(spare)} is selected and not used; take it out")
    ctes = ", ".join(f'"{name}" AS ({VIEWS[name].sql})' for name in views)
    place = ", ".join(
        f'found.event."{name}" AS "{name}"'
        for name in ("topic", "partition", "offset", "source", "event_id", "t")
    )
    due = "found.due" if "due" in names else "CAST(NULL AS TIMESTAMP)"
    return (
        f"WITH {ctes} SELECT '{rule.id}' AS rule_id, {subject} AS subject, {place}, {due} AS due,"  # noqa: S608
        " found.event.party_id AS party_id, found.event.allocation_id AS allocation_id,"
        f" found.event.t IS NULL AS confirmed FROM ({sql}) AS found"
    )


@cache
def _pure() -> frozenset[str]:
    """Names of the scalar functions that give one answer to the same arguments."""
    rows = _laboratory().execute(
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions()"
        " WHERE function_type = 'scalar' AND stability = 'CONSISTENT'"
    )
    return frozenset(name for (name,) in rows.fetchall())


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
    sql = _with_parameters(rule)
    ctes = ", ".join(f'"{name}" AS ({view.sql})' for name, view in VIEWS.items())
    found = connection.execute(f"DESCRIBE WITH {ctes} {sql}").fetchall()
    return [(name, kind) for name, kind, *_ in found]

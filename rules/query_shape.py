"""What the SELECT of a deadline or sweep rule may look like.

DuckDB's own parser says what the text means; what it says is then held against a short list: one SELECT, one
judged view, the context views by allocation, pure functions. So a rule reaches no file, no other table and no
clock, and what it finds of an event does not depend on which events happen to be judged with it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb
import orjson

from rules import vocabulary
from rules.judge import connect
from rules.public_views import VIEWS
from rules.vocabulary import ConditionError
from schemas.events import ALLOCATION

_Node = dict[str, Any]

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
class Shape:
    """A SELECT that is in order: the view it judges, all views it reads, and its result's column names."""

    judged: str
    views: tuple[str, ...]
    columns: tuple[str, ...]


def shape(sql: str) -> Shape:
    """Reads and checks a SELECT without parameters.

    Raises:
        ConditionError: it is none, or uses what a rule does not have.
    """
    select = _parsed(sql)
    main = _check_select(select)
    items = select["select_list"]
    columns = tuple(_result_name(item) for item in items)
    if len(set(columns)) < len(columns):
        raise ConditionError("condition: two result columns have one name; rename one")
    event = [item for item, name in zip(items, columns, strict=True) if name == "event"]
    if not event or event[0]["class"] != "COLUMN_REF" or event[0]["column_names"][-1] != "event":
        raise ConditionError("condition: does not select event as it is; add it")
    views = sorted({_view_of(table) for table in _all_tables(select)})
    around = [name for name in views if VIEWS[name].context]
    if around and VIEWS[main].streams != (ALLOCATION.name,):
        raise ConditionError(
            f"condition: {around[0]} is there for allocations that are judged; select from allocated, "
            f"not {main}"
        )
    return Shape(main, tuple(views), columns)


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    return connect()


def _parsed(sql: str) -> _Node:
    """The one SELECT of the text, as DuckDB's parser reads it."""
    row = _parser().execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    assert row is not None
    read = orjson.loads(row[0])
    if read["error"]:
        raise ConditionError(f"condition: is no SELECT ({read['error_message']}); {_LAYOUT}")
    if len(read["statements"]) != 1:
        raise ConditionError("condition: must be one SELECT; take the others out")
    select: _Node = read["statements"][0]["node"]
    return select


def _check_select(select: _Node) -> str:
    """Refuses what a rule does not have; returns the view that is judged."""
    _check_shape(select)
    main = next(_tables(select["from_table"]))
    name = _view_of(main)
    if VIEWS[name].context:
        raise ConditionError(f"condition: {name} is context and not what is judged; select from another view")
    scope = {_alias(main): name}
    joins = list(_joins(select["from_table"]))
    for join in joins:
        scope |= _check_context(join["right"], join["condition"], scope, _alias(main))
    for item in (*select["select_list"], select["where_clause"], *(join["condition"] for join in joins)):
        _check_expression(item, scope, _alias(main))
    return name


def _check_shape(select: _Node) -> None:
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


def _tables(table: _Node) -> Iterator[_Node]:
    """The tables of a FROM, the judged one first."""
    if table["type"] == "JOIN":
        if table["right"]["type"] == "JOIN":
            raise ConditionError("condition: joins in brackets are not for rules; write them one by one")
        yield from _tables(table["left"])
        yield from _tables(table["right"])
    else:
        yield table


def _joins(table: _Node) -> Iterator[_Node]:
    if table["type"] == "JOIN":
        yield from _joins(table["left"])
        once = table["ref_type"] == "ASOF" or table["join_type"] in ("SEMI", "ANTI")
        if not once or table["join_type"] not in ("INNER", "LEFT", "SEMI", "ANTI") or not table["condition"]:
            raise ConditionError(
                "condition: a join must leave each event at most once; use asof, semi or anti join … on"
            )
        yield table


def _all_tables(value: object) -> Iterator[_Node]:
    """Every table named anywhere below, whatever holds it."""
    if isinstance(value, dict):
        if value.get("type") == "BASE_TABLE":
            yield value
        for inner in value.values():
            yield from _all_tables(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _all_tables(inner)


def _view_of(table: _Node) -> str:
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


def _alias(table: _Node) -> str:
    return str(table["alias"] or table["table_name"])


def _check_context(table: _Node, on: object, scope: Mapping[str, str], main: str) -> dict[str, str]:
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


def _conjuncts(condition: Any) -> Iterator[_Node]:
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


def _check_exists(value: _Node, scope: Mapping[str, str], main: str) -> None:
    if value["subquery_type"] != "EXISTS":
        raise ConditionError("condition: of subqueries a rule has only exists (…); correct it")
    inner: _Node = value["subquery"]["node"]
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


def _check_function(value: _Node) -> None:
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


def _result_name(item: _Node) -> str:
    """The name of a result column."""
    if item["alias"]:
        return str(item["alias"])
    if item["class"] != "COLUMN_REF":
        raise ConditionError("condition: a result column needs a name; write `… as due` or another")
    return str(item["column_names"][-1])


@cache
def _pure() -> frozenset[str]:
    """Names of the scalar functions that give one answer to the same arguments."""
    rows = _parser().execute(
        "SELECT DISTINCT lower(function_name) FROM duckdb_functions()"
        " WHERE function_type = 'scalar' AND stability = 'CONSISTENT'"
    )
    return frozenset(name for (name,) in rows.fetchall())

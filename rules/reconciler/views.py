"""Runs the deadline and sweep rules over what a step judges (contract section 4).

The step's tables (`rules.public_views.TABLES`) say what is judged and what it is held against; each rule is
one statement over them. A firing is kept whether or not it is due: it is seen when the watermark reaches its
`due` (section 3.6), so that nothing is asked again when the watermark moves.
"""

from collections.abc import Iterable

import duckdb

from rules import vocabulary
from rules.query import Query, compile_rule, is_query
from rules.rule import Rule
from schemas.errors import SekishoError


def compile_all(rules: Iterable[Rule]) -> tuple[Query, ...]:
    """The deadline and sweep rules among these, compiled, sorted by id.

    Raises:
        RuleError: one uses what such a rule does not have.
    """
    return tuple(compile_rule(rule) for rule in sorted(rules, key=lambda rule: rule.id) if is_query(rule))


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Defines the macros that rules may call, for this connection."""
    for statement in vocabulary.create_macros():
        con.execute(statement.replace("OR REPLACE MACRO", "OR REPLACE TEMP MACRO"))


def run(con: duckdb.DuckDBPyConnection, queries: Iterable[Query]) -> None:
    """Inserts into `desired` what the rules find in this step's tables, due or not.

    Confirmed at once is what has no event time: a silence without an event, a rejection.

    Raises:
        SekishoError: a rule cannot be computed on these values, e.g. its arithmetic overflows.
    """
    filled: dict[str, bool] = {}
    for query in queries:
        if query.table not in filled:
            ((rows,),) = con.execute(f'SELECT count(*) FROM "{query.table}"').fetchall()
            filled[query.table] = rows > 0
        if filled[query.table]:
            _run(con, query)


def _run(con: duckdb.DuckDBPyConnection, query: Query) -> None:
    try:
        con.execute(f"INSERT INTO desired BY NAME {query.sql}")
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise SekishoError(
            f"rule {query.rule.id} cannot be judged ({reason}); correct its condition"
        ) from error

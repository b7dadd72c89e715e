"""`sekisho sql`: query the lake's views, read-only."""

import csv
import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import duckdb
from rich.console import Console

from schemas.errors import UsageError
from sinks.views import connect
from stream.terminal import clean, utf8

Row = Sequence[Any]
_FETCH = 10_000  # rows at a time: a large result never sits in memory, except to align a table


class _Command(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """A query may begin with a comment, which click would take for an option."""
        return super().parse_args(ctx, [f" {a}" if re.match(r"--[^=]*\s", a) else a for a in args])


@click.command("sql", cls=_Command)
@click.option("--lake", type=click.Path(path_type=Path), required=True, help="Folder of the lake.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    help="How to print rows.",
)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option(
    "--param",
    "given",
    multiple=True,
    metavar="NAME=VALUE",
    help="What $NAME in the query stands for, as a text; may be repeated.",
)
@click.argument("query", callback=utf8)
def command(lake: Path, style: str, as_json: bool, given: tuple[str, ...], query: str) -> None:
    """Run one SELECT in DuckDB over the lake's views: raw, dead_letter, the streams, the reference tables,
    duplicate, finding_event, finding_history, finding, triage, coverage and watermark.

    SHOW TABLES and DESCRIBE <view> tell what is there. Nothing outside the lake can be read, and nothing
    written. "authorization" has to stand in double quotes. Times are UTC. Bytes print with \\xHH for what is
    not ASCII; decode(value) gives their text. As JSON a row is an object: columns of one name are refused,
    name them apart with AS.
    """
    with Console(stderr=True).status("querying"):  # shows on a terminal only
        connection = connect(lake)
        try:
            cursor = _run(connection, query, _parameters(given))
            head = [column[0] for column in cursor.description or ()]
            first = cursor.fetchmany(_FETCH)
        except duckdb.Error as error:
            raise UsageError(_one_line(error)) from error
    rows = itertools.chain(first, _rest(cursor))
    if as_json or style == "json":
        _refuse_repeated(head)
        _print_json(head, rows)
    elif style == "csv":
        _print_csv(head, rows)
    else:
        _print_table(head, rows)


def _parameters(given: Sequence[str]) -> dict[str, str]:
    parameters = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"--param {text}: write it as NAME=VALUE")
        parameters[name] = value
    return parameters


def _refuse_repeated(head: Sequence[str]) -> None:
    for number, name in enumerate(head):
        if name in head[:number]:
            raise UsageError(f"two columns have the name {name}: name them apart with AS")


def _run(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, str]
) -> duckdb.DuckDBPyConnection:
    """Runs `query` if it is one SELECT: the connection could write inside the lake, a SELECT cannot."""
    statements = connection.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise UsageError(
            "sql takes one SELECT (or FROM, WITH, SHOW, DESCRIBE, SUMMARIZE); give each its own call"
        )
    return connection.execute(statements[0], parameters or None)


def _rest(cursor: duckdb.DuckDBPyConnection) -> Iterator[Row]:
    try:
        while rows := cursor.fetchmany(_FETCH):
            yield from rows
    except duckdb.Error as error:
        raise UsageError(_one_line(error)) from error


def _one_line(error: duckdb.Error) -> str:
    """DuckDB's message without its copy of the query; and what to do about a view whose name it reserves."""
    lines = str(error).partition("\nLINE ")[0].split("\n")
    line = " ".join(line.strip() for line in lines if line.strip())
    reserved = isinstance(error, duckdb.ParserException) and 'near "authorization"' in line
    return f'{line}; write "authorization" in double quotes' if reserved else line


def _print_json(head: Sequence[str], rows: Iterator[Row]) -> None:
    """One array of objects, a row a line."""
    separator = "["
    for row in rows:
        print(
            separator, json.dumps(dict(zip(head, map(_plain, row), strict=True)), ensure_ascii=False), sep=""
        )
        separator = ","
    print("[]" if separator == "[" else "]")


def _print_csv(head: Sequence[str], rows: Iterator[Row]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_text(value) for value in row] for row in rows)


def _print_table(head: Sequence[str], rows: Iterator[Row]) -> None:
    lines = [[clean(name) for name in head]]
    lines += [[clean(_text(value, "NULL").replace("\n", "\\n")) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for number, line in enumerate(lines):
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    print(f"({len(lines) - 1} row{'' if len(lines) == 2 else 's'})")


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, Decimal)):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC) if value.tzinfo else value:%Y-%m-%dT%H:%M:%S.%f}" + "Z" * bool(
            value.tzinfo
        )
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return _blob(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return str(value)


def _blob(value: bytes | bytearray) -> str:
    r"""Printable ASCII as it is, all else and the backslash as \xHH: no two values look alike."""
    return "".join(chr(b) if 32 <= b < 127 and b != 0x5C else f"\\x{b:02X}" for b in value)


def _text(value: Any, null: str = "") -> str:
    plain = str(value) if isinstance(value, Decimal) else _plain(value)
    if plain is None:
        return null
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)

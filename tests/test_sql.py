"""`sekisho sql`: what it prints, and that it can do nothing but read the lake."""

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from schemas.errors import SekishoError, UsageError
from sinks.lake import Lake
from stream.commands.sql import command
from tests.landings import land, mixed


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sql") / "lake"
    land(Lake.open(folder), *mixed(0, 20))
    return folder


def run(lake: Path, query: str, *options: str) -> Result:
    return CliRunner().invoke(command, ["--lake", str(lake), *options, query])


def output(lake: Path, query: str, *options: str) -> str:
    result = run(lake, query, *options)
    assert result.exit_code == 0, result.exception
    return result.stdout


def error(lake: Path, query: str) -> SekishoError:
    raised = run(lake, query).exception
    assert isinstance(raised, SekishoError), raised
    assert "\n" not in str(raised)
    return raised


def test_a_table_is_aligned_and_counted(lake: Path) -> None:
    text = output(lake, "SELECT \"offset\" AS n, NULL AS nothing, 'a\nb' AS t FROM access ORDER BY n LIMIT 2")
    assert text.split("\n") == [
        "n  nothing  t",
        "-  -------  ----",
        "0  NULL     a\\nb",
        "0  NULL     a\\nb",
        "(2 rows)",
        "",
    ]


@pytest.mark.parametrize("options", [("--format", "json"), ("--json",)])
def test_json_is_an_array_of_objects_with_utc_times(lake: Path, options: tuple[str, ...]) -> None:
    query = """SELECT occurred_at, dt, verdicts, mfa, sum(1::HUGEINT) OVER () AS big, 'nan'::DOUBLE AS nan,
        1.5 AS x FROM access WHERE "offset" = 5 AND "partition" = 0"""
    assert json.loads(output(lake, query, *options)) == [
        {
            "occurred_at": "2026-03-01T00:00:05.000000Z",
            "dt": "2026-03-01",
            "verdicts": ["gap.identity.unknown"],
            "mfa": None,
            "big": 1,
            "nan": None,
            "x": 1.5,
        }
    ]
    assert json.loads(output(lake, "FROM access WHERE false", *options)) == []


def test_bytes_print_unambiguously(lake: Path) -> None:
    query = 'SELECT \'{"a": "\\x5C\\xE9\\x00"}\'::BLOB AS b'
    assert json.loads(output(lake, query, "--json")) == [{"b": '{"a": "\\x5C\\xE9\\x00"}'}]
    again = 'SELECT \'{"a": "\\x5C\\xE9\\x00"}\'::BLOB = \'{"a": "\\x5C\\xE9\\x00"}\'::BLOB AS same'
    assert json.loads(output(lake, again, "--json")) == [{"same": True}]


def test_csv_has_a_head_and_nulls_are_empty(lake: Path) -> None:
    query = (
        'SELECT "offset", mfa, verdicts, \'a,"b\' AS t FROM access WHERE "partition" = 1 ORDER BY 1 LIMIT 1'
    )
    rows = list(csv.reader(io.StringIO(output(lake, query, "--format", "csv"))))
    assert rows == [["offset", "mfa", "verdicts", "t"], ["0", "", '["gap.identity.unknown"]', 'a,"b']]


def test_parameters_are_values_and_never_sql(lake: Path) -> None:
    query = "SELECT $a AS a, $b::INT + 1 AS b"
    rows = json.loads(output(lake, query, "--json", "--param", "a=x' OR 1=1 --", "--param", "b=41"))
    assert rows == [{"a": "x' OR 1=1 --", "b": 42}]
    assert isinstance(error(lake, "SELECT $a"), UsageError)
    assert isinstance(run(lake, "SELECT $a", "--param", "a").exception, UsageError)


def test_a_result_larger_than_one_fetch_is_whole(lake: Path) -> None:
    assert len(json.loads(output(lake, "SELECT range AS n FROM range(25000)", "--json"))) == 25000


def test_an_error_after_the_first_rows_is_one_line_too(lake: Path) -> None:
    last = "CASE WHEN range < 24000 THEN 1 ELSE ('x' || range)::INT END"
    result = run(lake, f"SELECT {last}, repeat('x', 1000) FROM range(25000)", "--format", "csv")
    assert isinstance(result.exception, UsageError) and "\n" not in str(result.exception)
    assert result.stdout.count("\n") > 10_000


def test_json_refuses_columns_of_one_name(lake: Path) -> None:
    query = "SELECT 1 AS a, 2 AS b, 3 AS a"
    with pytest.raises(UsageError, match="two columns have the name a: name them apart with AS"):
        CliRunner().invoke(command, ["--lake", str(lake), "--json", query], catch_exceptions=False)
    assert output(lake, query, "--format", "csv") == "a,b,a\n1,2,3\n"


def test_a_query_may_begin_with_a_comment(lake: Path) -> None:
    assert json.loads(output(lake, "-- one = 1\nSELECT 1 AS a", "--json")) == [{"a": 1}]
    assert json.loads(output(lake, "--one\nSELECT 1 AS a", "--json")) == [{"a": 1}]


def test_a_table_has_nothing_that_steers_a_terminal(lake: Path) -> None:
    text = output(lake, "SELECT 'a\x1b[31m\r' AS \"h\x1b\", ['\u202e'] AS l")
    assert text.split("\n")[0::2][:2] == [
        r"h\u001b            l",
        r'a\u001b[31m\u000d  ["\u202e"]',
    ]


def test_a_query_that_is_not_utf8_is_wrong_use(lake: Path) -> None:
    raised = error(lake, "SELECT '\udce9'")
    assert isinstance(raised, UsageError) and "QUERY is not UTF-8" in str(raised)


@pytest.mark.parametrize(
    "query", ["SHOW TABLES", "DESCRIBE access", "FROM finding", "WITH a AS (SELECT 1) FROM a"]
)
def test_what_reads_is_a_select(lake: Path, query: str) -> None:
    assert output(lake, query)


@pytest.mark.parametrize(
    "query",
    ["selec 1", "SELECT nothing FROM raw", "FROM nowhere", "SELECT 'x'::INT", "", "SELECT 1; SELECT 2"],
)
def test_a_wrong_query_is_wrong_use(lake: Path, query: str) -> None:
    assert isinstance(error(lake, query), UsageError)


def test_the_view_of_a_reserved_name_is_explained(lake: Path) -> None:
    assert 'write "authorization" in double quotes' in str(error(lake, "FROM authorization"))
    assert output(lake, 'FROM "authorization"')


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO '{lake}/raw/x.parquet'",
        "COPY (SELECT 1) TO '{lake}/../x.csv'",
        "ATTACH '{lake}/x.db'",
        "ATTACH '/tmp/x.db'",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW raw",
        "SET VARIABLE lake = '/'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "LOAD httpfs",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/x.csv'",
        "EXPORT DATABASE '{lake}/x'",
        "PRAGMA enable_logging",
        "CALL force_checkpoint()",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_blob('{lake}/../../secret')",
        "SELECT * FROM read_text('https://localhost/x')",
    ],
)
def test_nothing_is_written_and_nothing_outside_is_read(lake: Path, query: str) -> None:
    (lake.parent.parent / "secret").write_text("secret")
    before = {path: path.stat().st_mtime_ns for path in lake.parent.rglob("*")}
    raised = error(lake, query.format(lake=lake))
    assert isinstance(raised, UsageError)
    assert {path: path.stat().st_mtime_ns for path in lake.parent.rglob("*")} == before


def test_a_folder_without_a_lake_is_told_and_left_alone(tmp_path: Path) -> None:
    raised = error(tmp_path / "nothing", "SELECT 1")
    assert "no lake in" in str(raised)
    assert list(tmp_path.iterdir()) == []


def test_a_torn_log_is_one_line(tmp_path: Path) -> None:
    land(Lake.open(tmp_path), *mixed(0, 5))
    entry = tmp_path / "raw" / "_delta_log" / f"{1:020}.json"
    entry.write_bytes(entry.read_bytes()[:100])
    assert "start a worker" in str(error(tmp_path, "SELECT 1"))

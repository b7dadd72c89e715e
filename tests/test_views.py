"""views.sql: in DuckDB alone, after moves, beside compaction, with and without rows."""

import shutil
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from rules.pipeline import Landing
from schemas.errors import SekishoError
from schemas.events import ACCESS
from schemas.reference import PARTY, REFERENCES, SCREENING
from schemas.tables import FINDING_EVENT, RAW, TABLES, typed
from sinks.lake import Lake
from sinks.log import CHECKPOINT_INTERVAL
from sinks.views import connect, reading
from tests.landings import AT, START, batch, land, landing, mixed, scan

Row = dict[str, Any]


def plain(lake: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB with the generated script and nothing of ours."""
    connection = duckdb.connect(":memory:")
    connection.execute((lake / "views.sql").read_text())
    return connection


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[Row]:
    cursor = connection.execute(query)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def finding(offset: int, finding_id: str = "f", **changes: Any) -> Row:
    return {
        "finding_id": finding_id,
        "rule_id": "flag.access.broker_unregistered",
        "rule_sha256": "aa",
        "severity": "high",
        "subject": "party:P|broker:B",
        "message": f"message {offset}",
        "party_id": "P",
        "allocation_id": "A",
        "source": "s",
        "event_id": f"e{offset}",
        "topic": ACCESS.topic,
        "partition": 0,
        "offset": offset,
        "occurred_at": START + timedelta(seconds=100 - offset),
        "state": "provisional",
        **changes,
    }


def with_findings(*found: Row) -> Landing:
    """Raw rows at the findings' offsets, and the findings."""
    offsets = sorted({row["offset"] for row in found})
    shape = landing(ACCESS, {0: range(offsets[0], offsets[-1] + 1)})
    return Landing(shape.raw, batch([], typed(ACCESS)), batch(found, FINDING_EVENT), ACCESS)


def test_a_lake_without_rows_has_every_view_and_column(tmp_path: Path) -> None:
    Lake.open(tmp_path)
    connection = plain(tmp_path)
    for table, schema in TABLES.items():
        described = rows(connection, f'DESCRIBE "{table}"')
        names = [row["column_name"] for row in described]
        extra = ["ended_at"] if f"custody.{table}" in REFERENCES else []
        assert names == [*schema.names, "dt", *extra]
        assert rows(connection, f'SELECT count(*) AS n FROM "{table}"') == [{"n": 0}]
    assert rows(connection, "FROM finding") == []
    assert rows(connection, "FROM dead_letter") == []


def test_types_are_those_of_the_contract(tmp_path: Path) -> None:
    land(Lake.open(tmp_path), *mixed(0, 20))
    described = rows(plain(tmp_path), "DESCRIBE access") + rows(plain(tmp_path), "DESCRIBE party")
    types = {row["column_name"]: row["column_type"] for row in described}
    assert types["occurred_at"] == "TIMESTAMP WITH TIME ZONE"
    assert types["source_seq"] == "BIGINT"
    assert types["verdicts"] == "VARCHAR[]"
    assert types["mfa"] == types["future"] == "BOOLEAN"
    assert types["dt"] == types["incorporated_on"] == "DATE"
    assert types["documents"] == (
        "STRUCT(kind VARCHAR, sha256 VARCHAR, expires_at TIMESTAMP WITH TIME ZONE)[]"
    )


def test_every_number_without_a_point_is_a_bigint(tmp_path: Path) -> None:
    Lake.open(tmp_path)
    found = connect(tmp_path).execute("SELECT DISTINCT data_type FROM duckdb_columns() WHERE NOT internal")
    numbers = {kind for (kind,) in found.fetchall() if "INT" in kind and "STRUCT" not in kind}
    assert numbers == {"BIGINT"}


@pytest.mark.parametrize("table", ["raw", "access", "allocation", "party", "finding_event"])
def test_deltalake_the_script_and_our_connection_read_the_same(tmp_path: Path, table: str) -> None:
    land(Lake.open(tmp_path), *mixed(0, 40))
    query = f'SELECT * FROM "{table}" ORDER BY topic, "partition", "offset"'
    alone = rows(plain(tmp_path), query)
    assert rows(connect(tmp_path), query) == alone
    delta = scan(tmp_path, table).to_pylist()
    delta.sort(key=lambda row: (row["topic"], row["partition"], row["offset"]))
    for row in alone:
        row.pop("ended_at", None)
    assert alone == delta
    assert len(alone) > 10


def test_dt_is_a_date_by_which_files_are_left_out(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    for day in range(3):
        land(lake, landing(ACCESS, {0: range(day * 10, day * 10 + 10)}), at=AT + timedelta(days=day))
    connection = plain(tmp_path)
    (one,) = rows(connection, "SELECT count(*) AS n, min(dt) AS dt FROM raw WHERE dt = DATE '2026-03-02'")
    assert one == {"n": 10, "dt": date(2026, 3, 2)}
    (plan,) = rows(connection, "EXPLAIN ANALYZE SELECT count(*) FROM raw WHERE dt = DATE '2026-03-02'")
    assert "1/3" in str(plan), plan


def test_running_the_script_again_sees_what_was_landed_since(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, *mixed(0, 10))
    connection = plain(tmp_path)
    land(lake, *mixed(10, 20))
    assert rows(connection, "SELECT count(*) AS n FROM raw") == [{"n": 40}]
    connection.execute((tmp_path / "views.sql").read_text())
    assert rows(connection, "SELECT count(*) AS n FROM raw") == [{"n": 80}]


def test_many_commits_are_read_through_the_newest_checkpoint(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    commits = 2 * CHECKPOINT_INTERVAL + 5
    for offset in range(commits):
        land(lake, landing(PARTY, {0: [offset]}))
        if offset + 1 in (CHECKPOINT_INTERVAL - 1, CHECKPOINT_INTERVAL, CHECKPOINT_INTERVAL + 1):
            assert rows(plain(tmp_path), "SELECT count(*) AS n FROM raw") == [{"n": offset + 1}]
    connection = plain(tmp_path)
    assert rows(connection, 'SELECT count(*) AS n, count(DISTINCT "offset") AS d FROM raw') == [
        {"n": commits, "d": commits}
    ]
    (log,) = rows(connection, "SELECT len(getvariable('raw_log')) AS n")
    assert log["n"] == 6, "the checkpoint's own entry and those after it"


def test_files_that_were_compacted_away_are_not_read_twice(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    for start in range(0, 40, 10):
        land(lake, *mixed(start, start + 10))
    before = rows(plain(tmp_path), 'FROM access ORDER BY "partition", "offset"')
    assert DeltaTable(str(tmp_path / "access")).optimize.compact()["numFilesRemoved"] == 4
    assert rows(plain(tmp_path), 'FROM access ORDER BY "partition", "offset"') == before
    DeltaTable(str(tmp_path / "access")).create_checkpoint()
    assert rows(plain(tmp_path), 'FROM access ORDER BY "partition", "offset"') == before


@pytest.mark.parametrize(
    "name", ['o\'brien "lake"', "a[b]c*d?e", "source=1", "dt=2020-01-01", "trailing space ", "海 #1", "**"]
)
def test_any_path_works_for_every_reader(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "lake"
    lake = Lake.open(folder)
    for start in range(CHECKPOINT_INTERVAL + 2):
        land(lake, landing(ACCESS, {0: [start]}))
    want = [{"n": CHECKPOINT_INTERVAL + 2, "dt": AT.date(), "topic": ACCESS.topic}]
    query = "SELECT count(*) AS n, min(dt) AS dt, min(topic) AS topic FROM raw"
    assert rows(plain(folder), query) == want
    assert rows(connect(folder), query) == want
    assert scan(folder, "raw").num_rows == CHECKPOINT_INTERVAL + 2


def test_a_moved_lake_needs_one_line_changed(tmp_path: Path) -> None:
    land(Lake.open(tmp_path / "old"), *mixed(0, 10))
    shutil.move(tmp_path / "old", tmp_path / "new")
    script = (tmp_path / "new" / "views.sql").read_text()
    old = str(tmp_path / "old")
    assert [line for line in script.split("\n") if old in line] == [f"SET VARIABLE lake = '{old}';"]
    connection = duckdb.connect(":memory:")
    connection.execute(script.replace(old, str(tmp_path / "new")))
    assert rows(connection, "SELECT count(*) AS n FROM raw") == [{"n": 40}]
    Lake.open(tmp_path / "new")  # writes the script for the new place
    assert rows(plain(tmp_path / "new"), "SELECT count(*) AS n FROM raw") == [{"n": 40}]


def test_dead_letters_are_the_rejected_records_with_their_bytes(tmp_path: Path) -> None:
    land(Lake.open(tmp_path), *mixed(0, 10))
    found = rows(
        plain(tmp_path), 'FROM dead_letter WHERE topic = \'custody.access\' ORDER BY "partition", "offset"'
    )
    assert [(row["partition"], row["offset"]) for row in found] == [(0, 3), (1, 3)]
    assert {row["reason"] for row in found} == {"missing:source"}
    assert found[0]["payload"] == b'{"event_id": "0-3"}'


def version(offset: int, key: str, number: int | None, partition: int = 0) -> Row:
    at = START + timedelta(minutes=offset)
    return {
        "list": "SDN",
        "entry_id": key,
        "version": number,
        "valid_from": None if number is None else START,
        "tombstone_at": at if number is None else None,
        "topic": SCREENING.topic,
        "partition": partition,
        "offset": offset,
        "broker_time": at,
    }


def test_a_tombstone_ends_the_versions_before_it_and_no_other(tmp_path: Path) -> None:
    versions = [
        version(0, "x", 1),
        version(1, "y", 1),
        version(2, "x", None),
        version(3, "x", 2),
        version(4, "x", None),
        version(5, "x", 3),
    ]
    read = [{**row, "value": b""} for row in versions]
    names = set(RAW.names)
    raw = [{name: value for name, value in row.items() if name in names} for row in read]
    one = Landing(batch(raw, RAW), batch(versions, typed(SCREENING)), batch([], FINDING_EVENT), SCREENING)
    land(Lake.open(tmp_path), one)
    found = rows(plain(tmp_path), 'SELECT entry_id, version, ended_at FROM screening ORDER BY "offset"')
    ended = [row["ended_at"] and (row["ended_at"] - START) // timedelta(minutes=1) for row in found]
    assert ended == [2, None, None, 4, None, None]
    assert [row["version"] for row in found] == [1, 1, None, 2, None, 3]


def test_a_finding_has_the_shape_of_finding_history(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, with_findings(finding(0), finding(1)), at=AT)
    land(lake, with_findings(finding(2), finding(3, "g", party_id=None)), at=AT + timedelta(seconds=5))
    found = rows(plain(tmp_path), "FROM finding ORDER BY finding_id")
    assert found[0] == {
        "finding_id": "f",
        "rule_id": "flag.access.broker_unregistered",
        "rule_sha256": "aa",
        "kind": "flag",
        "severity": "high",
        "link": "access",
        "subject": "party:P|broker:B",
        "party_id": "P",
        "allocation_id": "A",
        "first_at": START + timedelta(seconds=98),
        "last_at": START + timedelta(seconds=100),
        "events": 3,
        "detected_at": AT,
        "revision": 0,
        "state": "provisional",
        "supersedes": None,
        "message": "message 2",
        "evidence": [
            {"topic": ACCESS.topic, "partition": 0, "offset": offset, "event_id": f"e{offset}"}
            for offset in range(3)
        ],
        "known": None,
        "suppressed": False,
        "triage": None,
    }
    assert found[1]["party_id"] is None
    assert found[1]["detected_at"] == AT + timedelta(seconds=5)


def test_events_that_disagree_leave_party_and_allocation_open(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, with_findings(finding(0), finding(1, party_id="Q"), finding(2, allocation_id=None)))
    (found,) = rows(plain(tmp_path), "SELECT party_id, allocation_id, events FROM finding")
    assert found == {"party_id": None, "allocation_id": None, "events": 3}


def test_evidence_is_the_first_hundred_by_coordinates(tmp_path: Path) -> None:
    land(Lake.open(tmp_path), with_findings(*(finding(offset) for offset in reversed(range(250)))))
    (found,) = rows(plain(tmp_path), "SELECT events, evidence FROM finding")
    assert found["events"] == 250
    assert [item["offset"] for item in found["evidence"]] == list(range(100))


def test_one_event_of_a_finding_counts_once_in_its_latest_state(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, with_findings(finding(0), finding(1)), at=AT)
    later = with_findings(finding(2), finding(0, state="withdrawn"), finding(1))
    later = Landing(later.raw.slice(2), later.typed, later.findings, ACCESS)
    land(lake, later, at=AT + timedelta(seconds=5))
    connection = plain(tmp_path)
    found = rows(connection, 'SELECT "offset", state FROM finding_event ORDER BY "offset"')
    states = ("withdrawn", "provisional", "provisional")
    assert found == [{"offset": offset, "state": state} for offset, state in enumerate(states)]
    (one,) = rows(connection, "SELECT events, detected_at FROM finding")
    assert one == {"events": 2, "detected_at": AT}, "what was withdrawn does not count"


def test_nested_values_and_bytes_come_through(tmp_path: Path) -> None:
    land(Lake.open(tmp_path), *mixed(0, 10))
    (row,) = rows(plain(tmp_path), "SELECT headers FROM raw WHERE topic = 'custody.party' AND \"offset\" = 1")
    assert row["headers"] == [{"key": "h", "value": b"\x00\xff"}]


def test_duckdbs_own_shell_reads_the_script(tmp_path: Path) -> None:
    shell = Path(sys.executable).with_name("duckdb")  # duckdb-cli, of the same requirements as pytest
    folder = tmp_path / "o'brien [lake]"
    land(Lake.open(folder), *mixed(0, 40))
    query = "SELECT count(*) AS n, max(ingested_at) AS at, (SELECT count(*) FROM finding) AS f FROM raw"
    done = subprocess.run(
        [str(shell), "-csv", "-cmd", f'.read "{folder / "views.sql"}"', ":memory:", query],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["n,at,f", "160,2026-03-01", "23:59:58.123456+00,3"], done.stderr


def test_an_empty_batch_of_arrow_is_not_a_file(tmp_path: Path) -> None:
    """DuckDB reads single-threaded after an empty file, so there is none among the live ones."""
    land(Lake.open(tmp_path), *mixed(0, 1))
    for file in tmp_path.glob("*/dt=*/*.parquet"):
        assert pq.read_metadata(file).num_rows > 0


def test_nothing_but_answers_is_printed_however_long_a_query_takes(tmp_path: Path) -> None:
    """DuckDB's progress bar would go to standard output; it has one where Python runs no file."""
    land(Lake.open(tmp_path), *mixed(0, 5))
    asked = "connect(sys.argv[1]).sql(\"SELECT current_setting('enable_progress_bar')\").fetchall()"
    script = f"import sys; from sinks.views import connect; print({asked})"
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"[(False,)]\n"


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    land(Lake.open(tmp_path), landing(ACCESS, {0: range(5)}))
    (file,) = tmp_path.glob("access/dt=*/*.parquet")
    content = file.read_bytes()
    data = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # all before the footer
    file.write_bytes(content[:4] + bytes(data - 4) + content[data:])
    with reading(tmp_path) as connection:
        assert connection.execute("SELECT count(*) FROM raw").fetchall() == [(5,)]
    with (
        pytest.raises(SekishoError, match=f"cannot read the lake in {tmp_path}.*restore the file") as told,
        reading(tmp_path) as connection,
    ):
        connection.execute("FROM access").fetchall()
    assert "\n" not in str(told.value)

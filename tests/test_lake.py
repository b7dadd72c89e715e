"""The lake: what lands is there once, in every table, for every reader; offsets and conflicts."""

import hashlib
import json
import threading
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from schemas.errors import SekishoError, UsageError
from schemas.events import ACCESS, ALLOCATION
from schemas.reference import PARTY, SITE
from schemas.tables import TABLES, typed
from sinks import parquet
from sinks.batch import Batch
from sinks.lake import Conflict, Lake
from sinks.log import CHECKPOINT_INTERVAL, DeltaLog
from tests.landings import AT, before_landing, expected, land, landing, mixed, places, scan

A0 = ("custody.access", 0)
A1 = ("custody.access", 1)
MIXED = ("raw", "access", "allocation", "party", "finding_event")


def infos(lake: Path, table: str) -> list[dict[str, object]]:
    """The `sekisho` objects of a table's commits, read as plain JSON lines."""
    entries = sorted((lake / table / "_delta_log").glob("*.json"))[1:]
    return [json.loads(entry.read_bytes().split(b"\n")[0])["commitInfo"]["sekisho"] for entry in entries]


def test_every_table_reads_back_equal_through_deltalake(tmp_path: Path) -> None:
    landings = mixed(0, 40)
    land(Lake.open(tmp_path), *landings)
    for table in MIXED:
        schema = TABLES[table]
        given = [one.raw for one in landings] if table == "raw" else []
        for one in landings:
            given += [one.typed] if table == one.record.name else []
            given += [one.findings] if table == "finding_event" else []
        read = scan(tmp_path, table)
        assert set(read["ingested_at"].to_pylist()) == {AT}
        assert set(read["dt"].to_pylist()) == {AT.date()}
        wanted = pa.Table.from_batches(given).to_pylist()
        found = read.select(before_landing(schema).names).to_pylist()
        order = [(row["topic"], row["partition"], row["offset"]) for row in wanted]
        assert [(row["topic"], row["partition"], row["offset"]) for row in found] == order  # as arrived
        assert found == wanted


def test_tables_without_rows_are_empty_and_not_committed_to(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, landing(ACCESS, {0: range(1)}))
    assert DeltaTable(str(tmp_path / "allocation")).version() == 0
    assert scan(tmp_path, "site").num_rows == 0
    assert scan(tmp_path, "site").column_names == [*TABLES["site"].names, "dt"]


def test_offsets_are_next_offsets_and_survive_reopening(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    assert lake.is_empty()
    assert lake.offsets() == {}
    land(lake, *mixed(0, 10))
    land(lake, landing(ACCESS, {1: range(10, 12)}))
    wanted = {A0: 10, A1: 12, ("custody.allocation", 0): 10, ("custody.party", 0): 10}
    assert lake.offsets() == wanted
    again = Lake.open(tmp_path)
    assert again.offsets() == wanted
    assert not again.is_empty()


def test_txn_versions_are_readable_with_deltalake(tmp_path: Path) -> None:
    land(Lake.open(tmp_path), *mixed(0, 10))
    for table, app, version in (
        ("raw", "custody.access:1", 10),
        ("access", "custody.access:1", 10),
        ("finding_event", "custody.access:0", 10),
        ("access", "custody.allocation:0", None),
        ("party", "custody.party:0", 10),
    ):
        assert DeltaTable(str(tmp_path / table)).transaction_version(app) == version


def test_a_first_batch_may_start_anywhere(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, landing(ACCESS, {0: range(1000, 1010)}))
    assert lake.offsets() == {A0: 1010}


@pytest.mark.parametrize("start", [0, 9, 11])
def test_a_start_that_is_not_the_lakes_offset_is_a_conflict_and_lands_nothing(
    tmp_path: Path, start: int
) -> None:
    lake = Lake.open(tmp_path)
    land(lake, landing(ACCESS, {0: range(10)}))
    with pytest.raises(Conflict, match=r"custody\.access:0 is landed up to 10"):
        land(lake, landing(ACCESS, {0: range(start, 20), 1: range(5)}))
    assert lake.offsets() == {A0: 10}
    assert len(list(tmp_path.glob("raw/dt=*/*.parquet"))) == 1, "the files of the refused batch are removed"


def test_of_two_writers_of_one_partition_one_gets_a_conflict(tmp_path: Path) -> None:
    first, second = Lake.open(tmp_path), Lake.open(tmp_path)
    ours, theirs = first.begin(AT), second.begin(AT)
    ours.append(landing(ACCESS, {0: range(10)}))
    theirs.append(landing(ACCESS, {0: range(10)}))
    ours.commit({A0: (0, 10)}, {})
    with pytest.raises(Conflict):
        theirs.commit({A0: (0, 10)}, {})
    assert len(places(scan(tmp_path, "raw"))) == 10


def test_a_conflict_is_seen_even_between_the_check_and_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Lake.open(tmp_path), Lake.open(tmp_path)
    checked: Callable[[Lake, Batch], None] = Lake.prepare

    def interrupted(lake: Lake, batch: Batch) -> None:
        checked(lake, batch)
        if lake is second:
            land(first, landing(ACCESS, {0: range(10)}))

    monkeypatch.setattr(Lake, "prepare", interrupted)
    with pytest.raises(Conflict):
        land(second, landing(ACCESS, {0: range(10)}))
    assert len(places(scan(tmp_path, "raw"))) == 10
    assert len(places(scan(tmp_path, "access"))) == 9


def test_writers_of_different_partitions_all_land(tmp_path: Path) -> None:
    Lake.open(tmp_path)
    failures: list[BaseException] = []

    def write(partition: int) -> None:
        try:
            lake = Lake.open(tmp_path)
            for start in range(0, 60, 3):
                land(lake, landing(ACCESS, {partition: range(start, start + 3)}))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(partition,)) for partition in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert places(scan(tmp_path, "raw")) == [("custody.access", p, o) for p in range(3) for o in range(60)]
    assert Lake.open(tmp_path).offsets() == {("custody.access", p): 60 for p in range(3)}


def test_a_peer_that_completes_our_batch_does_not_double_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A starting worker redoes what it sees undone, though the peer that landed it is alive and at it."""
    ours, peer = Lake.open(tmp_path), Lake.open(tmp_path)
    complete = Lake._complete

    def late(lake: Lake, table: str, batch: Batch, version: int) -> None:
        if lake is ours:
            assert peer.offsets()[A0] == 10
        complete(lake, table, batch, version)

    monkeypatch.setattr(Lake, "_complete", late)
    land(ours, *mixed(0, 10))
    for table in MIXED:
        assert places(scan(tmp_path, table)) == expected(table, 10)
        assert DeltaTable(str(tmp_path / table)).version() == 1


def test_raws_commit_says_everything_about_the_batch(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    transaction = lake.begin(AT)
    transaction.append(landing(ACCESS, {0: [0, 1, 4]}))
    transaction.commit({A0: (0, 5), A1: (7, 9)}, {("custody.party", 0): 33}, [(*A0, 2, 4), (*A1, 7, 9)])
    (info,) = infos(tmp_path, "raw")
    assert info["ranges"] == [
        {"topic": "custody.access", "partition": 0, "start": 0, "end": 5},
        {"topic": "custody.access", "partition": 1, "start": 7, "end": 9},
    ]
    assert info["known"] == [{"topic": "custody.party", "partition": 0, "offset": 33}]
    assert info["holes"] == [
        {"topic": "custody.access", "partition": 0, "start": 2, "end": 4},
        {"topic": "custody.access", "partition": 1, "start": 7, "end": 9},
    ]
    assert lake.offsets() == {A0: 5, A1: 9}
    (follower,) = infos(tmp_path, "access")
    assert follower["raw_version"] == 1
    assert follower["known"] == info["known"]
    tables = info["tables"]
    assert isinstance(tables, dict)
    assert [file["sha256"] for file in tables["access"]["files"]] == [
        file["sha256"]
        for file in follower["files"]  # type: ignore[attr-defined]
    ]


def test_digests_sizes_and_rows_in_the_log_are_those_of_the_files(tmp_path: Path) -> None:
    land(Lake.open(tmp_path), *mixed(0, 30))
    for table in MIXED:
        (info,) = infos(tmp_path, table)
        actions = DeltaTable(str(tmp_path / table)).get_add_actions(flatten=True)
        sizes = dict(zip(actions["path"].to_pylist(), actions["size_bytes"].to_pylist(), strict=True))
        files = info["files"]
        assert isinstance(files, list)
        assert [file["path"] for file in files] == list(sizes)
        for file in files:
            content = (tmp_path / table / file["path"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
            assert len(content) == sizes[file["path"]]
            assert file["rows"] == scan(tmp_path, table).num_rows


def test_statistics_bound_the_rows(tmp_path: Path) -> None:
    land(Lake.open(tmp_path), landing(ACCESS, {0: range(5, 25), 1: range(2)}))
    read = scan(tmp_path, "access")
    actions = DeltaTable(str(tmp_path / "access")).get_add_actions(flatten=True)
    assert actions["num_records"].to_pylist() == [read.num_rows]
    for name in ("offset", "partition", "topic", "occurred_at", "broker_time"):
        values = read[name].to_pylist()
        assert actions[f"min.{name}"].to_pylist() == [min(values)]
        assert actions[f"max.{name}"].to_pylist() == [max(values)]
        assert actions[f"null_count.{name}"].to_pylist() == [0]


@pytest.mark.parametrize(
    ("ranges", "holes"),
    [
        ({A0: (0, 6)}, []),  # one offset missing
        ({A0: (0, 4)}, []),  # a row beyond the range
        ({A0: (1, 5)}, []),  # a row before it
        ({A1: (0, 5)}, []),  # rows without a range
        ({A0: (0, 5)}, [(*A0, 2, 3)]),  # a hole where there is a row
        ({A0: (0, 6)}, [(*A1, 5, 6)]),  # a hole elsewhere
    ],
)
def test_ranges_that_do_not_match_the_rows_are_refused(
    tmp_path: Path, ranges: dict[tuple[str, int], tuple[int, int]], holes: list[tuple[str, int, int, int]]
) -> None:
    lake = Lake.open(tmp_path)
    transaction = lake.begin(AT)
    transaction.append(landing(ACCESS, {0: range(5)}))
    with pytest.raises(AssertionError):
        transaction.commit(ranges, {}, holes)
    assert lake.is_empty()


def test_a_repeated_offset_is_refused(tmp_path: Path) -> None:
    transaction = Lake.open(tmp_path).begin(AT)
    transaction.append(landing(ACCESS, {0: [0, 1, 1]}))
    with pytest.raises(AssertionError):
        transaction.commit({A0: (0, 2)}, {})


def test_an_empty_batch_commits_nothing(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    lake.begin(AT).commit({A0: (3, 3)}, {})
    assert lake.is_empty()
    assert DeltaTable(str(tmp_path / "raw")).version() == 0


def test_abort_leaves_no_file(tmp_path: Path) -> None:
    transaction = Lake.open(tmp_path).begin(AT)
    transaction.append(landing(ACCESS, {0: range(5)}))
    assert list(tmp_path.glob("*/dt=*/*.parquet"))
    transaction.abort()
    assert not list(tmp_path.glob("*/dt=*/*.parquet"))


def test_rows_are_encoded_while_they_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 10)
    lake = Lake.open(tmp_path)
    transaction = lake.begin(AT)
    for start in range(0, 100, 4):
        transaction.append(landing(ACCESS, {0: range(start, start + 4)}))
    assert transaction.rows == 100
    transaction.commit({A0: (0, 100)}, {})
    (file,) = tmp_path.glob("raw/dt=*/*.parquet")
    groups = pq.ParquetFile(file).metadata.num_row_groups
    assert groups == 9  # of twelve rows, the last of four
    assert places(scan(tmp_path, "raw")) == [("custody.access", 0, offset) for offset in range(100)]
    stats = DeltaTable(str(tmp_path / "raw")).get_add_actions(flatten=True)
    assert stats["max.offset"].to_pylist() == [99]


def test_the_partition_date_is_the_utc_date_of_the_opening_time(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    transaction = lake.begin(datetime.fromisoformat("2026-03-02T08:59:00+09:00"))
    transaction.append(landing(ACCESS, {0: range(1)}))
    transaction.commit({A0: (0, 1)}, {})
    read = scan(tmp_path, "raw")
    assert read["dt"].to_pylist() == [date(2026, 3, 1)]
    assert read["ingested_at"].to_pylist() == [datetime(2026, 3, 1, 23, 59, tzinfo=UTC)]


def test_versions_are_what_landed_tombstones_included(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    parts = [landing(PARTY, {0: range(start, start + 20)}) for start in range(0, 60, 20)]
    for part in parts:
        land(lake, part)
    found = list(Lake.open(tmp_path).versions(PARTY))
    assert {one.schema for one in found} == {before_landing(typed(PARTY))}
    key = "offset"
    wanted = pa.Table.from_batches([part.typed for part in parts]).sort_by(key)
    assert pa.Table.from_batches(found).sort_by(key).equals(wanted)
    assert None in wanted["version"].to_pylist()
    assert list(lake.versions(SITE)) == []


def test_checkpoints_come_by_interval_and_old_ones_go_but_no_entry_does(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    commits = 4 * CHECKPOINT_INTERVAL + 3
    for offset in range(commits):
        land(lake, landing(PARTY, {0: [offset]}))
    log = tmp_path / "raw" / "_delta_log"
    checkpoints = sorted(path.name for path in log.glob("*.checkpoint.parquet"))
    assert checkpoints == [f"{version * CHECKPOINT_INTERVAL:020}.checkpoint.parquet" for version in (3, 4)]
    assert len(list(log.glob("*.json"))) == commits + 1
    again = Lake.open(tmp_path)
    assert again.offsets() == {("custody.party", 0): commits}
    assert places(scan(tmp_path, "raw")) == [("custody.party", 0, offset) for offset in range(commits)]
    assert sum(one.num_rows for one in again.versions(PARTY)) == len(places(scan(tmp_path, "party")))
    land(again, landing(PARTY, {0: [commits]}))
    old = DeltaTable(str(tmp_path / "raw"), version=7)  # time travel needs no checkpoint
    assert old.count() == 7


def test_other_delta_writers_may_commit_beside(tmp_path: Path) -> None:
    """Compaction and a bare `txn` by the deltalake library: we read them and build on them."""
    lake = Lake.open(tmp_path)
    for start in range(0, 30, 10):
        land(lake, landing(PARTY, {0: range(start, start + 10)}))
    other = DeltaTable(str(tmp_path / "party"))
    assert other.optimize.compact()["numFilesRemoved"] == 3
    foreign = CommitProperties(app_transactions=[Transaction("someone-else", 7)])
    no_files: list[AddAction | RemoveAction] = []
    other.create_write_transaction(no_files, "append", other.schema(), ["dt"], commit_properties=foreign)
    land(lake, landing(PARTY, {0: range(30, 40)}))
    assert sum(one.num_rows for one in lake.versions(PARTY)) == scan(tmp_path, "party").num_rows
    assert places(scan(tmp_path, "party")) == [p for p in expected("party", 40) if p[0] == "custody.party"]
    assert Lake.open(tmp_path).offsets() == {("custody.party", 0): 40}


def test_raw_is_append_only_and_nothing_cleans_the_log(tmp_path: Path) -> None:
    Lake.open(tmp_path)
    raw = DeltaTable(str(tmp_path / "raw")).metadata().configuration
    assert raw["delta.appendOnly"] == "true"
    for table in TABLES:
        configuration = DeltaTable(str(tmp_path / table)).metadata().configuration
        assert configuration["delta.enableExpiredLogCleanup"] == "false"


def test_a_folder_without_a_lake_is_refused_unless_it_may_be_created(tmp_path: Path) -> None:
    with pytest.raises(SekishoError, match="no lake in"):
        Lake.open(tmp_path / "nothing", create=False)
    assert not (tmp_path / "nothing").exists()


def test_a_lake_with_other_columns_is_refused(tmp_path: Path) -> None:
    DeltaTable.create(
        tmp_path / "raw", pa.schema([("x", pa.int64()), ("dt", pa.date32())]), partition_by=["dt"]
    )
    with pytest.raises(SekishoError, match="other columns"):
        Lake.open(tmp_path)


def test_a_percent_sign_in_the_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="percent sign"):
        Lake.open(tmp_path / "a%20b")


def test_a_lost_data_file_that_is_still_owed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "_complete", lambda *_: None)
        land(lake, landing(ALLOCATION, {0: range(5)}))
    (file,) = tmp_path.glob("allocation/dt=*/*.parquet")
    file.unlink()
    with pytest.raises(SekishoError, match="has lost"):
        Lake.open(tmp_path).offsets()


def test_a_batch_owed_by_a_dead_peer_is_completed_before_the_next_of_its_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake.open(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Lake, "_complete", lambda *_: None)
        land(lake, *mixed(0, 10))
    assert scan(tmp_path, "access").num_rows == 0
    land(Lake.open(tmp_path), *mixed(10, 20))  # without asking for the offsets first
    for table in MIXED:
        assert places(scan(tmp_path, table)) == expected(table, 20)


def test_log_entries_are_refused_once_the_log_is_behind_the_checkpoint(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    for offset in range(CHECKPOINT_INTERVAL):
        land(lake, landing(PARTY, {0: [offset]}))
    (tmp_path / "raw" / "_delta_log" / f"{CHECKPOINT_INTERVAL:020}.json").unlink()
    with pytest.raises(SekishoError, match="has lost"):
        Lake.open(tmp_path)


def test_an_entry_of_the_log_can_be_read_by_version(tmp_path: Path) -> None:
    land(Lake.open(tmp_path), *mixed(0, 10))
    log = DeltaLog(tmp_path / "raw")
    assert Batch.from_info(log.entry(1).info).ranges[A0] == (0, 10)
    with pytest.raises(SekishoError, match="has lost"):
        log.entry(2)

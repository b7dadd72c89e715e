"""Commits of the lake as steps of the reconciler."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from rules.pipeline import Landing, admit_ticks
from rules.reconciler.given import StepInput
from schemas.errors import SekishoError
from schemas.events import ACCESS, ALLOCATION
from schemas.record import TIME
from schemas.reference import PARTY
from schemas.tables import FETCHED
from schemas.ticks import TICK
from sinks.lake import Lake
from stream.steps import _are_events, groups, read_step
from tests.landings import START, expected, is_rejected, land, landing, mixed, places

NEXT = {("custody.party", 0): 20}


def micros(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def ticks(start: int, *values: tuple[bytes, datetime]) -> Landing:
    """Ticks from offset `start`: values and broker times."""
    rows = len(values)
    columns = {
        "topic": pa.repeat(TICK.topic, rows),
        "partition": pa.repeat(pa.scalar(0, pa.int32()), rows),
        "offset": pa.array(range(start, start + rows), pa.int64()),
        "broker_time": pa.array([at for _, at in values], TIME),
        "value": pa.array([value for value, _ in values], pa.binary()),
    }
    return admit_ticks(
        pa.RecordBatch.from_arrays(
            [columns.get(field.name, pa.nulls(rows, field.type)) for field in FETCHED], schema=FETCHED
        )
    )


def whole(lake: Lake) -> StepInput:
    return read_step(list(lake.commits(0)))


def test_a_step_has_every_row_of_its_commits_once(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, *mixed(0, 10))
    land(lake, *mixed(10, 20))
    given = whole(lake)
    assert given.raw_version == 2
    assert places(given.events["access"]) == expected("access", 20)
    assert places(given.events["allocation"]) == expected("allocation", 20)
    assert given.events["placement"].num_rows == 0
    assert places(given.firings) == expected("finding_event", 20)
    wrong = [place for place in expected("raw", 20) if is_rejected(place[1], place[2])]
    assert places(given.rejected) == wrong
    assert set(given.rejected["reason"].to_pylist()) == {"missing:source"}
    versions = [row["offset"] for record, batch in given.references for row in batch.to_pylist()]
    assert versions == [offset for _, _, offset in expected("party", 20)]
    assert {record for record, _ in given.references} == {PARTY}
    assert given.read == NEXT
    assert list(given.known) == [{}, {}]


def test_rows_say_which_commit_brought_them(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, *mixed(0, 10))
    land(lake, *mixed(10, 20))
    for row in whole(lake).events["access"].to_pylist():
        assert row["commit"] == row["offset"] // 10


def test_the_schema_of_events_is_that_of_landed_rows(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, *mixed(0, 10))
    given = whole(lake)
    assert given.events["access"].schema == StepInput(0).events["access"].schema
    assert given.firings.schema == StepInput(0).firings.schema
    assert given.rejected.schema == StepInput(0).rejected.schema


def test_broker_times_are_of_all_records_and_ticks_count_with_what_they_say(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    late = START + timedelta(days=3)
    land(lake, landing(ALLOCATION, {0: range(4)}))
    given = whole(lake)
    # offset 3 is rejected, and counts
    assert given.broker_first == micros(START + timedelta(seconds=1))
    assert given.broker_last == micros(START + timedelta(seconds=4))
    assert given.tick is None
    early = b'{"at": "2026-02-28T00:00:00Z"}'
    land(lake, ticks(0, (early, late), (b'{"at": "2026-03-02T00:00:00Z"}', late)))
    given = whole(lake)
    assert given.broker_first == micros(datetime(2026, 2, 28, tzinfo=UTC))
    assert given.broker_last == given.tick == micros(datetime(2026, 3, 2, tzinfo=UTC))
    land(lake, ticks(2, (b"{}", late)))
    given = whole(lake)
    assert given.broker_last == micros(late), "a rejected tick says nothing, but was read"
    assert given.rejected.num_rows == 2


def test_commits_are_grouped_by_rows(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    for start in range(0, 50, 10):
        land(lake, landing(ACCESS, {0: range(start, start + 10)}))
    commits = list(lake.commits(0))
    assert [[c.version for c in group] for group in groups(commits, 25)] == [[1, 2], [3, 4], [5]]
    assert [len(group) for group in groups(commits, 1)] == [1] * 5, "a commit is not divided"
    assert list(groups([], 5)) == []


def test_a_lost_file_is_named(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, *mixed(0, 10))
    commit = next(lake.commits(0))
    commit.files["access"][0].unlink()
    with pytest.raises(SekishoError, match=r"access.*restore it"):
        read_step([commit])


@pytest.mark.parametrize(
    ("topics", "reasons", "expected"),
    [
        (["custody.access", "custody.placement"], [None, None], True),
        (["custody.access", "custody.access"], [None, "not_json"], False),
        (["custody.access", "custody.party"], [None, None], False),  # an equal version has no row of its own
        (["custody.access", TICK.topic], [None, None], False),
    ],
)
def test_of_raw_only_what_has_rows_elsewhere_is_passed_over(
    topics: list[str], reasons: list[str | None], expected: bool
) -> None:
    columns = {"topic": topics, "reason": reasons}
    rows = pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()})
    encoded = pa.table({name: rows[name].dictionary_encode() for name in rows.column_names})
    assert _are_events(encoded) is expected

"""The views of what the reconciler settles: no duplicates, the latest of everything, whole steps only."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from schemas.events import ACCESS, ALLOCATION
from schemas.reference import PARTY
from sinks import settlement
from sinks.decision import Decision, complete
from sinks.lake import Lake
from sinks.log import CHECKPOINT_INTERVAL, DeltaLog
from sinks.views import connect
from tests.landings import AT, START, fires, is_rejected, land, landing
from tests.settling import duplicate, event, full, history, piece, settle

Row = dict[str, Any]
MINUTE = timedelta(minutes=1)


def rows(lake: Path, query: str) -> list[Row]:
    cursor = connect(lake).execute(query)
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def offsets(lake: Path, table: str) -> list[int]:
    return [row["offset"] for row in rows(lake, f'SELECT "offset" FROM "{table}" ORDER BY ALL')]


def accepted(span: Iterable[int], without: Iterable[int] = ()) -> list[int]:
    return [offset for offset in span if not is_rejected(0, offset) and offset not in without]


# Duplicates


def test_duplicates_are_left_out_of_events_and_findings_but_not_of_raw(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, landing(ACCESS, {0: range(20)}), landing(ALLOCATION, {0: range(20)}))
    settle(lake, 1, {"duplicate": [duplicate(5, 0), duplicate(6, 0)]})
    assert offsets(tmp_path, "access") == accepted(range(20), without=(5, 6))
    assert offsets(tmp_path, "allocation") == accepted(range(20)), "of another topic"
    assert offsets(tmp_path, "raw") == sorted([*range(20), *range(20)])
    fired = [offset for offset in accepted(range(20)) if fires(0, offset)]
    assert offsets(tmp_path, "finding_event") == sorted([*(o for o in fired if o != 5), *fired])
    assert sum(row["events"] for row in rows(tmp_path, "FROM finding")) == 2 * len(fired) - 1


def test_duplicates_of_another_partition_are_others(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, landing(ACCESS, {0: range(3), 1: range(3)}))
    settle(lake, 1, {"duplicate": [duplicate(1, 0, partition=1)]})
    found = rows(tmp_path, 'SELECT "partition", "offset" FROM access ORDER BY ALL')
    assert [tuple(row.values()) for row in found] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]


def test_a_duplicate_is_shown_once_with_its_latest_original(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    settle(lake, 1, {"duplicate": [duplicate(5, 4)]})
    settle(lake, 2, {"duplicate": [duplicate(5, 2), duplicate(4, 2)]})
    found = rows(tmp_path, 'SELECT "offset", of_offset FROM duplicate ORDER BY "offset"')
    assert [tuple(row.values()) for row in found] == [(4, 2), (5, 2)]


def test_files_of_other_days_are_left_out_though_duplicates_are(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    for day in range(3):
        start = day * 10
        land(lake, landing(ACCESS, {0: range(start, start + 10)}), at=AT + timedelta(days=day))
    settle(lake, 1, {"duplicate": [duplicate(15, 1)]})
    query = "SELECT count(*) AS n FROM access WHERE dt = DATE '2026-03-02'"
    assert rows(tmp_path, query) == [{"n": len(accepted(range(10, 20), without=(15,)))}]
    (plan,) = rows(tmp_path, f"EXPLAIN ANALYZE {query}")
    assert "1/3" in str(plan), plan


# Findings


def test_the_latest_state_of_an_event_is_that_of_the_latest_step(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, landing(ACCESS, {0: range(1)}))
    finding_id = f"{0:032x}"
    later = AT + timedelta(hours=1)
    assert offsets(tmp_path, "finding_event") == [0]
    settle(lake, 1, {"finding_event": [event(finding_id, 0, state="confirmed"), event("g", 0)]}, at=later)
    # A clock that was set back does not change the order of steps.
    settle(lake, 2, {"finding_event": [event(finding_id, 0, state="superseded")]}, at=AT)
    found = rows(tmp_path, "SELECT finding_id, state, step FROM finding_event ORDER BY finding_id")
    assert [tuple(row.values()) for row in found] == [(finding_id, "superseded", 2), ("g", "provisional", 1)]


def test_a_finding_is_its_latest_revision(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    settle(lake, 1, {"finding_history": [history("f", 1), history("g", 1)]})
    settle(lake, 2, {"finding_history": [history("f", 2, state="confirmed", suppressed=True)]})
    found = rows(tmp_path, "FROM finding ORDER BY finding_id")
    assert [(row["finding_id"], row["revision"], row["state"]) for row in found] == [
        ("f", 2, "confirmed"),
        ("g", 1, "provisional"),
    ]
    given = history("f", 2, state="confirmed", suppressed=True)
    assert found[0] == {**given, "triage": None}
    assert list(found[0]) == [*given, "triage"]
    assert len(rows(tmp_path, "FROM finding_history")) == 3


def test_a_finding_the_reconciler_has_not_come_to_is_made_from_its_events(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, landing(ACCESS, {0: range(6)}))  # 0 and 5 fire, of findings 0 and 2
    settle(lake, 1, {"finding_history": [history(f"{0:032x}", 4, events=9)]})
    found = rows(tmp_path, "SELECT finding_id[-1:] AS id, revision, events FROM finding ORDER BY id")
    assert [tuple(row.values()) for row in found] == [("0", 4, 9), ("2", 0, 1)]


def test_a_finding_whose_events_are_all_withdrawn_or_duplicates_is_none(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    settle(
        lake,
        1,
        {
            "finding_event": [event("f", 0, state="withdrawn"), event("g", 1), event("h", 2)],
            "duplicate": [duplicate(1, 0)],
        },
    )
    assert [row["finding_id"] for row in rows(tmp_path, "FROM finding")] == ["h"]


def test_the_latest_triage_is_beside_the_finding(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, landing(ACCESS, {0: range(6)}))
    settle(lake, 1, {"finding_history": [history("f", 1)]})

    def decide(finding_id: str, state: str, at: datetime) -> None:
        row = {"finding_id": finding_id, "state": state, "reason": "r", "actor": "a", "at": at}
        lake.triage([row], AT)

    decide("f", "acknowledged", AT)
    decide("f", "dismissed", AT + MINUTE)
    decide(f"{2:032x}", "escalated", AT)
    found = rows(tmp_path, "SELECT finding_id[-1:] AS id, triage FROM finding ORDER BY id")
    assert [tuple(row.values()) for row in found] == [("0", None), ("2", "escalated"), ("f", "dismissed")]
    assert len(rows(tmp_path, "FROM triage")) == 3


# Coverage


def spans(lake: Path) -> list[tuple[str, int, int]]:
    """The pieces in minutes from START."""
    found = rows(lake, "SELECT allocation_id, from_at, to_at FROM coverage ORDER BY ALL")
    return [
        (row["allocation_id"], (row["from_at"] - START) // MINUTE, (row["to_at"] - START) // MINUTE)
        for row in found
    ]


def test_pieces_that_a_later_step_replaces_are_void(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    first = [piece("A", 0, 10), piece("A", 10, 20), piece("A", 20, 30), piece("B", 10, 20)]
    settle(lake, 1, {"coverage": first})
    # The row that replaces need not be the first; those of its own step stay.
    settle(lake, 2, {"coverage": [piece("A", 15, 30), piece("A", 10, 15, replaces=10)]})
    assert spans(tmp_path) == [("A", 0, 10), ("A", 10, 15), ("A", 15, 30), ("B", 10, 20)]
    settle(lake, 3, {"coverage": [piece("A", 0, 12, replaces=0)]})
    assert spans(tmp_path) == [("A", 0, 12), ("B", 10, 20)]


def test_a_row_that_only_makes_void_is_no_piece(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    settle(lake, 1, {"coverage": [piece("A", 0, 10), piece("A", 10, 20), piece("B", 0, 5)]})
    none = piece("A", 0, 0, replaces=10, from_at=None, to_at=None)
    settle(lake, 2, {"coverage": [none]})
    assert spans(tmp_path) == [("A", 0, 10), ("B", 0, 5)]
    settle(lake, 3, {"coverage": [{**none, "replaces_from": START}]})
    assert spans(tmp_path) == [("B", 0, 5)]


def test_open_pieces_run_to_the_watermark(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    settle(lake, 1, {"coverage": [piece("A", 0, 10), piece("A", 10, None)]}, START + 10 * MINUTE)
    assert spans(tmp_path) == [("A", 0, 10)], "without length"
    settle(lake, 2, {}, START + 25 * MINUTE)
    assert spans(tmp_path) == [("A", 0, 10), ("A", 10, 25)]
    settle(lake, 3, {"coverage": [piece("A", 10, 27, replaces=10)]}, START + 60 * MINUTE)
    assert spans(tmp_path) == [("A", 0, 10), ("A", 10, 27)]


def test_open_pieces_run_to_the_one_that_a_later_step_wrote(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    settle(lake, 1, {"coverage": [piece("A", 0, None), piece("B", 0, None)]}, START + 10 * MINUTE)
    settle(lake, 2, {"coverage": [piece("A", 12, 15), piece("A", 15, None)]}, START + 20 * MINUTE)
    assert spans(tmp_path) == [("A", 0, 12), ("A", 12, 15), ("A", 15, 20), ("B", 0, 20)]
    settle(lake, 3, {"coverage": [piece("A", 25, None)]}, START + 30 * MINUTE)
    assert spans(tmp_path) == [("A", 0, 12), ("A", 12, 15), ("A", 15, 25), ("A", 25, 30), ("B", 0, 30)]
    settle(lake, 4, {"coverage": [piece("A", 12, 28, replaces=12)]}, START + 40 * MINUTE)
    assert spans(tmp_path) == [("A", 0, 12), ("A", 12, 28), ("B", 0, 40)]


# Whole steps


def half(monkeypatch: pytest.MonkeyPatch, lake: Lake, step: int, done: tuple[str, ...]) -> None:
    """A step of a process that dies after finding_history and these tables."""

    def die(log: DeltaLog, decision: Decision, version: int) -> None:
        if log.table.name in done:
            complete(log, decision, version)

    with monkeypatch.context() as patch:
        patch.setattr(settlement, "complete", die)
        settle(lake, step, full(step), START + 100 * MINUTE)


def seen(lake: Path) -> list[set[int]]:
    """The steps to be seen in each table, and the revisions of findings."""
    connection = connect(lake)
    tables = ("finding_history", "finding_event", "duplicate", "coverage", "watermark")
    queries = [*(f"SELECT step FROM {table}" for table in tables), "SELECT revision FROM finding"]
    return [{row[0] for row in connection.execute(query).fetchall()} for query in queries]


@pytest.mark.parametrize("done", [(), ("finding_event", "duplicate", "coverage")])
def test_a_step_is_seen_in_all_tables_or_in_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: tuple[str, ...]
) -> None:
    lake = Lake.open(tmp_path)
    half(monkeypatch, lake, 1, done)
    assert seen(tmp_path) == [set()] * 6
    lake.settled()
    assert seen(tmp_path) == [{1}] * 6
    half(monkeypatch, lake, 2, done)
    assert seen(tmp_path) == [{1}] * 6
    lake.settled()
    assert seen(tmp_path) == [{1, 2}] * 5 + [{2}]


def test_the_last_step_is_found_through_checkpoints_and_merged_files(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    query = "SELECT getvariable('settled_step') AS step, len(getvariable('settled_files')) AS files"
    assert rows(tmp_path, query) == [{"step": 0, "files": 1}]
    last = CHECKPOINT_INTERVAL + 2
    for step in range(1, last + 1):
        settle(lake, step, {"coverage": [piece("A", 0, None)]} if step == 1 else {}, START + step * MINUTE)
        if step in (1, CHECKPOINT_INTERVAL - 1, CHECKPOINT_INTERVAL, last):
            assert rows(tmp_path, query) == [{"step": step, "files": 1}]
            assert spans(tmp_path) == [("A", 0, step)]
    table = DeltaTable(str(tmp_path / "watermark"))
    assert table.optimize.compact()["numFilesRemoved"] == last
    assert rows(tmp_path, query) == [{"step": last, "files": 1}]
    assert spans(tmp_path) == [("A", 0, last)]
    DeltaTable(str(tmp_path / "watermark")).create_checkpoint()
    assert rows(tmp_path, query) == [{"step": last, "files": 1}]
    settle(lake, last + 1, {}, START + 100 * MINUTE)
    assert rows(tmp_path, query) == [{"step": last + 1, "files": 1}]
    assert spans(tmp_path) == [("A", 0, 100)]
    assert len(rows(tmp_path, "FROM watermark")) == last + 1


def test_references_are_as_before(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, landing(PARTY, {0: range(5)}))
    settle(lake, 1, {"duplicate": [duplicate(1, 0) | {"topic": PARTY.topic}]})
    assert offsets(tmp_path, "party") == accepted(range(5))

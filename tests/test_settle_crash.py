"""A reconciler killed, and the power cut, at every step of settling: whole steps, and each once."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from schemas.tables import FINDING_EVENT
from sinks.lake import Lake
from sinks.log import CHECKPOINT_INTERVAL
from sinks.views import connect
from tests import crash_writer
from tests.crash_writer import MATRIX, fatal_steps
from tests.landings import AT, expected, land, mixed, places, scan
from tests.settling import full, settle

END = 14  # of the offsets landed beforehand
SETTLED = ("finding_history", "finding_event", "duplicate", "coverage", "watermark")
LAST = CHECKPOINT_INTERVAL
"""The step that is killed; its commits are the ones that make the checkpoints."""


@pytest.fixture(scope="session")
def settled_base(memory: Path) -> Path:
    """A lake one step short of a checkpoint in every table that the reconciler writes."""
    folder = memory / "settled" / "lake"
    lake = Lake.open(folder)
    land(lake, *mixed(0, END), at=AT - timedelta(days=1))
    for step in range(1, LAST):
        settle(lake, step, full(step), at=AT - timedelta(days=1))
    return folder


def check_settled(folder: Path, last: int) -> None:
    """Every step exactly once in every table, for deltalake and for the views alike."""
    assert seen_steps(folder) == {table: list(range(1, last + 1)) for table in SETTLED}
    for table in SETTLED:
        steps = sorted(scan(folder, table)["step"].drop_null().to_pylist())
        assert steps == list(range(1, last + 1)), table


def seen_steps(folder: Path) -> dict[str, list[int]]:
    views = connect(folder)
    return {
        table: [
            row[0] for row in views.execute(f"SELECT step FROM {table} WHERE step > 0 ORDER BY 1").fetchall()
        ]
        for table in SETTLED
    }


def settlement_steps(base: Path, in_memory: Path, number: int) -> list[str]:
    """The steps of a reconciler that is not killed."""
    folder = in_memory / "whole"
    shutil.copytree(base, folder)
    assert crash_writer.run_settlement(folder, number, crash_writer.NEVER, in_memory / "journal")
    names: list[str] = json.loads((in_memory / "journal").read_text())["names"]
    shutil.rmtree(folder)
    return names


def settle_again(folder: Path) -> None:
    """What a restarted reconciler does: asks for the last step and settles the next."""
    lake = Lake.open(folder)
    last = lake.settled()
    assert last is not None
    assert last.step in (LAST - 1, LAST)
    if last.step < LAST:
        settle(lake, LAST, full(LAST))


@MATRIX
def test_killed_at_every_step_of_settling(
    settled_base: Path, in_memory: Path, power: str, every: int
) -> None:
    steps = settlement_steps(settled_base, in_memory, LAST)
    assert steps.count("link") == len(SETTLED)
    assert steps.count("create_checkpoint") == len(SETTLED) - 1  # finding_event has a worker's commit more
    for fatal in fatal_steps(steps, every):
        folder = in_memory / f"lake{fatal}"
        shutil.copytree(settled_base, folder)
        before = crash_writer.inventory(folder)
        assert not crash_writer.run_settlement(folder, LAST, fatal, in_memory / "journal")
        if power == "cut":
            crash_writer.cut_power(folder, before, in_memory / "journal")
        else:
            seen = seen_steps(folder)
            assert len({tuple(steps) for steps in seen.values()}) == 1, "whole steps only"
        settle_again(folder)
        check_settled(folder, LAST)
        check_whole_but_settled(folder)
        shutil.rmtree(folder)


def check_whole_but_settled(folder: Path) -> None:
    """What workers landed is untouched."""
    assert set(Lake.open(folder).offsets().values()) == {END}
    for table in ("raw", "access", "allocation", "party"):
        assert places(scan(folder, table)) == expected(table, END), table
    rows = scan(folder, "finding_event").select(FINDING_EVENT.names).cast(FINDING_EVENT)
    assert places(rows.filter(rows["step"].is_null())) == expected("finding_event", END)


def test_a_step_whose_commit_returned_survives_a_power_cut(settled_base: Path, in_memory: Path) -> None:
    folder = in_memory / "lake"
    shutil.copytree(settled_base, folder)
    # Past the checkpoint, whose own syncs would help, and into a new day's folder.
    settle(Lake.open(folder), LAST, full(LAST), at=AT - timedelta(days=1))
    before = crash_writer.inventory(folder)
    assert crash_writer.run_settlement(folder, LAST + 1, crash_writer.NEVER, in_memory / "journal")
    crash_writer.cut_power(folder, before, in_memory / "journal")
    check_settled(folder, LAST + 1)  # before anything could repair it


@MATRIX
def test_killed_at_every_step_of_completing_a_step(
    settled_base: Path, in_memory: Path, power: str, every: int
) -> None:
    half = in_memory / "half"
    shutil.copytree(settled_base, half)
    decided = (
        settlement_steps(settled_base, in_memory, LAST).index("link") + 2
    )  # the link and the folder's sync
    assert not crash_writer.run_settlement(half, LAST, decided, in_memory / "journal")
    steps = settlement_steps(half, in_memory, 0)
    assert steps.count("link") == len(SETTLED) - 1
    for fatal in fatal_steps(steps, every):
        folder = in_memory / f"lake{fatal}"
        shutil.copytree(half, folder)
        before = crash_writer.inventory(folder)
        assert not crash_writer.run_settlement(folder, 0, fatal, in_memory / "journal")
        if power == "cut":
            crash_writer.cut_power(folder, before, in_memory / "journal")
        last = Lake.open(folder).settled()
        assert last is not None
        assert last.step == LAST, "nothing is worked out again"
        check_settled(folder, LAST)
        shutil.rmtree(folder)

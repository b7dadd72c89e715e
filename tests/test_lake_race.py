"""Processes that start at the same moment: on a lake that is not there yet, and for the same step."""

import json
import subprocess
import sys
from pathlib import Path

from sinks.lake import Lake
from tests.landings import scan

OPEN = "import sys; from sinks.lake import Lake; Lake.open(sys.argv[1])"

STEPS = 25
SETTLE = f"""
import json, sys
from sinks.lake import Conflict, Lake
from tests.settling import full, settle
lake = Lake.open(sys.argv[1])
won = []
while True:
    last = lake.settled()
    step = last.step + 1 if last else 1
    if step > {STEPS}:
        break
    try:
        settle(lake, step, full(step))
        won.append(step)
    except Conflict:
        pass
print(json.dumps(won))
"""


def race(program: str, lake: Path, processes: int) -> list[str]:
    """Runs the program in several processes at once and returns what each has printed."""
    arguments = [sys.executable, "-c", program, str(lake)]
    root = Path(__file__).parent.parent
    started = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)
        for _ in range(processes)
    ]
    outputs = [process.communicate() for process in started]
    assert [process.returncode for process in started] == [0] * processes, [error for _, error in outputs]
    return [output for output, _ in outputs]


def test_several_writers_create_one_lake(tmp_path: Path) -> None:
    for attempt in range(3):
        lake = tmp_path / str(attempt)
        race(OPEN, lake, 3)
        entries = sorted(path.name for path in lake.glob("*/_delta_log/*.json"))
        assert set(entries) == {f"{0:020}.json"}, "a table was created twice"


def test_each_step_is_settled_by_one_of_several_reconcilers(tmp_path: Path) -> None:
    Lake.open(tmp_path)
    won = [json.loads(output) for output in race(SETTLE, tmp_path, 3)]
    assert sorted(step for steps in won for step in steps) == list(range(1, STEPS + 1)), won
    for table in ("finding_history", "finding_event", "duplicate", "coverage", "watermark"):
        assert sorted(scan(tmp_path, table)["step"].to_pylist()) == list(range(1, STEPS + 1)), table
        assert len(list(tmp_path.glob(f"{table}/dt=*/*.parquet"))) == STEPS, (
            "those who lost remove their files"
        )

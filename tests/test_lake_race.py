"""Workers that start at the same moment on a lake that is not there yet."""

import subprocess
import sys
from pathlib import Path

OPEN = "import sys; from sinks.lake import Lake; Lake.open(sys.argv[1])"


def test_several_writers_create_one_lake(tmp_path: Path) -> None:
    for attempt in range(3):
        lake = tmp_path / str(attempt)
        starts = [
            subprocess.Popen([sys.executable, "-c", OPEN, str(lake)], stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        errors = [process.communicate()[1] for process in starts]
        assert [process.returncode for process in starts] == [0, 0, 0], errors
        entries = sorted(path.name for path in lake.glob("*/_delta_log/*.json"))
        assert set(entries) == {f"{0:020}.json"}, "a table was created twice"

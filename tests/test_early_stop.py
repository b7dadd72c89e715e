"""SIGTERM while a process starts."""

import signal
import subprocess
import sys
import time

import pytest

ENDLESS = "duckdb.connect().execute('SELECT count(*) FROM range(1000000000000) t(x) WHERE x % 7 = 3')"


@pytest.mark.parametrize("doing", [ENDLESS, "time.sleep(60)"])
def test_it_ends_without_a_word(doing: str) -> None:
    code = (
        "import duckdb, time\nfrom stream.early_stop import stops_at_once\n"
        f"with stops_at_once():\n    print('starts', flush=True)\n    {doing}"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            assert process.stdout.readline() == "starts\n"
            time.sleep(0.5)  # for the query to begin
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_other_failures_stay_what_they_are() -> None:
    code = (
        "from stream.early_stop import stops_at_once\nwith stops_at_once():\n    raise RuntimeError('broken')"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "RuntimeError: broken" in done.stderr

"""SIGTERM while a process starts."""

import signal
import subprocess
import sys

import pytest

SLEEPS = "    time.sleep(60)"
# What DuckDB makes of a handler that raises while one of its queries runs.
QUERIES = """    try:
        time.sleep(60)
    except SystemExit:
        raise RuntimeError('Query interrupted') from None"""


@pytest.mark.parametrize("doing", [SLEEPS, QUERIES])
def test_it_ends_without_a_word(doing: str) -> None:
    code = (
        "import time\nfrom stream.early_stop import stops_at_once\n"
        f"with stops_at_once():\n    print('starts', flush=True)\n{doing}"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            assert process.stdout.readline() == "starts\n"
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

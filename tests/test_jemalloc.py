"""A program starts again with jemalloc in the place of glibc's malloc."""

import ctypes.util
import os
import subprocess
import sys
from collections.abc import Mapping

import pytest

from deploy import install_jemalloc
from stream import jemalloc

SHOW = """
import os, sys
from stream import jemalloc
print(os.getpid(), flush=True)
jemalloc.use({library!r})
print(os.getpid(), sys.argv[1:], sys.flags.dev_mode, "jemalloc" in open("/proc/self/maps").read())
"""
STATISTICS = "Begin jemalloc statistics"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc is Linux's")


@pytest.fixture(scope="session")
def library() -> str:
    """jemalloc. Where it is missing, tests are skipped; in CI it is fetched or they fail."""
    found = install_jemalloc.find()
    if found is not None:
        return found
    if os.environ.get("CI") == "true":
        return install_jemalloc.install()
    pytest.skip("jemalloc is missing: python -m deploy.install_jemalloc")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python in an environment in which nobody has chosen yet, but for `variables`."""
    environment: Mapping[str, str] = {n: v for n, v in os.environ.items() if n != "LD_PRELOAD"} | variables
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_the_same_process_with_the_same_arguments(library: str) -> None:
    done = run("-X", "dev", "-c", SHOW.format(library=library), "--state", "a b")
    first, again, last = done.stdout.splitlines()
    assert (first == again, last) == (True, f"{first} ['--state', 'a b'] True True")


def test_whoever_sets_ld_preload_is_left_alone(library: str) -> None:
    done = run("-c", SHOW.format(library=library), LD_PRELOAD="")
    first, last = done.stdout.splitlines()
    assert last == f"{first} [] False False"


def test_it_starts_again_once_even_if_the_loader_does_not_take_it(library: str) -> None:
    program = SHOW.format(library=library)
    loader_takes_it_out = f"import os\nos.environ.pop('LD_PRELOAD', None)\n{program}"
    first, again, last = run("-c", loader_takes_it_out).stdout.splitlines()
    assert (first == again, last.startswith(f"{first} [] ")) == (True, True)


def test_where_no_program_may_start_it_goes_on(library: str) -> None:
    program = f"import sys\nsys.executable = '/nowhere/python'\n{SHOW.format(library=library)}"
    first, last = run("-c", program).stdout.splitlines()
    assert last == f"{first} [] False False"


def test_without_it_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    jemalloc.use()


def test_a_reconciler_runs_with_it_and_says_the_same_without(library: str) -> None:
    if library != ctypes.util.find_library("jemalloc"):
        assert os.environ.get("CI") != "true", "CI installs libjemalloc2"
        pytest.skip("jemalloc is in the cache only: apt-get install libjemalloc2")
    code = "import sys; from stream.cli import main; sys.argv[0] = 'sekisho'; main()"
    command = ("-c", code, "reconciler", "--tick-seconds", "-1")
    counted = run(*command, MALLOC_CONF="stats_print:true")
    plain = run(*command, MALLOC_CONF="stats_print:true", LD_PRELOAD="")
    assert STATISTICS in counted.stderr
    assert plain.stderr == "sekisho: --tick-seconds: -1.0 is not a number of seconds, or 0\n"
    assert counted.stderr.startswith(plain.stderr)
    assert counted.returncode == plain.returncode == 2

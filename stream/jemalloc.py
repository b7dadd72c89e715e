"""Memory from jemalloc instead of glibc, where it is installed.

DuckDB, held to a limit, has glibc give all freed memory of the process back to the kernel several times a
second (duckdb/duckdb#23253), which the process then asks for again: a tenth of a reconciler's CPU
(benchmarks/README.md, "reconciler"). No setting keeps it from that; jemalloc in glibc's place is not asked.
"""

import contextlib
import ctypes.util
import os
import sys

SETTINGS = "narenas:1,oversize_threshold:0,dirty_decay_ms:10000"
"""What one thread frees serves the others; large blocks stay for ten seconds, too, for whoever asks next."""

_STARTED_AGAIN = "SEKISHO_STARTED_AGAIN"


def use(library: str | None = None) -> None:
    """Starts this program again, as the same process, with jemalloc; returns where it cannot or has done so.

    To be called before anything is begun. Whoever sets LD_PRELOAD, be it to nothing, has chosen, and is left
    alone; MALLOC_CONF goes before SETTINGS.

    Args:
        library: the path of jemalloc; None for the system's.
    """
    # where a program is privileged the loader takes LD_PRELOAD out of its environment
    if sys.platform != "linux" or {"LD_PRELOAD", _STARTED_AGAIN} & os.environ.keys():
        return
    found = library or ctypes.util.find_library("jemalloc")
    if found is None:
        return
    # never loaded to try it: it would need room that only the loader has
    command = [sys.executable, *sys.orig_argv[1:]]
    environment = {"MALLOC_CONF": SETTINGS, **os.environ, "LD_PRELOAD": found, _STARTED_AGAIN: "1"}
    with contextlib.suppress(OSError):  # it may be forbidden
        os.execve(sys.executable, command, environment)  # noqa: S606 - what ran already

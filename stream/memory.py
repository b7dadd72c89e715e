"""The memory of a process through which millions of records pass."""

import contextlib
import ctypes
import gc

import pyarrow as pa

_M_ARENA_MAX = -8  # of glibc's malloc.h


def tune() -> None:
    """Few collections, and freed memory that the next batch can use whichever thread allocates it.

    Records pass as objects that no cycle holds: full collections would only cost time. Batches are made in
    one thread and written in another; with an arena a thread, or a pool beside malloc's, each keeps what the
    other could use: a third of a worker's resident memory, a tenth of a reconciler's
    (benchmarks/README.md, "Worker").
    """
    gc.set_threshold(50_000, 20, 100)
    pa.set_memory_pool(pa.system_memory_pool())
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, 1)

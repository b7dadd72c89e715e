"""jemalloc on this machine, for the reconciler's benchmark.

    python -m deploy.install_jemalloc          prints the library

Takes the system's, else Debian's package `libjemalloc2`, fetched into the cache (`deploy/debian.py`).
"""

import ctypes.util
import sys

from deploy import debian

PACKAGE = "libjemalloc2"


def find() -> str | None:
    """The system's library, or the path of the one in the cache; None for neither. Fetches nothing."""
    cached = sorted(debian.folder(PACKAGE).glob("usr/lib/*/libjemalloc.so.2"))
    return ctypes.util.find_library("jemalloc") or (str(cached[0]) if cached else None)


def install() -> str:
    """jemalloc, fetched from Debian's archive where it is missing.

    Raises:
        RuntimeError: it cannot be fetched; the text says why and what to do.
    """
    if find() is None:
        debian.fetch(PACKAGE)
    found = find()
    if found is None:
        raise RuntimeError(f"Debian's package {PACKAGE} brought no libjemalloc.so.2")
    return found


def main() -> None:
    """Print the library."""
    try:
        print(install())
    except RuntimeError as error:
        sys.exit(f"install_jemalloc: {error}")


if __name__ == "__main__":
    main()

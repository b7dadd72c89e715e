"""Prometheus and promtool on this machine, for tests and for trying the alerts out.

    python -m deploy.install_prometheus        prints the folder that holds both programs

Takes what is on the PATH, else Debian's package `prometheus`, fetched into the cache (`deploy/debian.py`).
"""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy import debian

PACKAGE = "prometheus"


@dataclass(frozen=True)
class Programs:
    """The two programs of one Prometheus."""

    prometheus: Path
    promtool: Path


def find() -> Programs | None:
    """Prometheus on the PATH or in the cache folder; None where there is none. Fetches nothing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), str(debian.folder(PACKAGE) / "usr/bin")])
    found = [shutil.which(name, path=path) for name in ("prometheus", "promtool")]
    if found[0] is None or found[1] is None:
        return None
    return Programs(Path(found[0]), Path(found[1]))


def install() -> Programs:
    """Prometheus, fetched from Debian's archive where it is missing.

    Raises:
        RuntimeError: it cannot be fetched; the text says why and what to do.
    """
    programs = find()
    if programs is None:
        debian.fetch(PACKAGE)
        programs = find()
    if programs is None:
        raise RuntimeError(f"Debian's package {PACKAGE} brought no prometheus and promtool")
    return programs


def main() -> None:
    """Print the folder of the programs."""
    try:
        print(install().promtool.parent)
    except RuntimeError as error:
        sys.exit(f"install_prometheus: {error}")


if __name__ == "__main__":
    main()

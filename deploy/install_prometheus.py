"""Prometheus and promtool on this machine, for tests and for trying the alerts out.

    python -m deploy.install_prometheus        prints the folder that holds both programs

Takes what is on the PATH, else Debian's package `prometheus`, fetched and unpacked (not installed: no service
starts, and root is needed only where apt has no package lists yet) into a cache folder: SEKISHO_CACHE, else
`.cache/` of the checkout.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
PACKAGE = "prometheus"


@dataclass(frozen=True)
class Programs:
    """The two programs of one Prometheus."""

    prometheus: Path
    promtool: Path


def find() -> Programs | None:
    """Prometheus on the PATH or in the cache folder; None where there is none. Fetches nothing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), str(_unpacked() / "usr/bin")])
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
    if programs is not None:
        return programs
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError("no apt-get here; install Prometheus 2.42 or newer and put it on the PATH")
    _fetch(_unpacked())
    programs = find()
    if programs is None:
        raise RuntimeError(f"Debian's package {PACKAGE} brought no prometheus and promtool")
    return programs


def _fetch(target: Path) -> None:
    """Unpack the package into `target`; several processes may ask at once, the last one wins."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="prometheus-", dir=target.parent))
    fresh.chmod(0o755)  # apt downloads as a user of its own where it runs as root
    try:
        _download(fresh)
        archives = list(fresh.glob("*.deb"))
        assert len(archives) == 1, archives
        _run(["dpkg-deb", "-x", str(archives[0]), str(fresh)], fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _download(folder: Path) -> None:
    download = ["apt-get", "download", "-qq", PACKAGE]
    try:
        _run(download, folder)
    except RuntimeError as error:
        if os.geteuid() != 0:
            raise RuntimeError(f"{error}; run apt-get update as root, or install prometheus") from error
        _run(["apt-get", "update", "-qq"], folder)
        _run(download, folder)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"{' '.join(command[:2])} failed: {lines[-1] if lines else done.returncode}")


def _unpacked() -> Path:
    cache = os.environ.get("SEKISHO_CACHE")
    return (Path(cache) if cache else CHECKOUT / ".cache") / "prometheus"


def main() -> None:
    """Print the folder of the programs."""
    try:
        print(install().promtool.parent)
    except RuntimeError as error:
        sys.exit(f"install_prometheus: {error}")


if __name__ == "__main__":
    main()

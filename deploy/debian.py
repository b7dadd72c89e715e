"""Packages from Debian's archive, fetched and unpacked without being installed.

No service starts, and root is needed only where apt has no package lists yet. They go into a cache folder:
SEKISHO_CACHE, else `.cache/` of the checkout.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent


def folder(package: str) -> Path:
    """Where a package's files are once they have been fetched, as if it were the root of the file system."""
    cache = os.environ.get("SEKISHO_CACHE")
    return (Path(cache) if cache else CHECKOUT / ".cache") / package


def fetch(package: str) -> None:
    """Unpacks a package into its folder; several processes may ask at once, the last one wins.

    Raises:
        RuntimeError: it cannot be fetched; the text says why and what to do.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError(f"no apt-get here; install {package}")
    target = folder(package)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{package}-", dir=target.parent))
    fresh.chmod(0o755)  # apt downloads as a user of its own where it runs as root
    try:
        _download(package, fresh)
        archives = list(fresh.glob("*.deb"))
        assert len(archives) == 1, archives
        _run(["dpkg-deb", "-x", str(archives[0]), str(fresh)], fresh)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _download(package: str, into: Path) -> None:
    download = ["apt-get", "download", "-qq", package]
    try:
        _run(download, into)
    except RuntimeError as error:
        if os.geteuid() != 0:
            raise RuntimeError(f"{error}; run apt-get update as root, or install {package}") from error
        _run(["apt-get", "update", "-qq"], into)
        _run(download, into)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"{' '.join(command[:2])} failed: {lines[-1] if lines else done.returncode}")

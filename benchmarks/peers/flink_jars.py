"""Apache Flink's jars, fetched by Maven once into the cache folder (SEKISHO_CACHE, else `.cache/`)."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

POM = Path(__file__).with_name("flink-pom.xml")
CHECKOUT = POM.parents[2]


def fetch() -> Path:
    """The folder of the jars. Raises RuntimeError with the reason where they cannot be had."""
    cache = os.environ.get("SEKISHO_CACHE")
    folder = (Path(cache) if cache else CHECKOUT / ".cache") / "flink"
    mark, pom = folder / "complete", POM.read_text()
    if mark.exists() and mark.read_text() == pom:
        return folder
    if shutil.which("mvn") is None:
        raise RuntimeError("Maven is not installed, which fetches Apache Flink")
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="flink-", dir=folder.parent))
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={fresh}"]
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", str(POM), *goal], capture_output=True, text=True, check=False
    )
    if done.returncode:
        shutil.rmtree(fresh)
        raise RuntimeError(f"Maven could not fetch Apache Flink: {done.stdout[-300:].strip()}")
    (fresh / "complete").write_text(pom)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return folder

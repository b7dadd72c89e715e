"""One worker process from its first read to its end in good order, measured from outside."""

import contextlib
import os
import re
import signal
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import cpu_seconds, peak_mb
from sinks.views import connect
from stream.processes import sekisho

LAND_SECONDS = 600.0


@dataclass(frozen=True)
class Taken:
    """What a system took on, and what that cost: all threads of its process."""

    events: int
    seconds: float
    cpu_seconds: float
    rss_mb: float

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_us_per_event(self) -> float:
        return self.cpu_seconds / self.events * 1e6


def land(bootstrap: str, folder: Path, total: int, before: int, partitions: int, *options: str) -> Taken:
    """Runs one worker on `folder`/lake until it has `total` records, `before` of them from earlier.

    Measured from its first read to its end in good order, the last commit included. `options` are further
    ones of `sekisho worker`. Raises RuntimeError when it does not land everything.
    """
    lake = folder / "lake"
    command = sekisho(
        "worker", "--brokers", bootstrap, "--lake", str(lake), "--metrics", "127.0.0.1:0",
        "--partitions", str(partitions), *options,
    )  # fmt: skip
    with (folder / "worker.log").open("ab") as log:
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert worker.stdout is not None
        found = re.search(r"http://\S+/metrics", worker.stdout.readline())
        if found is None:
            raise RuntimeError(f"the worker did not start: {_end_of(folder / 'worker.log')}")
        at, first = _when_read(worker, found[0], 1)
        start = cpu_seconds(worker.pid)
        _when_read(worker, found[0], total - before)
        rss = peak_mb(worker.pid)
    finally:
        worker.send_signal(signal.SIGTERM)  # it lands what it has read
        _, status, spent = os.wait4(worker.pid, 0)
    seconds = time.monotonic() - at
    if status != 0 or _rows(lake) != total:
        raise RuntimeError(f"the worker did not land everything: {_end_of(folder / 'worker.log')}")
    return Taken(total - before - first, seconds, spent.ru_utime + spent.ru_stime - start, rss)


def _when_read(worker: subprocess.Popen[str], url: str, wanted: int) -> tuple[float, int]:
    """Waits until the worker says that it has read as many; returns when, and how many it had read."""
    deadline = time.monotonic() + LAND_SECONDS
    while time.monotonic() < deadline and worker.poll() is None:
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode()
        counts = re.findall(r"^custody_events_read_total\{.*\} (\S+)$", text, re.MULTILINE)
        if (read := sum(int(float(count)) for count in counts)) >= wanted:
            return time.monotonic(), read
        time.sleep(0.2 if wanted > 1 else 0.02)
    raise RuntimeError(f"the worker has not read {wanted:,} records within {LAND_SECONDS:.0f} s")


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-500:]


def _rows(lake: Path) -> int:
    with contextlib.closing(connect(lake)) as connection:
        row = connection.execute("SELECT count(*) FROM raw").fetchone()
    assert row is not None
    return int(row[0])

"""Worker processes from their first read to their last commit, measured from outside."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import cpu_seconds, peak_mb
from benchmarks.running import Running
from sinks.views import connect

LAND_SECONDS = 600.0
LEAST_SECONDS, MOST_SECONDS = 0.03, 1.0  # between two looks at how far they are


@dataclass(frozen=True)
class Taken:
    """What a system took on, and what that cost: all threads of its processes; `rss_mb` is of the largest,
    `disk_bytes` what its lake has grown by."""

    events: int
    seconds: float
    cpu_seconds: float
    rss_mb: float
    disk_bytes: int = 0

    @property
    def events_per_second(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_us_per_event(self) -> float:
        return self.cpu_seconds / self.events * 1e6


def land(
    bootstrap: str, folder: Path, total: int, before: int, partitions: int, *options: str, workers: int = 1
) -> Taken:
    """Runs workers on `folder`/lake until it has `total` records, `before` of them from earlier.

    Measured from when some have been read, none of them judged, until all can be read in the lake; reading
    those is a tenth of what they cost. CPU counts to the end of the processes in good order. `options` are
    further ones of `sekisho worker`. Raises RuntimeError when they do not land everything.
    """
    lake = folder / "lake"
    disk = _bytes(lake)
    common = ("--brokers", bootstrap, "--lake", str(lake), "--partitions", str(partitions), *options)
    with contextlib.ExitStack() as stack:
        started = [Running(folder / f"worker-{number}.log", "worker", *common) for number in range(workers)]
        running = [stack.enter_context(each) for each in started]
        at = _when_read(running, 1)
        start = sum(cpu_seconds(each.pid) for each in running)
        _when_read(running, total - before)
        rss = max(peak_mb(each.pid) for each in running)
        for each in running:
            each.ask_to_stop()  # it lands what it has read
        spent = sum(each.ended() for each in running)
    seconds = _last_commit(lake) - at
    if (rows := _rows(lake)) != total:
        raise RuntimeError(f"{rows:,} of {total:,} records have landed")
    return Taken(total - before, seconds, spent - start, rss, _bytes(lake) - disk)


def _when_read(running: Sequence[Running], wanted: int) -> float:
    """Waits until the workers say that they have read as many; returns when (Unix time).

    Each time that they are asked costs them some 4 ms: seldom until, at their pace, it is about to be.
    """
    began, first = time.monotonic(), None
    while (at := time.monotonic()) < began + LAND_SECONDS:
        read = sum(int(each.metric("custody_events_read_total")) for each in running)
        if read >= wanted:
            return time.time()
        first = read if first is None else first
        left = (wanted - read) / (read - first) * (at - began) if read > first else 0.0
        time.sleep(min(max(0.7 * left, LEAST_SECONDS), MOST_SECONDS))
    raise RuntimeError(f"no {wanted:,} records were read within {LAND_SECONDS:.0f} s")


def _last_commit(lake: Path) -> float:
    """When the newest entry of raw's log had its name (Unix time): it is written under another and synced."""
    newest = max((lake / "raw" / "_delta_log").glob("*.json"))
    return newest.stat().st_ctime


def _rows(lake: Path) -> int:
    with contextlib.closing(connect(lake)) as connection:
        row = connection.execute("SELECT count(*) FROM raw").fetchone()
    assert row is not None
    return int(row[0])


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

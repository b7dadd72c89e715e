"""Resident memory of a worker over time, at a steady rate."""

import tempfile
import time
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

from benchmarks.paced import Paced, Run
from benchmarks.processes import resident_mb
from benchmarks.running import Running
from benchmarks.watching import wait_until
from deploy.local_kafka import LocalKafka

POOL = 200_000  # different events; then they come again with other ids
WARM_UP = 0.25  # of the time, which is left out


def soak(rate: float, seconds: float, every: float, partitions: int) -> dict[str, Any]:
    """Ships `rate` events a second for so long and looks at a worker's resident size `every` so many seconds.

    `growth_percent`: by how much the median of the last third of the looks lies above that of the first,
    after the warm-up; `mb_an_hour` is the slope over both.
    """
    with LocalKafka() as kafka, tempfile.TemporaryDirectory(prefix="sekisho-bench-") as scratch:
        folder = Path(scratch)
        options = ("--brokers", kafka.bootstrap, "--lake", str(folder / "lake"))
        worker = Running(folder / "worker.log", "worker", *options, "--partitions", str(partitions))
        with Paced(kafka.bootstrap, partitions, POOL) as producer, worker:
            references = producer.references()
            wait_until(lambda: worker.metric("custody_events_landed_total") >= references, "references land")
            producer.begin(Run(rate, seconds, time.time()))
            looks = []
            start = time.monotonic()
            while (at := time.monotonic() - start) < seconds:
                looks.append((at, resident_mb(worker.pid)))
                time.sleep(every)
            shipped = producer.end()
    warm = [look for look in looks if look[0] >= WARM_UP * seconds]
    third = len(warm) // 3
    first, last = (median(size for _, size in part) for part in (warm[:third], warm[-third:]))
    return {
        "events_per_second": round(shipped.count / (shipped.end - shipped.start)),
        "seconds": round(seconds),
        "looks": len(looks),
        "mb": round(median(size for _, size in warm)),
        "most_mb": round(max(size for _, size in looks)),
        "growth_percent": round(100 * (last / first - 1), 1),
        "mb_an_hour": round(3600 * linear_regression(*zip(*warm, strict=True)).slope, 1),
    }

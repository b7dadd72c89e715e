"""The worker's way from fetches to the lake without Kafka: one batch after the other, in this process."""

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.events import count
from rules.judge import Judge
from rules.rule import Rule
from sinks.lake import Lake
from sinks.metrics import Metrics
from stream import memory
from stream.fetches import Fetch
from stream.judging import Batch, Judging
from stream.landing import Lander
from stream.settings import Settings
from stream.start import load_compiled


def judging(rules: Iterable[Rule]) -> Judging:
    """What judges, prepared as a worker is; its references are still to be added."""
    memory.tune()
    load_compiled()
    return Judging(Judge(rules), {})


@contextmanager
def lander() -> Iterator[Lander]:
    """What lands in a new lake, which is thrown away."""
    folder = Path(tempfile.mkdtemp(prefix="sekisho-bench-"))
    try:
        yield Lander(Lake.open(folder), Settings(), Metrics())
    finally:
        shutil.rmtree(folder)


def land(judging: Judging, lander: Lander, batches: Iterable[Sequence[Fetch]]) -> None:
    """Judges the micro-batches and lands them in one commit."""
    for fetches in batches:
        rows, size = sum(map(len, fetches)), sum(each.bytes for each in fetches)
        decoded = judging.decode(Batch(fetches, rows, size, time.monotonic()))
        lander.append(judging.judge(decoded))
    lander.commit()


def cpu_us_per_event(judging: Judging, batches: Sequence[Sequence[Fetch]]) -> float:
    """CPU of judging and landing the micro-batches, µs per event."""
    with lander() as into:
        began = time.process_time()
        land(judging, into, batches)
        return (time.process_time() - began) / count(batches) * 1e6

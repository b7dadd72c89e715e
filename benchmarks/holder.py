"""A process that holds reference versions, and lands events of their parties whenever it is asked to."""

from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection

from benchmarks import versions
from benchmarks.changed_events import among
from benchmarks.events import fetch, sent
from benchmarks.in_process import cpu_us_per_event, judging
from benchmarks.processes import peak_mb
from rules.rule import load_all
from stream.simulation.messages import Encoded


class Holder:
    """Starts at once; what it is asked first is answered when it holds `count` versions."""

    def __init__(self, count: int, blocks: Sequence[Sequence[Encoded]]) -> None:
        context = get_context("spawn")  # a fork would count this process's memory as its own
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, count, blocks), daemon=True)
        self._process.start()
        theirs.close()
        self.peak_mb = 0.0

    def cpu_us_per_event(self) -> float:
        """Judges and lands the events once."""
        self._pipe.send(None)
        cpu, self.peak_mb = self._pipe.recv()
        return cpu

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, count: int, blocks: Sequence[Sequence[Encoded]]) -> None:
    batches = [fetch(batch) for batch in sent(among(block, count, seed) for seed, block in enumerate(blocks))]
    holding = judging(load_all())
    for record, table in versions.batches(count):
        holding.references.add(record, table)
    while True:
        try:
            pipe.recv()
        except EOFError:
            return
        pipe.send((cpu_us_per_event(holding, batches), peak_mb()))

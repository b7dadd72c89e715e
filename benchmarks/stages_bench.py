"""`stages`: what each stage of the worker's way costs, µs of CPU per event, for the mixture and by stream.

The stages run in this process, on record batches made in memory. A worker over Kafka, measured in turn with
them, says what the whole costs, and so what is left for sockets, Faust and the event loop.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.broker import Filled, filled
from benchmarks.events import PARTITIONS, Sent, alone, fetch, gathered, sent
from benchmarks.in_process import judging as new_judging
from benchmarks.in_process import land, lander
from benchmarks.processes import machine
from benchmarks.size import Size
from benchmarks.spread import spread
from benchmarks.stopwatch import Stopwatch
from rules import pipeline
from rules.judge import Judge
from rules.rule import load_all
from schemas.events import EVENTS
from sinks.parquet import TableFile
from stream import judging as worker_judging
from stream.fetches import Fetch
from stream.judging import Judging
from stream.landing import Lander
from stream.simulation import bench
from stream.simulation.messages import merged

MIXTURE, WHOLE, REST = "mixture", "worker", "the rest"
_FETCH, _RAW, _FINDINGS, _TYPED, _COMMIT = "fetch", "raw table", "findings table", "typed tables", "commit"
_ASSEMBLE = "assemble"  # the tables' columns and the findings, out of what the stages before gave


def _table(file: TableFile) -> str:
    """The stage that a file is written in."""
    table = file.path.parents[1].name
    return {"raw": _RAW, "finding_event": _FINDINGS}.get(table, _TYPED)


_WATCHED: tuple[tuple[Any, str, Any], ...] = (
    (worker_judging, "to_arrow", "to Arrow"),
    (pipeline, "decode", "decode"),
    (pipeline, "join", "resolve and join"),
    (Judge, "judge", "judge"),
    (Judging, "judge", _ASSEMBLE),
    (TableFile, "append", _table),
    (TableFile, "finish", _table),
    (Lander, "append", _COMMIT),
    (Lander, "commit", _COMMIT),
)
STAGES = (
    *(_FETCH, "to Arrow", "decode", "resolve and join", "judge", _ASSEMBLE, _RAW, _TYPED, _FINDINGS, _COMMIT),
)


@dataclass(frozen=True)
class Amount:
    """Events in this process, of each stream alone, and over Kafka; and how often each is measured."""

    mixture: int
    alone: int
    worker: int
    runs: int


AMOUNTS = {
    Size.QUICK: Amount(100_000, 20_000, 400_000, 1),
    Size.USUAL: Amount(200_000, 60_000, 1_000_000, 3),
    Size.FULL: Amount(1_000_000, 200_000, 2_000_000, 9),
}


def run(size: Size) -> dict[str, Any]:
    """µs of CPU per event by stage; `worker` is what the whole costs."""
    amount, about, made = AMOUNTS[size], machine(), bench.build()
    judging = new_judging(load_all())
    for batch in sent([gathered(made.references())]):
        judging.learn(fetch(batch))
    blocks = list(made.blocks(amount.worker))
    inputs = {MIXTURE: sent(blocks[: amount.mixture // bench.BLOCK])}
    for record in EVENTS.values():
        inputs[record.name] = sent([[alone(blocks, record.name, amount.alone)]])
    for batches in inputs.values():
        _stages(judging, batches)  # what only a first run costs is no part of the figures
    with filled(PARTITIONS, made.references(), (m for block in blocks for m in merged(block))) as broker:
        runs = [_round(judging, inputs, broker) for _ in range(amount.runs)]
    return {"machine": about, "runs": amount.runs, "criteria": []} | _spreads(runs)


def show(results: Mapping[str, Any]) -> None:
    """Prints a table."""
    inputs = (MIXTURE, *(record.name for record in EVENTS.values()))
    table = Table("µs CPU per event", *inputs, title=f"{results['machine']['cpu']}, {results['runs']} runs")
    for column in table.columns[1:]:
        column.justify = "right"
    for stage in (*STAGES, REST, WHOLE):
        table.add_row(stage, *(_cell(results[name].get(stage)) for name in inputs))
    Console().print(table)


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    between = f" ({figure['min']:.2f}–{figure['max']:.2f})" if figure["runs"] > 1 else ""
    return f"{figure['median']:.2f}{between}"


def _round(
    judging: Judging, inputs: Mapping[str, Sequence[Sequence[Sent]]], broker: Filled
) -> dict[str, dict[str, float]]:
    """Every input once, then the worker: what each stage took, µs per event."""
    found = {name: _stages(judging, batches) for name, batches in inputs.items()}
    whole = broker.land().cpu_us_per_event
    found[MIXTURE] |= {WHOLE: whole, REST: whole - sum(found[MIXTURE].values())}
    return found


def _stages(judging: Judging, batches: Sequence[Sequence[Sent]]) -> dict[str, float]:
    watch, events = Stopwatch(), 0

    def fetched() -> Iterator[list[Fetch]]:
        nonlocal events
        for batch in batches:
            with watch.stage(_FETCH):
                fetches = fetch(batch)
            events += sum(map(len, fetches))
            yield fetches

    with lander() as into, ExitStack() as watching:
        for owner, function, stage in _WATCHED:
            watching.enter_context(watch.watching(owner, function, stage))
        land(judging, into, fetched())
    return {stage: watch.seconds[stage] / events * 1e6 for stage in STAGES}


def _spreads(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    return {
        name: {stage: spread([each[name][stage] for each in runs]) for stage in stages}
        for name, stages in runs[0].items()
    }

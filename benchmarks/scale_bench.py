"""`scale`: whether CPU per event stays as reference versions, rules, partitions, sizes and bad records grow.

All but partitions are judged and landed without Kafka, in this process. Settings compared run in turn.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import real_records, versions
from benchmarks.broker import with_versions
from benchmarks.changed_events import among, broken, calls, padded, thinned
from benchmarks.criteria import at_most, show_criteria
from benchmarks.events import fetch, sent
from benchmarks.holder import Holder
from benchmarks.in_process import cpu_us_per_event
from benchmarks.in_process import judging as new_judging
from benchmarks.in_turn import Measure, in_turn
from benchmarks.processes import machine
from benchmarks.rule_clones import cloned
from benchmarks.size import Size
from rules.judge import is_judged
from rules.rule import Rule, load_all
from stream.judging import Judging
from stream.simulation import bench
from stream.simulation.messages import Encoded, merged

Block = Sequence[Encoded]
KNOWN = 100_000  # reference versions, where their number is not what is compared
_MADE, _REAL = "395", "real ones"
FEW = 10_000  # of them where a broker has to stand in for each
MB = {1_000_000: 1024, 10_000_000: 4096}  # of resident memory, by versions


@dataclass(frozen=True)
class Amount:
    """Events in this process and over Kafka, the numbers compared, and how often each is measured."""

    events: int
    over_kafka: int
    versions: tuple[int, ...]
    partitions: tuple[int, ...]
    runs: int


AMOUNTS = {
    Size.QUICK: Amount(50_000, 300_000, (10_000, 1_000_000), (8, 144), 1),
    Size.USUAL: Amount(100_000, 300_000, (10_000, 100_000, 1_000_000, 10_000_000), (1, 8, 48, 144), 3),
    Size.FULL: Amount(500_000, 2_000_000, (10_000, 100_000, 1_000_000, 10_000_000), (1, 8, 48, 144), 9),
}


def run(size: Size) -> dict[str, Any]:
    """By what grows: µs of CPU per event of each setting, and the ratio to the one it is compared with."""
    amount, about = AMOUNTS[size], machine()
    blocks = list(bench.build().blocks(max(amount.events, amount.over_kafka)))
    few = blocks[: amount.events // bench.BLOCK]
    memory: dict[int, float] = {}
    scales = {
        "reference versions": _versions(few, amount, memory),
        "row rules": _rules(few, amount.runs),
        "bytes of an event": _sizes(few, amount.runs),
        "bad records": _bad(few, amount.runs),
        "partitions of a topic": _partitions(blocks, amount),
    }
    reason = real_records.unavailable_reason()
    return {
        "machine": about,
        "runs": amount.runs,
        "scales": scales,
        "peak_mb": {f"{count:,}": mb for count, mb in memory.items()},
        "skipped": {} if reason is None else {_REAL: reason},
        "criteria": _criteria(scales, memory),
    }


def show(results: Mapping[str, Any]) -> None:
    """Prints a table, and what was asked."""
    title = f"{results['machine']['cpu']}, {results['runs']} runs in turn"
    table = Table("growing", "", "µs CPU per event", "min", "max", "×", title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    for scale, settings in results["scales"].items():
        for name, found in settings.items():
            figures = (f"{found[key]:.2f}" for key in ("median", "min", "max", "ratio"))
            table.add_row(scale, name, *figures, end_section=name == list(settings)[-1])
    Console().print(table)
    for count, mb in results["peak_mb"].items():
        print(f"{count} versions: {mb:,} MB at most")
    for what, reason in results["skipped"].items():
        print(f"{what}: skipped, {reason}")
    show_criteria(results["criteria"])


def _versions(blocks: Sequence[Block], amount: Amount, memory: dict[int, float]) -> dict[str, Any]:
    """Each number in a process of its own, the events' parties drawn from all of them."""
    with ExitStack() as held:
        holders = {count: held.enter_context(closing(Holder(count, blocks))) for count in amount.versions}
        for holder in holders.values():
            holder.cpu_us_per_event()  # waits until it holds them
        settings = {f"{count:,}": holder.cpu_us_per_event for count, holder in holders.items()}
        found = in_turn(settings, f"{amount.versions[0]:,}", amount.runs)
        memory |= {count: round(holder.peak_mb) for count, holder in holders.items()}
    return found


def _rules(blocks: Sequence[Block], runs: int) -> dict[str, Any]:
    own = [rule for rule in load_all() if is_judged(rule)]
    sets = {f"{len(own)}": own, "100": cloned(own, 100), "200": cloned(own, 200)}
    events = [among(block, KNOWN, seed) for seed, block in enumerate(blocks)]
    return in_turn(
        {name: _measure(_judging(rules), events) for name, rules in sets.items()}, f"{len(own)}", runs
    )


def _sizes(blocks: Sequence[Block], runs: int) -> dict[str, Any]:
    """Real records stand among them where there are some: no two logs are alike."""
    judging = _judging(load_all())
    events = [among(block, KNOWN, seed) for seed, block in enumerate(blocks)]
    sizes = {
        "100 (calls)": [calls(block) for block in events],
        _MADE: events,
        "2,000": [padded(thinned(block, 2), 2_000) for block in events],
        "10,000": [padded(thinned(block, 10), 10_000) for block in events],
    }
    if real_records.unavailable_reason() is None:
        real = real_records.mapped(sum(len(stream) for block in events for stream in block))
        sizes[f"{round(_mean(real))} ({_REAL})"] = [real]
    return in_turn({name: _measure(judging, blocks) for name, blocks in sizes.items()}, _MADE, runs)


def _bad(blocks: Sequence[Block], runs: int) -> dict[str, Any]:
    judging = _judging(load_all())
    events = [among(block, KNOWN, seed) for seed, block in enumerate(blocks)]
    settings = {
        f"{share:.1%}": _measure(judging, [broken(block, share, seed) for seed, block in enumerate(events)])
        for share in (0.0, 0.001, 0.01, 0.1)
    }
    return in_turn(settings, "0.0%", runs)


def _partitions(blocks: Sequence[Block], amount: Amount) -> dict[str, Any]:
    """One worker over Kafka; a broker for each number."""
    events = [
        among(block, FEW, seed) for seed, block in enumerate(blocks[: amount.over_kafka // bench.BLOCK])
    ]
    with ExitStack() as brokers:
        settings = {}
        for number in amount.partitions:
            messages = (message for block in events for message in merged(block))
            broker = brokers.enter_context(with_versions(number, FEW, messages))
            settings[f"{number}"] = lambda broker=broker: broker.land().cpu_us_per_event
        return in_turn(settings, "8", amount.runs)


def _judging(rules: Iterable[Rule]) -> Judging:
    judging = new_judging(rules)
    for record, table in versions.batches(KNOWN):
        judging.references.add(record, table)
    return judging


def _measure(judging: Judging, blocks: Iterable[Block]) -> Measure:
    """Judges and lands these events; once already, for what only a first run costs."""
    batches = [fetch(batch) for batch in sent(blocks)]
    cpu_us_per_event(judging, batches)
    return lambda: cpu_us_per_event(judging, batches)


def _mean(block: Block) -> float:
    return sum(map(len, (v for stream in block for v in stream.values))) / sum(map(len, block))


def _criteria(scales: Mapping[str, Mapping[str, Any]], memory: Mapping[int, float]) -> list[dict[str, Any]]:
    asked = (
        ("reference versions", f"{10_000_000:,}", 1.2),
        ("row rules", "100", 1.5),
        ("row rules", "200", 1.5),
        ("bad records", "1.0%", 1.3),
        ("partitions of a topic", "144", 1.3),
    )
    ratios = [
        at_most(f"CPU per event, {scale}: {name}", limit, scales[scale].get(name, {}).get("ratio"), "×")
        for scale, name, limit in asked
    ]
    held = [
        at_most(f"memory, {count:,} reference versions", mb, memory.get(count), "MB")
        for count, mb in MB.items()
    ]
    return ratios + held

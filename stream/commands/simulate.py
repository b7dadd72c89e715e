"""`sekisho simulate`: a data centre that nobody has to own."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.errors import UsageError
from stream.simulation import bench, files
from stream.simulation.clock import DAY, HOUR, MINUTE, SECOND, micros
from stream.simulation.messages import Message
from stream.simulation.simulator import START, Settings, simulate

_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_FIXED = ("accelerators", "duration", "rate", "seed", "start", "live")


class Duration(click.ParamType):
    """`90m`, `4h`, `2d` as µs."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,12})([smhd])", value)
        if match is None:
            self.fail(f"{value!r} is not a duration; write it like 90m, 4h or 2d", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


class Moment(click.ParamType):
    """A time with an offset as µs."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            self.fail(
                f"{value!r} is not a time with an offset; write it like 2026-03-02T00:00:00Z", param, ctx
            )
        return micros(moment)


@click.command("simulate")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for NDJSON files.")
@click.option("--brokers", help="Kafka brokers to ship to, as host:port,….")
@click.option("--accelerators", type=int, default=10_800, show_default=True, help="Installed at ishikari-1.")
@click.option("--duration", type=Duration(), default="4h", show_default=True, help="Simulated time.")
@click.option("--rate", type=click.FloatRange(0.01), default=10.0, show_default=True, help="Events a second.")
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 63) - 1),
    default=1,
    show_default=True,
    help="Same seed, same bytes.",
)
@click.option(
    "--start", type=Moment(), default=micros(START), help="Simulated start.  [default: 2026-03-02T00:00:00Z]"
)
@click.option("--live", is_flag=True, help="Start now and ship each message when its time has come.")
@click.option("--profile", type=click.Choice(["demo", "bench"]), default="demo", show_default=True)
@click.option("--events", type=click.IntRange(1), default=1_000_000, show_default=True, help="For bench.")
@click.option("--partitions", type=click.IntRange(1), default=4, show_default=True, help="Of new topics.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.pass_context
def command(
    context: click.Context,
    out: Path | None,
    brokers: str | None,
    accelerators: int,
    duration: int,
    rate: float,
    seed: int,
    start: int,
    live: bool,
    profile: str,
    events: int,
    partitions: int,
    as_json: bool,
) -> None:
    """Simulate a data centre: tenants who are onboarded, allocate, log in and run, and what goes wrong.

    Writes files for `sekisho scan` to --out, or ships to --brokers, or both. In the demo profile something is
    planted for every rule, and nothing else is wrong: incidents.json lists what must be found. The bench
    profile is a fixed mixture of any length with 100,000 identities and one event in a hundred wrong.
    """
    if out is None and brokers is None:
        raise UsageError("say where it goes: --out DIR for files, --brokers HOST:PORT for Kafka")
    if live and brokers is None:
        raise UsageError("--live paces what goes to Kafka: give --brokers too")
    began = time.monotonic()
    story: dict[str, Any]
    if profile == "bench":
        _refuse(context, _FIXED, "bench is fixed: --{} has no effect on it, leave it out")
        story = {"profile": profile, "events": events}
        total, source = events, lambda: bench.build().messages(events)
    else:
        _refuse(context, ("events",), "--{} is for the bench profile; use --rate and --duration")
        begin = time.time_ns() // 1_000_000_000 * SECOND if live else start
        simulation = simulate(Settings(seed, accelerators, duration, rate, begin))
        story = {"profile": profile, **simulation.story()}
        total, source = simulation.size, simulation.messages
        if out is not None:
            files.write_story(simulation.story(), out)
    _send(source, total, out, brokers, partitions, live)
    _show(story, time.monotonic() - began, out, brokers, as_json)


def _refuse(context: click.Context, names: tuple[str, ...], text: str) -> None:
    for name in names:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise UsageError(text.format(name))


def _send(
    source: Callable[[], Iterable[Message]],
    total: int,
    out: Path | None,
    brokers: str | None,
    partitions: int,
    live: bool,
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        if out is not None:
            task = bar.add_task("writing", total=total)
            files.write(source(), out, lambda n: bar.advance(task, n))
        if brokers is not None:
            from stream.settings import connection  # Kafka's clients and Faust only where they are used
            from stream.simulation import shipping

            options = connection(brokers)
            shipping.prepare(options, partitions)
            task = bar.add_task("shipping", total=total)
            shipping.ship(source(), options, live, lambda n: bar.advance(task, n))


def _show(
    story: dict[str, Any], seconds: float, out: Path | None, brokers: str | None, as_json: bool
) -> None:
    if as_json:
        print(json.dumps(story | {"seconds": round(seconds, 3)}))
        return
    where = " and ".join(str(place) for place in (out, brokers) if place is not None)
    if story["profile"] == "bench":
        print(f"{story['events']:,} events and their references to {where} in {seconds:.1f} s")
        return
    counts = story["records"]
    events = sum(counts[name] for name in ("allocation", "access", "placement"))
    print(
        f"{events:,} events and {sum(counts.values()) - events:,} reference records to {where} "
        f"in {seconds:.1f} s; {len(story['incidents'])} incidents planted"
    )
    if out is not None:
        lake = out.with_name(out.name + "-lake")
        print(f"judge them: sekisho scan --in {out} --lake {lake} --until {story['until']}")

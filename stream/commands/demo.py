"""`sekisho demo`: the whole chain on this machine."""

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from sinks.trace import trace
from sinks.views import connect
from stream.commands.trace import lines
from stream.demo import run
from stream.outcome import Finding, Outcome, queries
from stream.simulation.clock import HOUR
from stream.simulation.simulator import Settings
from stream.terminal import STYLES

_SEVERITIES = tuple(STYLES)


@click.command("demo")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("lake-demo"),
    show_default=True,
    help="Folder for the lake and the logs; an earlier demo in it is replaced.",
)
@click.option("--brokers", help="Kafka to use in place of the embedded broker, as host:port,….")
@click.option("--workers", type=click.IntRange(1, 16), default=2, show_default=True)
@click.option("--accelerators", type=int, default=10_800, show_default=True, help="Simulated.")
@click.option("--hours", type=click.IntRange(1, 240), default=4, show_default=True, help="Simulated.")
@click.option(
    "--rate", type=click.FloatRange(0.01), default=10.0, show_default=True, help="Events a simulated second."
)
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
def command(
    out: Path,
    brokers: str | None,
    workers: int,
    accelerators: int,
    hours: int,
    rate: float,
    seed: int,
    as_json: bool,
) -> None:
    """See it work: a broker, a simulated data centre with planted incidents, workers, a reconciler, findings.

    Needs nothing but this program, and takes less than three minutes. Exits 0 when every record landed once
    and exactly what was planted was found, else 1.
    """
    settings = Settings(seed=seed, accelerators=accelerators, duration=hours * HOUR, rate=rate)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:

        def stage(name: str, total: int | None) -> Callable[[int], None]:
            task = bar.add_task(name, total=total)
            return lambda steps: bar.advance(task, steps)

        outcome = run(out, settings, workers, stage, brokers)
    if as_json:
        print(json.dumps({"ok": outcome.ok, **asdict(outcome)}, ensure_ascii=False))
    else:
        _tell(outcome, settings)
    if not outcome.ok:
        raise click.exceptions.Exit(1)


def _tell(outcome: Outcome, settings: Settings) -> None:
    console = Console(highlight=False)
    spent, planted = outcome.seconds, len(outcome.findings) - len(outcome.unplanted) + len(outcome.missing)
    how = f"{outcome.workers} workers" if outcome.workers else "a scan of files"
    settled = f", settled in {spent['settle']:.1f} s" if "settle" in spent else ""
    console.print(
        f"\nishikari-1: {settings.accelerators:,} accelerators, {settings.duration // HOUR} simulated hours, "
        f"{outcome.shipped:,} records\n"
        f"broker  {escape(outcome.broker)}; shipped in {spent['ship']:.1f} s\n"
        f"landed  {outcome.landed:,} of {outcome.shipped:,} by {how} in {spent['land']:.1f} s "
        f"(with start-up){settled}; {outcome.rejected:,} rejected, {outcome.duplicates:,} sent twice, "
        f"{outcome.twice:,} landed twice\n"
        f"found   {planted - len(outcome.missing)} of {planted} planted incidents, "
        f"{len(outcome.unplanted)} that nobody planted\n",
        soft_wrap=True,
    )
    _list(console, [finding for finding in outcome.findings if finding.alone])
    console.print("\n[bold]What no single record shows, with the first event that proves it:[/bold]\n")
    _list(console, [finding for finding in outcome.findings if not finding.alone])
    for incident in outcome.missing:
        _entry(console, incident.rule_id, "not found", incident.subject, incident.sentence)
    _coverage(console, outcome)
    _trace(console, outcome)
    _further(console, outcome)
    if not outcome.ok:
        console.print("\n[bold red]This is not what was planted: the demo failed.[/bold red]")


def _list(console: Console, findings: Sequence[Finding]) -> None:
    """Rule and subject on one line, what happened on the next: both stay whole on a narrow terminal."""
    for finding in sorted(findings, key=lambda f: (_SEVERITIES.index(f.severity), f.rule_id)):
        _entry(console, finding.rule_id, finding.severity, finding.subject, finding.sentence)
        if not finding.alone and finding.proof is not None:
            console.print(Text(f"         {finding.state}; {finding.proof}", "dim"), soft_wrap=True)


def _entry(console: Console, rule: str, label: str, subject: str, sentence: str | None) -> None:
    head = Text.assemble(
        (f"{label:8} ", STYLES.get(label, "bold")), (f"{rule:42} ", "bold"), (subject, "dim")
    )
    console.print(head, soft_wrap=True)
    console.print(Text(f"         {sentence or 'Nobody planted this.'}"), soft_wrap=True)


def _coverage(console: Console, outcome: Outcome) -> None:
    if outcome.coverage is None:
        return
    missing = ", ".join(f"{link.replace('_', ' ')} {share:.2%}" for link, share in outcome.reasons.items())
    console.print(
        f"\n[bold]coverage[/bold]  {outcome.coverage:.2%} of all accelerator-seconds have all four links; "
        f"missing: {missing or 'nothing'}",
        soft_wrap=True,
    )


def _trace(console: Console, outcome: Outcome) -> None:
    """One timeline as `sekisho trace` prints it."""
    if outcome.traced is None:
        return
    console.print(f"\n[dim]# sekisho trace --lake {escape(outcome.lake)} {outcome.traced}[/dim]")
    with closing(connect(outcome.lake)) as connection:
        for line in lines(trace(connection, outcome.traced, "allocation"), every=False):
            console.print(line, soft_wrap=True)


def _further(console: Console, outcome: Outcome) -> None:
    lake = shlex.quote(outcome.lake)
    console.print("\nLook further:")
    for question, query in queries():
        console.print(f"\n  [dim]# {escape(question)}[/dim]")
        print(f'  sekisho sql --lake {lake} "{query}"')
    for question, verb in (
        ("coverage by tenant", f"coverage --lake {lake} --by party"),
        ("decide about a finding, by its id", f"triage --lake {lake} ID --state acknowledged --reason …"),
    ):
        console.print(f"\n  [dim]# {question}[/dim]")
        print(f"  sekisho {verb}")

"""`sekisho scan`: judge files without Kafka."""

import json
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rules.rule import load_all
from rules.suppressions import load_suppressions
from schemas.errors import UsageError
from schemas.events import EVENTS
from schemas.reference import REFERENCES
from schemas.times import parse_time
from stream import memory
from stream.rules_option import rules_option
from stream.scan import Summary, scan


def _until(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    time = parse_time(text)
    if time is None:
        raise UsageError(f"--until {text!r} is not a time with an offset; write it like 2026-03-01T00:00:00Z")
    return time


@click.command("scan")
@click.option(
    "--in", "source", type=click.Path(path_type=Path), required=True, help="Folder of NDJSON files."
)
@click.option("--lake", type=click.Path(path_type=Path), required=True, help="Folder of the new lake.")
@rules_option
@click.option("--until", callback=_until, help="Judge as if a last tick came at this time (with an offset).")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def command(source: Path, lake: Path, root: Path, until: int | None, as_json: bool) -> None:
    """Run the pipeline over files: reference records first, then every event, then the reconciler, into a
    new lake.

    The folder may hold allocation, access, placement, party, principal, authorization, site, asset, source
    and screening, each as .ndjson. A file's line number is its record's offset. Exits 0 when all was
    landed, whatever was found.
    """
    records = (*REFERENCES.values(), *EVENTS.values())
    sizes = [f.stat().st_size for r in records if (f := source / f"{r.name}.ndjson").is_file()]
    memory.tune()
    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("reading", total=sum(sizes))
        known = load_all(root), load_suppressions(root)
        summary = scan(source, lake, known[0], until, lambda n: bar.advance(task, n), known[1])
    if as_json:
        print(json.dumps(vars(summary)))
    else:
        show(summary)
        click.echo(f'Look further: sekisho sql --lake {lake} "FROM finding ORDER BY events DESC"')


def show(summary: Summary) -> None:
    """Print what was read and found as tables."""
    console = Console()
    landed = Table("stream", "read", "rejected", "duplicates")
    for name, read in summary.read.items():
        landed.add_row(name, f"{read:,}", f"{summary.rejected[name]:,}", f"{summary.duplicates[name]:,}")
    console.print(landed)
    if summary.states:
        states = sorted({state for counts in summary.states.values() for state in counts})
        found = Table("rule", *states, title="Findings")
        for rule, counts in sorted(summary.states.items(), key=lambda item: -sum(item[1].values())):
            found.add_row(rule, *(f"{counts.get(state, 0):,}" for state in states))
        console.print(found)
    if summary.coverage is not None:
        console.print(f"Coverage: {summary.coverage:.2%} of accelerator-seconds, up to {summary.watermark}")

"""`sekisho doctor`: say what is wrong with topics, group and lake, and what to do."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sinks.lake import Lake
from stream.clients import admin_client, options
from stream.doctor import READ, Remark, Report, Topic, duration, examine
from stream.settings import load
from stream.topics import LOG_APPEND_TIME, TIMESTAMP_TYPE


@click.command("doctor")
@click.option("--brokers", help="Brokers as host:port,… (default: SEKISHO_BROKERS, else 127.0.0.1:9092).")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings, as a worker's.")
@click.option("--group", help="The workers' consumer group (default: SEKISHO_GROUP, else sekisho).")
@click.option("--lake", type=click.Path(path_type=Path), help="The workers' lake, to compare offsets with.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def command(
    brokers: str | None, config: Path | None, group: str | None, lake: Path | None, as_json: bool
) -> None:
    """Check topics, partitions, retention, timestamp type, lag, and the lake's offsets.

    Exits 1 when something is wrong: records are or will be lost, or workers cannot run. Notes do not count.
    """
    opened = None if lake is None else Lake.open(lake, repair=False)
    settings = load({"brokers": brokers, "group": group}, config)
    with admin_client(options(settings)) as admin:
        report = examine(admin, settings.group, opened.offsets if opened else None)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        _show(report)
    if not report.ok:
        sys.exit(1)


def _show(report: Report) -> None:
    # What is piped is not cut to the width of a terminal that is not there.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    if report.topics:
        console.print(_table(report))
    for mark, remarks in (("[red]problem[/]", report.problems), ("[yellow]note[/]", report.notes)):
        for line in _lines(remarks):
            console.print(f"{mark} {escape(line)}", soft_wrap=True)
    if report.ok:
        console.print("[green]nothing is wrong[/]")


def _table(report: Report) -> Table:
    table = Table("topic", "cleanup", "stamped by", box=None, pad_edge=False)
    for name in ("partitions", "copies", "records", "committed", "landed", "lag"):
        table.add_column(name, justify="right")
    for column in table.columns:
        column.no_wrap = True
    for topic in report.topics:
        table.add_row(*_cells(topic, report.lake))
    return table


def _cells(topic: Topic, lake: bool) -> list[str]:
    parts = topic.partitions.values()
    lake = lake and topic.name in READ
    committed = [part.committed for part in parts if part.committed is not None]
    kept = "" if topic.retention_ms is None else f" {duration(topic.retention_ms)}"
    return [
        topic.name,
        ",".join(sorted(topic.cleanup)) + kept,
        "broker" if topic.settings.get(TIMESTAMP_TYPE) == LOG_APPEND_TIME else "emitter",
        str(len(parts) + len(topic.leaderless)),
        str(topic.replicas),
        f"{sum(part.end - part.start for part in parts):,}",
        f"{sum(committed):,}" if committed else "-",
        f"{sum(part.landed or 0 for part in parts):,}" if lake else "-",
        f"{sum(part.lag for part in parts):,}" if lake else "-",
    ]


def _lines(remarks: list[Remark]) -> Iterator[str]:
    """One line for each thing to do, naming the topics that share it."""
    topics: dict[tuple[str, str], list[str]] = {}
    for remark in remarks:
        topics.setdefault((remark.text, remark.action), []).append(remark.topic)
    for (text, action), names in topics.items():
        where = f"{', '.join(names)}: " if any(names) else ""
        yield f"{where}{text}; {action}"

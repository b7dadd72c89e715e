"""`sekisho produce`: ship NDJSON files to a topic."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from kafka.errors import KafkaError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.errors import SekishoError, UsageError
from stream.clients import admin_client, options, unreachable
from stream.produce import Limits, Shipper, Summary, check_topic, open_lines
from stream.settings import load
from stream.topics import CREATE_TIME, TIMESTAMP_TYPE, create_missing


@click.command("produce")
@click.option("--topic", required=True, help="Topic to write to, such as custody.access.")
@click.option("--brokers", help="Brokers as host:port,… (default: SEKISHO_BROKERS, else 127.0.0.1:9092).")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings, as a worker's.")
@click.option("--event-time", is_flag=True, help="Stamp events with their occurred_at, for replays.")
@click.option("--create", is_flag=True, help="Create the topic if it is missing.")
@click.option("--partitions", type=click.IntRange(1), default=3, show_default=True, help="With --create.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
def command(
    topic: str,
    brokers: str | None,
    config: Path | None,
    event_time: bool,
    create: bool,
    partitions: int,
    as_json: bool,
    files: tuple[Path, ...],
) -> None:
    """Ship NDJSON files (- is standard input) to a topic, one record a line.

    Lines that are no valid records are shipped as they are: the worker rejects them with a reason and keeps
    them. A reference line {"<id>": …, "tombstone_at": "<time>"} becomes a tombstone of that time. Exits 0
    when the broker has every line, 1 when it refused some.
    """
    connection = options(load({"brokers": brokers}, config))
    for file in files:
        if str(file) != "-" and (file.is_dir() or not file.exists()):
            raise UsageError(f"{file} is not a file")
    try:
        limits = _prepare(connection, topic, event_time, partitions if create else None)
        shipper = Shipper(topic, connection, event_time, limits)
    except KafkaError as error:
        raise unreachable(connection, error) from error
    try:
        _ship(shipper, files)
    finally:
        shipper.close()
        _show(shipper.summary, as_json)
    if shipper.summary.refused:
        raise SekishoError(
            f"{shipper.summary.refused:,} of {shipper.summary.read:,} records are refused by the topic, "
            f"the first at {shipper.summary.first_refusal}"
        )


def _prepare(connection: Mapping[str, Any], topic: str, event_time: bool, partitions: int | None) -> Limits:
    """Create the topic if asked to, check it, and return what it takes."""
    with admin_client(connection) as admin:
        if partitions is not None:
            # What is stamped with the past would be deleted at once under the broker's usual retention.
            replay = {TIMESTAMP_TYPE: CREATE_TIME, "retention.ms": "-1"} if event_time else {}
            create_missing(admin, [topic], partitions, overrides=replay)
        return check_topic(admin, topic, event_time)


def _ship(shipper: Shipper, files: tuple[Path, ...]) -> None:
    named = [file for file in files if str(file) != "-"]
    total = sum(file.stat().st_size for file in named) if len(named) == len(files) else None
    columns = (TextColumn("shipping"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("shipping", total=total)
        shipper.ship(open_lines(files, sys.stdin.buffer), lambda n: bar.advance(task, n))


def _show(summary: Summary, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**vars(summary), "sent": summary.sent}))
        return
    rate = summary.sent / summary.seconds if summary.seconds else 0.0
    text = f"{summary.sent:,} records to {summary.topic} in {summary.seconds:.1f} s ({rate:,.0f}/s)"
    if summary.tombstones:
        text += f", {summary.tombstones:,} of them tombstones"
    if summary.without_key:
        text += f", {summary.without_key:,} without a key"
    print(text)
    if summary.expired:
        print(
            f"warning: {summary.expired:,} are older than {summary.topic} keeps and will soon be deleted; "
            "set retention.ms=-1 on the topic while you replay",
            file=sys.stderr,
        )

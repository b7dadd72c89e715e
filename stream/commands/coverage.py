"""`sekisho coverage`: how much of the allocated accelerator time has its evidence, and what is missing."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from schemas.errors import UsageError
from schemas.times import parse_time
from sinks.coverage import GROUPS, Report, Share, report
from sinks.views import reading
from stream.terminal import clean, iso

_HOUR = 3600


def _at(_: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """Option callback: µs since the epoch (UTC)."""
    if text is None:
        return None
    time = parse_time(text)
    if time is None:
        raise UsageError(
            f"--{option.name} {text!r} is not a time with an offset; write it like 2026-03-01T00:00:00Z"
        )
    return time


@click.command("coverage")
@click.option("--lake", type=click.Path(path_type=Path), required=True, help="Folder of the lake.")
@click.option(
    "--by", type=click.Choice(GROUPS), default="site", help="What to break it down by.  [default: site]"
)
@click.option("--since", callback=_at, help="From this time on (with an offset).")
@click.option("--until", callback=_at, help="Up to this time, but no further than the watermark.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, in accelerator-seconds.")
def command(lake: Path, by: str, since: int | None, until: int | None, as_json: bool) -> None:
    """The headline: of all allocated accelerator time, how much has all four links of evidence: who, how,
    where and under what.

    Then coverage by site, party, model or day, what is missing in the rest, and utilisation: allocated over
    installed accelerator time of the same interval. Days are UTC.
    """
    if since is not None and until is not None and since >= until:
        raise UsageError("--since is not before --until; give an interval")
    with Console(stderr=True).status("adding up"), reading(lake) as connection:
        found = report(connection, by, since, until)
    if as_json:
        print(json.dumps(_plain(found, by), ensure_ascii=False))
    else:
        console = Console(highlight=False)
        for part in parts(found, by):
            console.print(part, soft_wrap=isinstance(part, (str, Text)))


def parts(found: Report, by: str) -> Iterator[RenderableType]:
    """The report as it is printed."""
    if found.watermark is None:
        yield "No coverage yet: a reconciler has to settle what workers land; start one (sekisho reconciler)."
        return
    span = " ".join(
        f"{word} {at:%Y-%m-%d %H:%M} UTC" for word, at in (("from", found.since), ("to", found.until)) if at
    )
    whole = found.whole
    if whole.coverage is None:
        yield f"No allocation {span}: coverage is of allocated accelerator time only."
    else:
        yield Text.assemble(
            ("Coverage ", "bold"),
            (percent(whole.coverage), "bold cyan"),
            f" of {_hours(whole.allocated)} allocated accelerator-hours {span}",
        )
    if whole.utilisation is not None:
        installed = f"{_hours(whole.installed)} installed accelerator-hours"
        yield f"Utilisation {percent(whole.utilisation)} of {installed}"
    if found.groups:
        yield ""
        yield _chart(found.groups, by)
    if found.missing:
        yield ""
        yield _missing(found)


def _chart(groups: list[Share], by: str) -> Table:
    table = Table(by, "covered", "", box=None, pad_edge=False, title_justify="left")
    table.columns[2].justify = "right"
    for name in ("allocated h", "installed h", "utilisation"):
        table.add_column(name, justify="right")
    for share in groups:
        bar = Bar(1, 0, share.coverage, width=30, color="cyan") if share.coverage is not None else ""
        table.add_row(
            Text(clean(str(share.name)) if share.name is not None else "unknown"),
            bar,
            percent(share.coverage) if share.coverage is not None else "no allocation",
            _hours(share.allocated),
            "-" if share.installed is None else _hours(share.installed),
            "-" if share.utilisation is None else percent(share.utilisation),
        )
    return table


def _missing(found: Report) -> Table:
    table = Table("missing evidence", "accelerator-hours", "of allocated", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for item in found.missing:
        links = ", ".join(link.replace("_", " ") for link in item.links)
        table.add_row(links, _hours(item.seconds), percent(item.seconds / found.whole.allocated))
    return table


def percent(ratio: float) -> str:
    """Two digits; never rounded up to a whole that is not one, nor down to nothing that is something."""
    shown = f"{ratio:.2%}"
    if shown == "100.00%" and ratio < 1:
        return "99.99%"
    return "0.01%" if shown == "0.00%" and ratio > 0 else shown


def _hours(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / _HOUR:,.1f}"


def _plain(found: Report, by: str) -> dict[str, Any]:
    """The report as JSON can hold it."""
    return {
        "since": _iso(found.since),
        "until": _iso(found.until),
        "watermark": _iso(found.watermark),
        **_numbers(found.whole),
        "missing": [
            {"links": list(item.links), "accelerator_seconds": item.seconds} for item in found.missing
        ],
        "by": by,
        "groups": [
            {by: None if share.name is None else str(share.name), **_numbers(share)} for share in found.groups
        ],
    }


def _numbers(share: Share) -> dict[str, float | None]:
    return {
        "coverage": share.coverage,
        "accelerator_seconds": share.allocated,
        "covered_accelerator_seconds": share.covered,
        "installed_accelerator_seconds": share.installed,
        "utilisation": share.utilisation,
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else iso(at)

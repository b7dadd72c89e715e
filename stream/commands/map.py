"""`sekisho map`: turn foreign logs into contract records."""

import json
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import orjson

from schemas import sources
from schemas.errors import SekishoError, UsageError
from schemas.sources.local_time import timezone_of

STREAMS = ("allocation", "access", "placement")

_SURROGATE = "lone_surrogate"
_REASONS = {_SURROGATE: "half of a character, which no record may hold"}
"""Beside those of the mapping."""


@dataclass
class Mapped:
    """All that a mapping gave: events by stream, and how often each reason left something out."""

    events: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    left_out: Counter[str] = field(default_factory=Counter)
    example: dict[str, str] = field(default_factory=dict)

    def add(self, item: sources.Event | sources.LeftOut) -> None:
        if isinstance(item, sources.Event) and not _is_text(item.fields):
            item = sources.LeftOut(f"event_id {item.fields['event_id']!a}", _SURROGATE)
        if isinstance(item, sources.Event):
            self.events[item.stream].append(item.fields)
        else:
            self.left_out[item.reason] += 1
            self.example.setdefault(item.reason, item.where)


def _is_text(fields: dict[str, Any]) -> bool:
    """Whether it can be written as UTF-8."""
    try:
        orjson.dumps(fields)
    except orjson.JSONEncodeError:
        return False
    return True


def _listed(_: click.Context, __: click.Parameter, name: str) -> str:
    sources.mapping(name)
    return name


@click.command("map")
@click.option("--source", callback=_listed, required=True, help=f"Format: {', '.join(sources.names())}.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the records.")
@click.option("--timezone", help="Zone of times without one: an IANA name, or an offset like +09:00.")
@click.option("--cluster", help="Slurm cluster, where the log does not name it.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
def command(
    source: str, out: Path, timezone: str | None, cluster: str | None, as_json: bool, files: tuple[Path, ...]
) -> None:
    """Turn foreign logs into contract records: OUT/allocation.ndjson and so on, as `sekisho scan` reads them.

    Records are written in the order of their event times. What cannot be mapped is counted with its reason
    on standard error and never guessed. Nothing that exists is overwritten.
    """
    taken = [name for stream in STREAMS if (name := out / f"{stream}.ndjson").exists()]
    if taken:
        raise UsageError(f"{taken[0]} exists; give --out a new folder")
    options = sources.Options(None if timezone is None else timezone_of(timezone), cluster or None)
    chosen = sources.mapping(source)
    mapped = Mapped()
    for item in chosen.read(files, options):
        mapped.add(item)
    _write(mapped, out)
    _show(mapped, chosen, out, as_json)


def _write(mapped: Mapped, out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for stream, events in mapped.events.items():
            events.sort(key=lambda fields: (fields["occurred_at"].rstrip("Z"), fields["event_id"]))
            with (out / f"{stream}.ndjson").open("x", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps(fields, ensure_ascii=False) + "\n" for fields in events)
    except OSError as error:
        raise SekishoError(f"cannot write {error.filename or out}: {error.strerror}") from error


def _show(mapped: Mapped, mapping: sources.Mapping, out: Path, as_json: bool) -> None:
    records = {stream: len(mapped.events[stream]) for stream in STREAMS if mapped.events.get(stream)}
    for reason, count in mapped.left_out.most_common():
        explained = (mapping.reasons | _REASONS)[reason]
        print(f"left out {count:,} ({reason}): {explained}; first {mapped.example[reason]}", file=sys.stderr)
    if as_json:
        print(json.dumps({"records": records, "left_out": dict(mapped.left_out)}))
        return
    for stream, count in records.items():
        print(f"{out / f'{stream}.ndjson'}: {count:,} records")
    if not records:
        print("no records")

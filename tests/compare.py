"""Holds a lake that `sekisho scan` wrote against the plain implementation's answer for the same directory.

For debugging: `python -m tests.compare --seed 7` generates, scans, and prints what differs, with `--chains`
on events that hang together.
"""

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from tests.chains import generate_chains
from tests.compare_history import differences_of, history_differences
from tests.generate import generate
from tests.lake_rows import plain, rows
from tests.plain.history import judge_all
from tests.plain.judge import ROW_RULES, Judged
from tests.plain.references import Version
from tests.plain.scan import Scanned, scan
from tests.plain.tables import EVENTS, IDS, REFERENCES
from tests.plain.values import time

__all__ = ["compare", "differences", "history_differences", "plain", "rows", "run_scan"]

At = tuple[str, int]  # topic, offset; the partition is 0


def run_scan(directory: Path, lake: Path, until: str | None = None) -> None:
    """`sekisho scan`, in this process."""
    from stream.commands.scan import command

    arguments = ["--in", str(directory), "--lake", str(lake), *(["--until", until] if until else [])]
    command.main(arguments, standalone_mode=False)


def by_offset(found: list[dict[str, Any]], what: str) -> Iterator[str | tuple[At, dict[str, Any]]]:
    """(coordinates, row); a text for coordinates that occur twice."""
    seen = set()
    for row in found:
        at = (row["topic"], row["offset"])
        if at in seen or row["partition"] != 0:
            yield f"{what}: {at} is there twice, or not in partition 0"
        seen.add(at)
        yield at, row


def differences(directory: Path, lake: Path, until: str | None = None) -> Iterator[str]:
    """Readable differences in what landed row by row, none when the plain implementation agrees."""
    yield from row_differences(scan(directory, None if until is None else time(until)), lake)


def row_differences(expected: Scanned, lake: Path) -> Iterator[str]:
    yield from raw_differences(expected, lake)
    for name in EVENTS:
        yield from event_differences(name, expected, lake)
    for name in REFERENCES:
        yield from version_differences(name, expected, lake)
    yield from finding_differences(expected, lake)


def _matched(
    expected: Mapping[At, Any], lake: Path, table: str, scanned: Scanned
) -> Iterator[str | tuple[At, dict[str, Any]]]:
    """The lake's rows that are expected; texts for those that are not, and for those that lack."""
    found: dict[At, dict[str, Any]] = {}
    for item in by_offset(rows(lake, table), table):
        if isinstance(item, str):
            yield item
        else:
            found[item[0]] = item[1]
    for at in sorted(expected.keys() - found.keys()):
        yield f"{table}: no row for {at}, payload {scanned.raw[at][0][:400]!r}"
    for at in sorted(found.keys() - expected.keys()):
        payload = scanned.raw[at][0][:400] if at in scanned.raw else "no record"
        yield f"{table}: a row for {at} that should not be there: {payload!r}"
    for at in sorted(found.keys() & expected.keys()):
        yield at, found[at]


def raw_differences(expected: Scanned, lake: Path) -> Iterator[str]:
    for item in _matched(expected.raw, lake, "raw", expected):
        if isinstance(item, str):
            yield item
            continue
        at, row = item
        payload, reason = expected.raw[at]
        told = (row["disposition"], row["reason"])
        due = ("accepted" if reason is None else "rejected", reason)
        if told != due:
            yield f"raw {at}: lake says {told}, expected {due}: {payload[:400]!r}"
        tombstone = at in expected.versions and not isinstance(expected.versions[at], Version)
        if row["value"] != payload and not tombstone:
            yield f"raw {at}: value {row['value'][:200]!r} is not the payload {payload[:200]!r}"


def _unlike(at: At, row: dict[str, Any], due: dict[str, Any], payload: bytes) -> Iterator[str]:
    for name, value in due.items():
        if name not in row:
            yield f"{at}: no column {name}"
        elif row[name] != value or type(row[name]) is not type(value):
            yield f"{at}: {name} is {row[name]!r}, expected {value!r}: {payload[:2000]!r}"


def event_differences(name: str, expected: Scanned, lake: Path) -> Iterator[str]:
    events = {at: event for at, event in expected.events.items() if at[0] == f"custody.{name}"}
    for item in _matched(events, lake, name, expected):
        if isinstance(item, str):
            yield item
            continue
        at, row = item
        fields, judged = events[at]
        due = {
            **fields,
            "party_id": judged.party_id,
            "party_id_sent": fields["party_id"],
            "party_version": judged.party_version,
            "authorization_version": judged.authorization_version,
            "site_version": judged.site_version,
            "sku_unknown": judged.sku_unknown,
            "future": judged.future,
            "verdicts": judged.verdicts,
        }
        row["verdicts"] = [rule for rule in row["verdicts"] if rule in ROW_RULES]
        yield from _unlike(at, row, due, expected.raw[at][0])


def version_differences(name: str, expected: Scanned, lake: Path) -> Iterator[str]:
    versions = {at: version for at, version in expected.versions.items() if at[0] == f"custody.{name}"}
    for item in _matched(versions, lake, name, expected):
        if isinstance(item, str):
            yield item
            continue
        at, row = item
        version = versions[at]
        if isinstance(version, Version):
            due = {**version.fields, "tombstone_at": None}
        else:
            key = dict(zip(IDS[name], version.key, strict=True))
            due = {**key, "version": None, "tombstone_at": version.at}
        yield from _unlike(at, row, due, expected.raw[at][0])


def finding_differences(expected: Scanned, lake: Path) -> Iterator[str]:
    """What fired at landing: (rule, subject) of each event, and the finding's id."""
    found: dict[At, set[tuple[str, str]]] = defaultdict(set)
    for row in rows(lake, "finding_event"):
        at, firing = (row["topic"], row["offset"]), (row["rule_id"], row["subject"])
        digest = hashlib.sha256("\n".join(firing).encode()).hexdigest()[:32]
        if row["finding_id"] != digest:
            yield f"finding_event {at}: finding_id {row['finding_id']} of {firing} should be {digest}"
        if row["rule_id"] in ROW_RULES and row["rule_id"] in verdicts(expected, at):
            found[at].add(firing)
            fields = expected.events[at][0]
            yield from _unlike(at, row, {n: fields[n] for n in ("event_id", "source", "occurred_at")}, b"")
    for at, (_, judged) in expected.events.items():
        if found[at] != judged.firings:
            lacks, extra = judged.firings - found[at], found[at] - judged.firings
            yield f"finding_event {at}: lacks {lacks or '{}'}, has {extra or '{}'}: {expected.raw[at][0]!r}"


def verdicts(expected: Scanned, at: At) -> list[str]:
    event: tuple[Any, Judged] | None = expected.events.get(at)
    return [] if event is None else event[1].verdicts


def compare(
    folder: Path, seed: int, events: int, chains: bool = False, history: bool = False
) -> Iterator[str]:
    """Generate `folder`/in, scan it into `folder`/lake, and yield the differences."""
    make = generate_chains if chains else generate
    generated = make(folder / "in", seed, events)
    run_scan(folder / "in", folder / "lake", generated.until)
    if not history:
        yield from differences(folder / "in", folder / "lake", generated.until)
        return
    expected = judge_all(folder / "in", None if generated.until is None else time(generated.until))
    yield from row_differences(expected.scanned, folder / "lake")
    yield from differences_of(expected, folder / "lake")


@click.command()
@click.option("--seed", type=int, required=True)
@click.option("--chains", is_flag=True, help="Events that hang together, of tests.chains.")
@click.option("--events", type=int, default=5000)
@click.option("--rows", "only_rows", is_flag=True, help="Leave findings, duplicates and coverage out.")
@click.option("--keep", type=click.Path(path_type=Path), help="Folder to leave the input and the lake in.")
@click.option("--most", type=int, default=20, help="Differences to print.")
def main(seed: int, chains: bool, events: int, only_rows: bool, keep: Path | None, most: int) -> None:
    """Print where `sekisho scan` and the plain implementation differ for one seed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        found = list(compare(folder, seed, events, chains, history=not only_rows))
    for difference in found[:most]:
        click.echo(difference)
    click.echo(f"{len(found)} differences")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()

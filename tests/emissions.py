"""What a lake must never show of its reconciler: anything said twice, a number missing or a step back."""

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.lake_rows import place, rows

Row = dict[str, Any]
WHEN = {"step", "ingested_at", "dt", "detected_at"}
ONLY_HOW = {*WHEN, "revision", "supersedes", "known", "message", "rule_sha256", "severity"}


def repetitions(lake: Path) -> Iterator[str]:
    """Readable faults in the tables that the reconciler writes, none in a sound lake."""
    yield from _steps(lake)
    yield from _histories(lake)
    yield from _events(lake)
    yield from _duplicates(lake)


def _steps(lake: Path) -> Iterator[str]:
    steps = sorted(rows(lake, "watermark"), key=lambda row: row["step"])
    if [row["step"] for row in steps] != list(range(1, len(steps) + 1)):
        yield f"watermark: steps are {[row['step'] for row in steps]}"
    for name in ("watermark", "raw_version", "latest_broker_time"):
        told = [row[name] for row in steps if row[name] is not None]
        if told != sorted(told):
            yield f"watermark: {name} goes back: {told}"


def _grouped(found: list[Row], *names: str) -> dict[tuple[Any, ...], list[Row]]:
    groups: defaultdict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in sorted(found, key=lambda row: row["step"] or 0):
        groups[tuple(row[name] for name in names)].append(row)
    return groups


def _said(row: Row, without: set[str]) -> Row:
    return {name: value for name, value in row.items() if name not in without}


def _histories(lake: Path) -> Iterator[str]:
    for (finding,), told in _grouped(rows(lake, "finding_history"), "finding_id").items():
        told = sorted(told, key=lambda row: row["revision"])
        about = f"finding_history {told[0]['rule_id']} {told[0]['subject']} ({finding})"
        if [row["revision"] for row in told] != list(range(1, len(told) + 1)):
            yield f"{about}: revisions are {[row['revision'] for row in told]}"
        for number, row in enumerate(told):
            if row["supersedes"] != (told[number - 1]["revision"] if number else None):
                yield f"{about}: revision {row['revision']} supersedes {row['supersedes']}"
            before = told[number - 1] if number else None
            if before is not None and before["step"] >= row["step"]:
                yield f"{about}: revision {row['revision']} came in step {row['step']} after {before['step']}"
            if before is not None and _said(before, ONLY_HOW) == _said(row, ONLY_HOW):
                yield f"{about}: revision {row['revision']} says nothing new"


def _events(lake: Path) -> Iterator[str]:
    """The workers' rows come first; of them one event may have several, a crash aside."""
    found = rows(lake, "finding_event")
    for key, told in _grouped(found, "finding_id", "topic", "partition", "offset").items():
        settled = [row for row in told if row["step"] is not None]
        at_landing = [row for row in told if row["step"] is None]
        for before, row in pairwise([*at_landing[-1:], *settled]):
            if _said(before, ONLY_HOW) == _said(row, ONLY_HOW):
                yield f"finding_event {row['rule_id']} {row['subject']} {key[1:]}: repeated in {row['step']}"
        if len({row["step"] for row in settled}) < len(settled):
            yield f"finding_event {key}: twice in a step"


def _duplicates(lake: Path) -> Iterator[str]:
    for key, told in _grouped(rows(lake, "duplicate"), "topic", "partition", "offset").items():
        originals = [place(row, "of_") for row in told]
        if originals != sorted(set(originals), reverse=True):
            yield f"duplicate {key}: originals are {originals}"

"""How long an investigator waits for the ten answers of `docs/questions.md`, and how that grows.

python -m benchmarks queries [--quick | --full]
"""

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from rich.console import Console
from rich.table import Table

from benchmarks.fleet_lake import land
from benchmarks.processes import machine
from benchmarks.questions import Question, read
from benchmarks.settling import settle
from benchmarks.size import Size
from benchmarks.spread import spread
from rules.reconciler.step import Reconciler
from rules.rule import load_all
from sinks.lake import Lake
from sinks.views import connect, write

EVENTS = {
    Size.QUICK: (1_000_000,),
    Size.USUAL: (1_000_000, 10_000_000),
    Size.FULL: (1_000_000, 10_000_000, 100_000_000),
}
STANDING = 100_000  # allocations that stay open
RATE = 1_000  # events a second
RUNS = 3


def run(size: Size) -> dict[str, Any]:
    """Lands and settles lakes of these many events, and asks each question `RUNS` times."""
    sizes = {str(events): _measure(events) for events in EVENTS[size]}
    return {"machine": machine(), "questions": {q.number: q.words for q in read()}, "events": sizes}


def show(results: Mapping[str, Any]) -> None:
    """Prints a table: seconds, a column a size."""
    about, sizes = results["machine"], results["events"]
    columns = [f"{int(events):,} events, s" for events in sizes]
    table = Table("question", *columns, title=f"{about['cpu']}, {about['cores']} cores")
    for column in table.columns[1:]:
        column.justify = "right"
    for number, words in results["questions"].items():
        found = [figures["seconds"][number] for figures in sizes.values()]
        table.add_row(f"{number}. {words}", *(f"{s['median']:.2f}" for s in found))
    table.add_row("making the views", *(f"{figures['views_seconds']:.2f}" for figures in sizes.values()))
    Console().print(table)


def _measure(events: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="sekisho-bench-"))
    try:
        _say(f"landing and settling {events:,} events")
        lake = _lake(folder, events)
        began = time.monotonic()
        with contextlib.closing(connect(lake)) as connection:
            views = time.monotonic() - began
            values = _values(connection)
            _say(f"asking of {events:,} events")
            seconds = {q.number: _ask(connection, q, values) for q in read()}
            files = sum(1 for _ in lake.rglob("*.parquet"))
    finally:
        shutil.rmtree(folder)
    return {"views_seconds": round(views, 3), "files": files, "seconds": seconds}


def _lake(folder: Path, events: int) -> Path:
    path, state = folder / "lake", folder / "state"
    state.mkdir()
    land(path, events, STANDING, RATE)
    lake = Lake.open(path)
    engine = Reconciler(state, load_all())
    for _ in settle(lake, engine, datetime.now(UTC)):
        pass
    engine.close()
    write(path)
    return path


def _ask(
    connection: duckdb.DuckDBPyConnection, question: Question, values: Mapping[str, str]
) -> dict[str, Any]:
    taken = []
    given = {name: values[name] for name in question.parameters}
    for _ in range(RUNS):
        began = time.monotonic()
        connection.execute(question.sql, given or None).fetchall()
        taken.append(time.monotonic() - began)
    return spread(taken, 3)


def _values(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """What is asked for: somebody in the middle of the records."""
    row = connection.execute(
        """SELECT serials[1] AS serial, (occurred_at + INTERVAL 1 SECOND)::VARCHAR AS at, party_id AS party,
          occurred_at::DATE::VARCHAR AS day, authorization_id AS authorization
        FROM allocation WHERE action = 'allocated' AND occurred_at >= (
          SELECT to_timestamp((epoch(min(occurred_at)) + epoch(max(occurred_at))) / 2) FROM allocation)
        ORDER BY occurred_at, allocation_id LIMIT 1"""
    )
    names = [column[0] for column in row.description or ()]
    values = dict(zip(names, row.fetchall()[0], strict=True))
    finding = connection.execute("SELECT min(finding_id) FROM finding").fetchall()[0][0]
    return {**values, "country": "JP", "finding": finding}


def _say(text: str) -> None:
    print(f"  {text} …", file=sys.stderr, flush=True)

"""What the peers of the benchmark are made to judge is what landing judges."""

import contextlib
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import versions
from benchmarks.peers.judge import join, judge
from schemas.events import EVENTS
from schemas.record import Record
from sinks.views import connect
from tests.compare import run_scan
from tests.generate import generate


@pytest.mark.parametrize("seed", [1])
def test_peers_find_what_landing_finds(seed: int, tmp_path: Path) -> None:
    records, lake = tmp_path / "records", tmp_path / "lake"
    generate(records, seed, events=800)
    run_scan(records, lake)
    references = versions.load(lake)
    judged = 0
    for record in EVENTS.values():
        for row in rows(lake, record):
            event = {name: row[name] for name in record.by_name} | {"party_id": row["party_id_sent"]}
            joined = join(references, event, row["broker_time"])
            fired = judge(references, record.name, event, joined)
            assert sorted({rule for rule, _ in fired}) == row["verdicts"], event
            assert joined.party == row["party_id"], event
            judged += len(fired)
    assert judged > 100


def rows(lake: Path, record: Record) -> list[dict[str, Any]]:
    """The landed events with times in µs."""
    times = "* REPLACE (epoch_us(occurred_at) AS occurred_at, epoch_us(broker_time) AS broker_time)"
    with contextlib.closing(connect(lake)) as connection:
        table: Any = connection.sql(f'SELECT {times} FROM "{record.name}"').to_arrow_table()
    found: list[dict[str, Any]] = table.to_pylist()
    return found

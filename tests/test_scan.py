"""`sekisho scan` gives what a plain row-by-row reading of the contract gives, on generated records."""

import os
from itertools import islice
from pathlib import Path

import pytest

from rules.rule import load_all
from schemas.errors import UsageError
from sinks.lake import Lake
from stream.scan import scan
from tests.compare import compare

SEEDS = int(os.environ.get("SEKISHO_SEEDS", "24"))
FAST = 8  # of them, that do not count as slow
EVENTS = 2000
CHAINED, CHAINED_EVENTS = 8, 1500


@pytest.mark.parametrize(
    "seed", [*range(FAST), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(FAST, SEEDS))]
)
def test_scan_agrees_with_the_plain_implementation(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 2:  # many small batches and commits: versions and duplicates meet across them
        monkeypatch.setattr("stream.scan.BATCH_BYTES", 1 << 15)
        monkeypatch.setattr("stream.scan.COMMIT_BYTES", 1 << 19)
    found = list(islice(compare(tmp_path, seed, EVENTS, history=True), 10))
    assert not found, f"python -m tests.compare --seed {seed}:\n" + "\n".join(found)


def test_a_lake_that_is_in_use_is_refused_before_anything_lands(tmp_path: Path) -> None:
    """The first scan finds no file: it lands no record, but its reconciler has settled the lake."""
    (tmp_path / "in").mkdir()
    scan(tmp_path / "in", tmp_path / "lake", load_all())
    (tmp_path / "in" / "party.ndjson").write_text("{}\n")
    for _ in range(2):
        with pytest.raises(UsageError, match="scan into a new lake"):
            scan(tmp_path / "in", tmp_path / "lake", load_all())
    assert Lake.open(tmp_path / "lake").is_empty()


def test_nothing_lands_where_a_file_does_not_open(tmp_path: Path) -> None:
    (tmp_path / "in" / "placement.ndjson").mkdir(parents=True)
    (tmp_path / "in" / "party.ndjson").write_text("{}\n")
    with pytest.raises(UsageError, match=r"cannot read .*placement\.ndjson"):
        scan(tmp_path / "in", tmp_path / "lake", load_all())
    assert not (tmp_path / "lake").exists()


@pytest.mark.parametrize("seed", range(CHAINED))
def test_scan_agrees_on_events_that_hang_together(seed: int, tmp_path: Path) -> None:
    found = list(islice(compare(tmp_path, seed, CHAINED_EVENTS, chains=True, history=True), 10))
    called = f"python -m tests.compare --chains --seed {seed} --events {CHAINED_EVENTS}"
    assert not found, f"{called}:\n" + "\n".join(found)

"""`sekisho scan` gives what a plain row-by-row reading of the contract gives, on generated records."""

import os
from itertools import islice
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("seed", range(CHAINED))
def test_scan_agrees_on_events_that_hang_together(seed: int, tmp_path: Path) -> None:
    found = list(islice(compare(tmp_path, seed, CHAINED_EVENTS, chains=True, history=True), 10))
    called = f"python -m tests.compare --chains --seed {seed} --events {CHAINED_EVENTS}"
    assert not found, f"{called}:\n" + "\n".join(found)

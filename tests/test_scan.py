"""`sekisho scan` gives what a plain row-by-row reading of the contract gives, on generated records."""

import os
from itertools import islice
from pathlib import Path

import pytest

from tests.compare import compare

SEEDS = int(os.environ.get("SEKISHO_SEEDS", "50"))
EVENTS = 5000


@pytest.mark.parametrize("seed", range(SEEDS))
def test_scan_agrees_with_the_plain_implementation(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if seed % 2:  # many small batches and commits: versions and duplicates meet across them
        monkeypatch.setattr("stream.scan.BATCH_BYTES", 1 << 15)
        monkeypatch.setattr("stream.scan.COMMIT_BYTES", 1 << 19)
    found = list(islice(compare(tmp_path, seed, EVENTS), 10))
    assert not found, f"python -m tests.compare --seed {seed}:\n" + "\n".join(found)

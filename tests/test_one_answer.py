"""The same records give the same findings: in `scan`, live whatever happens, and in `replay`.

That `scan` gives the plain implementation's answer is tested in `test_scan.py`; here what arrives bit by bit
is held against the same answer.
"""

import os
from itertools import islice
from pathlib import Path

import pytest

from deploy.local_kafka import LocalKafka
from tests import live, one_answer

SEEDS = int(os.environ.get("SEKISHO_LIVE_SEEDS", "4"))
EVENTS, WILD_EVENTS = 250, 80
THROUGH_KAFKA = int(os.environ.get("SEKISHO_KAFKA_SEEDS", "4"))


# Of these seeds, 4 and 7 have events that come minutes late, 5 and 6 days; 5 and 7 have several partitions.
@pytest.mark.parametrize(
    "seed", [4, 5, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 4 + SEEDS))]
)
def test_steps_cut_anywhere_come_to_the_same(seed: int, tmp_path: Path) -> None:
    found = list(islice(one_answer.compare(tmp_path, seed, events=EVENTS), 10))
    called = f"python -m tests.one_answer --seed {seed} --events {EVENTS}"
    assert not found, f"{called}:\n" + "\n".join(found)


# Of seed 6 the watermark begins before 1970.
@pytest.mark.parametrize("seed", [pytest.param(1, marks=pytest.mark.slow), 6])
def test_events_that_hang_together_by_chance_come_to_the_same(seed: int, tmp_path: Path) -> None:
    found = list(islice(one_answer.compare(tmp_path, seed, events=WILD_EVENTS, wild=True), 10))
    called = f"python -m tests.one_answer --wild --seed {seed} --events {WILD_EVENTS}"
    assert not found, f"{called}:\n" + "\n".join(found)


@pytest.mark.parametrize("seed", [1])
def test_kafka_workers_and_reconciler_come_to_the_same(kafka: LocalKafka, seed: int, tmp_path: Path) -> None:
    assert_same(kafka, seed, tmp_path, kills=0)


def test_kills_and_lost_states_come_to_the_same(kafka: LocalKafka, tmp_path: Path) -> None:
    assert_same(kafka, 3, tmp_path, kills=4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4, 4 + THROUGH_KAFKA))
def test_kills_and_lost_states_come_to_the_same_with_many_seeds(
    kafka: LocalKafka, seed: int, tmp_path: Path
) -> None:
    assert_same(kafka, seed, tmp_path, kills=seed % 7)


def assert_same(kafka: LocalKafka, seed: int, folder: Path, kills: int) -> None:
    found = list(islice(live.compare(kafka, folder, seed, kills=kills), 10))
    assert not found, f"python -m tests.live --seed {seed} --kills {kills}:\n" + "\n".join(found)

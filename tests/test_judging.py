"""What the worker's middle publishes of the findings that fire at landing."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from rules.judge import Judge
from rules.rule import Rule, Status, load
from rules.suppressions import Suppression
from stream.fetches import Fetch
from stream.judging import Batch, Judged, Judging
from stream.record_batches import from_rows
from tests.rule_files import RULE, write

TODAY = datetime.now(UTC).date()
PARTIES = ("P-1", "P-2", "Q-1")


@pytest.fixture
def rule(tmp_path: Path) -> Rule:
    """Fires about the party of an access that sent more than 100 bytes."""
    return load(write(tmp_path, RULE))


def batch(start: int = 0) -> Batch:
    """An access of each of PARTIES that the rule fires on."""
    values = [
        {"event_id": f"e{number}", "source": "s", "action": "call", "bytes_out": 101}
        | {"occurred_at": "2026-03-01T10:00:00Z", "party_id": party, "operation": "y"}
        for number, party in enumerate(PARTIES, start)
    ]
    rows = ((start + n, 1_772_000_000_000, None, None, orjson.dumps(value)) for n, value in enumerate(values))
    fetch = Fetch("custody.access", 0, start, start + len(values), from_rows(rows), 1)
    return Batch([fetch], len(values), 0, time.monotonic())


def told(judged: Judged) -> list[str]:
    return sorted(orjson.loads(value)["subject"] for _, value in judged.messages)


def judging(rule: Rule, suppressions: Sequence[Suppression] = ()) -> Judging:
    return Judging(Judge([rule]), {}, suppressions)


def suppression(subject: str, expires: date = TODAY) -> Suppression:
    return Suppression("flag.access.big", subject, "someone", "because", expires, Path("known.toml"))


def test_a_finding_is_told_once_and_every_firing_lands(rule: Rule) -> None:
    middle = judging(rule)
    first, second = middle.judge(batch()), middle.judge(batch(3))
    assert told(first) == [f"party:{party}" for party in PARTIES]
    assert told(second) == []
    assert [landing.findings.num_rows for judged in (first, second) for landing in judged.landings] == [3, 3]


def test_what_an_experimental_rule_finds_lands_and_is_not_told(rule: Rule) -> None:
    judged = judging(replace(rule, status=Status.EXPERIMENTAL)).judge(batch())
    assert told(judged) == []
    assert judged.landings[0].findings.num_rows == 3


def test_what_is_suppressed_lands_and_is_not_told(rule: Rule) -> None:
    judged = judging(rule, [suppression("party:P-*"), suppression("party:Q-11")]).judge(batch())
    assert told(judged) == ["party:Q-1"]
    assert judged.landings[0].findings.num_rows == 3


def test_a_suppression_that_has_expired_hides_nothing(rule: Rule) -> None:
    expired = suppression("party:P-1", TODAY - timedelta(days=2))
    assert told(judging(rule, [expired]).judge(batch())) == [f"party:{party}" for party in PARTIES]

"""The worker's middle: what it publishes of the findings that fire at landing, and what it knows."""

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
from schemas.reference import PARTY
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


def judge(middle: Judging, batch: Batch) -> Judged:
    return middle.judge(middle.decode(batch))


def suppression(subject: str, expires: date = TODAY) -> Suppression:
    return Suppression("flag.access.big", subject, "someone", "because", expires, Path("known.toml"))


def test_a_finding_is_told_once_and_every_firing_lands(rule: Rule) -> None:
    middle = judging(rule)
    first, second = judge(middle, batch()), judge(middle, batch(3))
    assert told(first) == [f"party:{party}" for party in PARTIES]
    assert told(second) == []
    assert [landing.findings.num_rows for judged in (first, second) for landing in judged.landings] == [3, 3]


def test_what_an_experimental_rule_finds_lands_and_is_not_told(rule: Rule) -> None:
    judged = judge(judging(replace(rule, status=Status.EXPERIMENTAL)), batch())
    assert told(judged) == []
    assert judged.landings[0].findings.num_rows == 3


def test_what_is_suppressed_lands_and_is_not_told(rule: Rule) -> None:
    judged = judge(judging(rule, [suppression("party:P-*"), suppression("party:Q-11")]), batch())
    assert told(judged) == ["party:Q-1"]
    assert judged.landings[0].findings.num_rows == 3


def test_a_suppression_that_has_expired_hides_nothing(rule: Rule) -> None:
    expired = suppression("party:P-1", TODAY - timedelta(days=2))
    assert told(judge(judging(rule, [expired]), batch())) == [f"party:{party}" for party in PARTIES]


def parties(start: int, end: int) -> Fetch:
    """A version of a party of its own at each offset."""
    values = [
        {"party_id": f"P-{offset}", "version": 1, "valid_from": "2026-01-01T00:00:00Z", "status": "verified"}
        for offset in range(start, end)
    ]
    rows = [
        (start + n, 1_772_000_000_000, b"P-%d" % (start + n), None, orjson.dumps(value))
        for n, value in enumerate(values)
    ]
    return Fetch("custody.party", 0, start, end, from_rows(rows), 1)


def test_what_another_worker_landed_is_learned_after_its_partition_was_taken_over(rule: Rule) -> None:
    """The follower has come to 4, another worker landed 4 and 5, and this one is given what follows."""
    place, middle = ("custody.party", 0), judging(rule)
    middle.learn([parties(0, 4)])
    assert middle.lacks(middle.decode(Batch([parties(6, 7)], 1, 0, time.monotonic())))
    taken_over = judge(middle, Batch([parties(6, 7)], 1, 0, time.monotonic()))
    assert taken_over.known == {place: 4}, "4 and 5 are not known, whatever is known after them"
    assert middle.references.count(PARTY) == 5
    middle.learn([parties(4, 7)])
    assert not middle.lacks(middle.decode(Batch([parties(6, 8), parties(8, 9)], 3, 0, time.monotonic())))
    assert middle.references.known == {place: 7}
    assert middle.references.count(PARTY) == 7


def test_what_is_read_on_where_it_is_known_counts_as_known(rule: Rule) -> None:
    place, middle = ("custody.party", 0), judging(rule)
    assert judge(middle, Batch([parties(0, 2)], 2, 0, time.monotonic())).known == {place: 2}
    assert judge(middle, Batch([parties(2, 3), parties(3, 5)], 3, 0, time.monotonic())).known == {place: 5}
    middle.learn([parties(1, 4)])
    assert middle.references.known == {place: 5}
    assert middle.references.count(PARTY) == 5

"""Timelines: how lines become records, in which order they arrive, and how a test fails."""

import re
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from rules.judge import Judge
from rules.playing import Outcome, land, play, run_test
from rules.public_views import VIEWS
from rules.rule import RuleTest, load_all
from rules.timeline import BEGINNING, Baseline, Step, TimelineError, load_baseline, parse
from schemas.events import EVENTS
from schemas.reference import REFERENCES

BASELINE = load_baseline()
RULES = load_all()
JUDGE = Judge(RULES)


def steps(timeline: str) -> list[Step]:
    """The timeline's own records, without the rest of the baseline."""
    return [step for step in parse(timeline, BASELINE).steps if step.line]


def value(timeline: str) -> dict[str, Any]:
    (step,) = steps(timeline)
    assert step.bytes is not None
    read: dict[str, Any] = orjson.loads(step.bytes)
    return read


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def test_an_event_is_the_good_one_with_the_fields_named_and_without_the_nulls() -> None:
    made = value('10:00 access {"operation": "admin", "mfa": null}')
    good = dict(BASELINE.events["access"])
    del good["mfa"]
    assert made == {
        **good,
        "event_id": "e1",
        "occurred_at": "2026-03-02T10:00:00.000000+00:00",
        "operation": "admin",
    }


def test_event_ids_are_line_numbers_unless_given() -> None:
    made = steps('\n# a comment\n10:00 access\n10:01 placement {"event_id": "E"}\n')
    assert [step.value and step.value["event_id"] for step in made] == ["e3", "E"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("10:00", "2026-03-02T10:00:00Z"),
        ("10:00:30.000001", "2026-03-02T10:00:30.000001Z"),
        ("2026-02-03T09:00:00+09:00", "2026-02-03T00:00:00Z"),
    ],
)
def test_times_are_of_the_baselines_day_or_full(written: str, meant: str) -> None:
    (step,) = steps(f"{written} access")
    assert step.arrival == moment(meant)
    assert moment(str(step.value and step.value["occurred_at"])) == moment(meant)


def test_an_arrival_of_its_own_orders_the_records() -> None:
    made = steps("10:00 @10:20 access\n10:10 placement\n@10:10 party\nsite")
    assert [(step.record.name, step.arrival) for step in made] == [
        ("site", BEGINNING),
        ("party", moment("2026-03-02T10:10:00Z")),
        ("placement", moment("2026-03-02T10:10:00Z")),
        ("access", moment("2026-03-02T10:20:00Z")),
    ]


def test_a_reference_line_replaces_the_baselines_record_and_counts_its_versions() -> None:
    text = 'party {"status": "pending"}\n10:00 party\nparty {"party_id": "P-2"}\nparty {"version": 9}'
    parties = [step for step in parse(text, BASELINE).steps if step.record.name == "party"]
    seen = [(step.key, step.value and (step.value["version"], step.value["status"])) for step in parties]
    assert seen == [
        ("P-1", (1, "pending")),
        ("P-1", (2, "verified")),
        ("P-2", (1, "verified")),
        ("P-1", (9, "verified")),
    ]
    assert parties[1].value and parties[1].value["valid_from"] == "2026-03-02T10:00:00.000000+00:00"


def test_a_tombstone_leaves_the_baselines_record_to_end() -> None:
    text = '@10:00 site tombstone {"site_id": "S-2"}'
    made = [step for step in parse(text, BASELINE).steps if step.record.name == "site"]
    assert [(step.key, step.bytes is None) for step in made] == [
        ("S-1", False),
        ("S-2", False),
        ("S-2", True),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("10:00 acess", "line 1: write"),
        ("access", "an event needs a time"),
        ("25:00 access", "25:00 is no time"),
        ("2026-03-02T10:00:00 access", "is no time"),
        ("10:00 access {action}", "are not one JSON object"),
        ('10:00 access {"action": "opened"', "line 1: write"),
        ("site tombstone", "needs its arrival"),
        ("10:00 access tombstone", "is no tombstone"),
        ("until", "line 1: write"),
        ("until 25:00", "25:00 is no time"),
        ("until 10:00\n10:01 access", "line 2: nothing comes after until"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str, says: str) -> None:
    with pytest.raises(TimelineError) as caught:
        parse(line, BASELINE)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("timeline", "reason"),
    [
        ('10:00 access {"action": "entered"}', "enum:action"),
        ('10:00 allocation {"accelerators": "8"}', "type:accelerators"),
        ('site {"version": 1.5}', "type:version"),
        ('party\nparty {"version": 1, "status": "pending"}', "version_conflict"),
    ],
)
def test_a_record_that_is_rejected_is_an_error_of_the_timeline(timeline: str, reason: str) -> None:
    with pytest.raises(TimelineError, match=reason):
        land(parse(timeline, BASELINE), JUDGE)


def test_a_record_may_be_meant_to_be_rejected() -> None:
    meant = parse('10:00 access rejected {"action": "entered"}\n10:01 access', BASELINE)
    assert [step.rejected for step in meant.steps if step.line] == [True, False]
    assert land(meant, JUDGE) == set()
    with pytest.raises(TimelineError, match="line 1: the access record is not rejected"):
        land(parse("10:00 access rejected", BASELINE), JUDGE)


def test_until_is_the_last_tick() -> None:
    assert parse("10:00 access", BASELINE).until is None
    assert parse("10:00 access\nuntil 12:30", BASELINE).until == moment("2026-03-02T12:30:00Z")


def test_nothing_fires_in_the_good_world() -> None:
    good = "10:00 allocation\n10:01 access\n10:02 placement\n11:00 access"
    assert play(parse(good, BASELINE), RULES) == {}


def test_the_baseline_has_a_template_of_all_that_is_used() -> None:
    assert set(BASELINE.events) == {record.name for record in EVENTS.values()}
    assert set(BASELINE.references) == {record.name for record in REFERENCES.values()} - {"screening"}
    for record in EVENTS.values():
        assert set(BASELINE.events[record.name]) <= set(record.by_name)


def test_what_arrives_later_is_not_known_at_landing() -> None:
    late = parse('10:00 access\n@10:01 party {"status": "suspended"}', BASELINE)
    assert land(late, JUDGE) == {"gap.identity.unknown principal:corp:alice"}
    early = parse('10:00 access\n@09:59 party {"status": "suspended"}', BASELINE)
    assert land(early, JUDGE) == {"flag.identity.not_verified party:P-1"}


def test_what_arrives_later_counts_in_the_end() -> None:
    late = parse('10:00 access\n@10:01 party {"status": "suspended"}', BASELINE)
    assert play(late, RULES) == {
        "gap.identity.unknown principal:corp:alice": "withdrawn",
        "flag.identity.not_verified party:P-1": "confirmed",
    }


@pytest.mark.parametrize(("last", "states"), [("10:24:59", {}), ("10:25", {"allocation:AL-1": "confirmed"})])
def test_with_a_last_tick_the_watermark_is_behind_the_sources(last: str, states: dict[str, str]) -> None:
    other = '{"allocation_id": "AL-2", "serials": null}'
    found = play(parse(f"10:00 allocation\n{last} allocation {other}\nuntil 10:30", BASELINE), RULES)
    assert found == {f"gap.location.no_placement {subject}": state for subject, state in states.items()}


def outcome(timeline: str, *fires: str, baseline: Baseline = BASELINE) -> Outcome:
    return run_test(RULES[0], RuleTest("t", timeline, fires), RULES, baseline)


def test_a_test_fails_by_what_is_missing_unexpected_or_unreadable() -> None:
    suspended = 'party {"status": "suspended"}\n10:00 access'
    expected = "flag.identity.not_verified party:P-1"
    assert outcome(suspended, expected).passed
    holds = f"{expected} (confirmed)"
    assert outcome(suspended).unexpected == (holds,)
    wrong = outcome(suspended, "flag.identity.not_verified party:P-2")
    assert (wrong.missing, wrong.unexpected) == (("flag.identity.not_verified party:P-2",), (holds,))
    assert not wrong.passed
    unread = outcome("10:00 acess")
    assert unread.error and not unread.passed


def test_a_line_may_state_how_far_a_finding_has_come() -> None:
    suspended = 'party {"status": "suspended"}\n10:00 access'
    expected = "flag.identity.not_verified party:P-1"
    assert outcome(suspended, f"{expected} (confirmed)").passed
    assert outcome(f"{suspended}\nuntil 10:09", f"{expected} (provisional)").passed
    early = outcome(suspended, f"{expected} (provisional)")
    assert (early.missing, early.unexpected) == ((f"{expected} (provisional)",), ())
    gone = outcome(suspended, f"{expected} (withdrawn)")
    assert (gone.missing, gone.unexpected) == ((f"{expected} (withdrawn)",), (f"{expected} (confirmed)",))
    late = "10:00 access\n@10:01 party"
    assert outcome(late).passed
    assert outcome(late, "gap.identity.unknown principal:corp:alice (withdrawn)").passed


def test_a_bad_baseline_shows_in_every_test() -> None:
    party = {**BASELINE.references["party"][0], "status": "suspended"}
    bad = replace(BASELINE, references={**BASELINE.references, "party": (party,)})
    assert not outcome("10:00 access", baseline=bad).passed


def test_the_example_of_the_guide_is_true() -> None:
    guide = Path(__file__).parent.parent / "docs" / "writing-a-rule.md"
    (example,) = re.findall(r"```toml\n(\[\[tests\]\].*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    (test,) = tomllib.loads(example)["tests"]
    assert outcome(test["timeline"], *test["fires"]).passed and test["fires"]


def test_the_example_of_the_other_guide_is_the_rule_itself() -> None:
    guide = Path(__file__).parent.parent / "docs" / "writing-a-deadline-rule.md"
    text = guide.read_text(encoding="utf-8")
    (sql,) = re.findall(r"```sql\n(select .*?)```", text, re.DOTALL)
    (rule,) = (rule for rule in RULES if rule.id == "gap.location.no_placement")
    assert sql.strip() == rule.condition
    listed = set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE))
    assert set(VIEWS) <= listed
    for name, view in VIEWS.items():
        (row,) = re.findall(rf"^\| `{name}` .*$", text, re.MULTILINE)
        assert set(view.columns) - {"event"} <= set(re.findall(r"`(\w+)`", row)), name

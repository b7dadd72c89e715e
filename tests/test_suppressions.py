"""Suppressions: what a file may say, what it hides from whom, and for how long."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from rules.lint import lint
from rules.lock import write_lock
from rules.reconciler import findings
from rules.rule import RuleError, load_all
from rules.suppressions import Suppression, load_suppressions
from stream.commands.rules import command
from tests.finding_steps import EPOCH, MINUTE, ROW, Engine, Firing, Step, history_lines, rules
from tests.rule_files import RULE, write

FILE = """\
rule = "flag.access.big"
subject = "party:P-1"
owner = "someone"
reason = "Known, change 4711."
expires = 2026-03-02
"""
DAY = 24 * 60 * MINUTE
LAST = (date(2026, 3, 2) - EPOCH.date()).days * DAY


def suppress(root: Path, text: str = FILE, name: str = "known.toml") -> Path:
    path = root / "suppressions" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def of(subject: str, expires: date = date(1970, 1, 1)) -> Suppression:
    return Suppression(ROW, subject, "someone", "because", expires, Path("known.toml"))


def test_a_file_is_read_and_is_no_rule(tmp_path: Path) -> None:
    write(tmp_path, RULE)
    path = suppress(tmp_path)
    (found,) = load_suppressions(tmp_path)
    assert found == Suppression(
        "flag.access.big", "party:P-1", "someone", "Known, change 4711.", date(2026, 3, 2), path
    )
    assert [rule.id for rule in load_all(tmp_path)] == ["flag.access.big"]
    assert load_suppressions(tmp_path / "access") == ()


def test_it_is_in_force_to_the_end_of_its_last_day() -> None:
    found = of("a", date(2026, 3, 2))
    assert [found.in_force(at) for at in (0, LAST, LAST + DAY - 1, LAST + DAY)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('rule = "flag.access.big"', "", "rule must be a text"),
        ('"party:P-1"', "7", "subject must be a text"),
        ('"party:P-1"', '"*"', "is all of the rule"),
        ('"someone"', '" "', "owner must be a text"),
        ('reason = "Known, change 4711."', "", "reason must be a text"),
        ("2026-03-02", '"2026-03-02"', "expires must be a date"),
        ("2026-03-02", "2026-03-02T00:00:00Z", "expires must be a date"),
        ("expires", "untill = 1\nexpires", "untill is not a field"),
        ("expires", "expires = ", "is not TOML"),
    ],
)
def test_a_fault_is_one_line_that_names_the_file(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in FILE
    write(tmp_path, RULE)
    path = suppress(tmp_path, FILE.replace(old, new, 1))
    with pytest.raises(RuleError) as caught:
        load_suppressions(tmp_path)
    text = str(caught.value)
    assert says in text and str(path) in text and "\n" not in text
    assert [problem.path for problem in lint(tmp_path)] == [path]


def test_lint_refuses_what_has_expired_and_rules_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path, RULE)
    write_lock(load_all(tmp_path), tmp_path / "rules.lock")
    suppress(tmp_path)
    assert lint(tmp_path, date(2026, 3, 2)) == []
    (expired,) = lint(tmp_path, date(2026, 3, 3))
    assert "expired on 2026-03-02; delete it, or have someone decide anew" in expired.text
    suppress(tmp_path, FILE.replace("access.big", "access.bug"))
    (unknown,) = lint(tmp_path, date(2026, 3, 2))
    assert "there is no rule flag.access.bug" in unknown.text


def test_an_expired_file_fails_the_command(tmp_path: Path) -> None:
    write(tmp_path, RULE)
    write_lock(load_all(tmp_path), tmp_path / "rules.lock")
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    for expires, status in ((yesterday, 1), (yesterday + timedelta(days=3), 0)):
        path = suppress(tmp_path, FILE.replace("2026-03-02", str(expires)))
        result = CliRunner().invoke(command, ["lint", "--json", "--rules", str(tmp_path)])
        assert result.exit_code == status, result.output
        assert [one["path"] for one in json.loads(result.output)] == [str(path)] * status


def settled(engine: Engine, at: float) -> dict[str, tuple[bool, bool]]:
    """Subject → (suppressed, published) of the rows that a settling at this minute writes."""
    emission = engine.settle(0, at)
    rows = zip(emission.history.to_pylist(), emission.published.to_pylist(), strict=True)
    return {row["subject"]: (row["suppressed"], published) for row, published in rows}


def test_what_is_suppressed_is_recorded_but_neither_published_nor_counted(tmp_path: Path) -> None:
    engine = Engine(rules(tmp_path), (of("party:A"), of("party:B*"), of("party:*", date(1969, 12, 31))))
    names = ("party:A", "party:AA", "party:B", "party:BB", "C")
    engine.take(Step([Firing(ROW, name, 1, t=1) for name in names]))
    hidden, told = (True, False), (False, True)
    assert settled(engine, 0) == dict(zip(names, (hidden, told, hidden, hidden, told), strict=True))
    assert findings.open_counts(engine.con) == [(ROW, "high", 2)]


def test_once_it_expires_its_open_findings_are_told(tmp_path: Path) -> None:
    engine = Engine(rules(tmp_path), (of("a"), of("b")))
    engine.take(Step([Firing(ROW, "a", 1, t=1), Firing(ROW, "b", 2, t=1), Firing(ROW, "c", 2, t=1)]))
    settled(engine, 0)
    engine.take(Step(row=[2]))
    assert settled(engine, 1) == {"b": (True, False), "c": (False, True)}
    assert settled(engine, 24 * 60 - 1) == {}
    assert settled(engine, 24 * 60) == {"a": (False, True)}
    assert findings.open_counts(engine.con) == [(ROW, "high", 1)]
    assert settled(engine, 24 * 60 + 1) == {}


def test_a_new_suppression_takes_effect_on_what_is_open(tmp_path: Path) -> None:
    engine = Engine(rules(tmp_path))
    engine.take(Step([Firing(ROW, "a", 1, t=1)]))
    settled(engine, 0)
    engine.suppressions = (of("a"),)
    emission = engine.settle(0, 0.1)
    assert history_lines(emission) == ["a 2 provisional 1"]
    assert emission.published.to_pylist() == [False]
    assert findings.open_counts(engine.con) == [(ROW, "high", 0)]

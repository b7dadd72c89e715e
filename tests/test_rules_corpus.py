"""The rules themselves: what the contract lists, their timelines, the corpus checks, the lock, the verbs."""

import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from setuptools import find_namespace_packages  # type: ignore[import-untyped]

from rules.citations import load_citations
from rules.judge import Judge, connect
from rules.lint import lint
from rules.lock import PATH, read_lock, write_lock
from rules.playing import compare, land, run_test
from rules.query import is_query
from rules.rule import ROOT, Kind, Rule, load_all
from rules.timeline import load_baseline, parse
from schemas import countries
from schemas.errors import SekishoError
from stream.commands.rules import command
from tests.plain.history import judge_all
from tests.rule_files import RULE, write

RULES = load_all()
BY_ID = {rule.id: rule for rule in RULES}
JUDGE = Judge(RULES)
BASELINE = load_baseline()
ALL = "allocation access placement"

CONTRACT = {  # id → streams, subject, each (contract section 4, row rules)
    "gap.identity.unknown": (ALL, "party", None),
    "flag.identity.ambiguous": (ALL, "principal", None),
    "flag.identity.not_verified": (ALL, "party", None),
    "gap.identity.stale": (ALL, "party", None),
    "gap.identity.unscreened": (ALL, "party", None),
    "flag.identity.screening_match": (ALL, "party", None),
    "flag.identity.restricted_hq": ("allocation access", "party", None),
    "gap.identity.hq_unknown": ("allocation", "party", None),
    "gap.access.method_missing": ("access", "source", None),
    "gap.access.broker_unnamed": ("access", "party", None),
    "flag.access.broker_unregistered": ("access allocation", "party broker", None),
    "flag.access.restricted_country": ("access", "party country", None),
    "flag.access.country_outside_authorization": ("access", "authorization country", None),
    "flag.access.method_outside_authorization": ("access", "authorization method", None),
    "gap.location.site_unknown": ("placement", "site/source", None),
    "flag.location.outside_authorization": ("placement allocation", "authorization site", None),
    "flag.location.asset_elsewhere": ("placement allocation", "serial", "serials"),
    "gap.location.no_reverification": ("placement", "workload", None),
    "gap.authorization.missing": ("allocation", "allocation", None),
    "gap.authorization.not_in_force": ("access placement", "authorization", None),
    "flag.authorization.party_not_covered": ("allocation access", "authorization party", None),
    "flag.authorization.item_not_covered": ("allocation", "authorization model", None),
    "gap.authorization.condition_overdue": ("allocation", "authorization condition", "conditions"),
    "gap.procurement.serial_unknown": ("allocation", "serial", "serials"),
    "flag.procurement.asset_not_installed": ("allocation", "serial", "serials"),
    "flag.procurement.model_mismatch": ("allocation", "serial", "serials"),
    "gap.source.clock": (ALL, "source", None),
}


def test_every_row_rule_of_the_contract_is_there_and_stable() -> None:
    rows = {rule.id: rule for rule in RULES if rule.kind is Kind.ROW}
    assert set(CONTRACT) <= set(rows)
    for name, (streams, subject, each) in CONTRACT.items():
        rule = rows[name]
        assert sorted(rule.streams) == sorted(streams.split()), name
        assert (rule.subject, rule.each, rule.status) == (tuple(subject.split()), each, "stable"), name


def has_late(timeline: str) -> bool:
    """Whether files cannot hold it: they have no arrivals."""
    return any(step.late for step in parse(timeline, BASELINE).steps)


def all_timelines() -> Iterator[Any]:
    """Every rule and the number of its test; slow where `land` and the plain implementation see it all."""
    for rule in RULES:
        for number, test in enumerate(rule.tests):
            quick = is_query(rule) or has_late(test.timeline)
            marks = () if quick else (pytest.mark.slow,)
            yield pytest.param(rule, number, id=f"{rule.id}-{number}", marks=marks)


@pytest.mark.parametrize(("rule", "number"), list(all_timelines()))
def test_timelines_fire_exactly_what_they_say(rule: Rule, number: int) -> None:
    outcome = run_test(rule, rule.tests[number], RULES, BASELINE)
    assert outcome.passed, outcome


@pytest.mark.parametrize("rule", RULES, ids=BY_ID)
def test_the_plain_implementation_says_the_same_of_timelines_that_files_can_hold(
    rule: Rule, tmp_path: Path
) -> None:
    for number, test in enumerate(rule.tests):
        if has_late(test.timeline):
            continue
        timeline = parse(test.timeline, BASELINE)
        folder = tmp_path / str(number)
        folder.mkdir()
        for step in timeline.steps:
            with (folder / f"{step.record.name}.ndjson").open("ab") as file:
                file.write((step.bytes or b"") + b"\n")
        epoch, tick = datetime(1970, 1, 1, tzinfo=UTC), timeline.until
        until = None if tick is None else (tick - epoch) // timedelta(microseconds=1)
        found = judge_all(folder, until).findings
        states = {f"{rule_id} {subject}": one.state for (rule_id, subject), one in found.items()}
        outcome = compare(rule, test, states)
        assert outcome.passed, outcome


@pytest.mark.parametrize("name", CONTRACT)
@pytest.mark.parametrize("condition", ["false", "true"])
def test_a_row_rules_own_timelines_notice_a_broken_condition(name: str, condition: str) -> None:
    rule = BY_ID[name]
    broken = replace(rule, condition=condition, parameters=())
    judge = Judge([broken if other.id == name else other for other in RULES])
    timelines = [parse(test.timeline, BASELINE) for test in rule.tests]
    assert any(land(timeline, judge) != land(timeline, JUDGE) for timeline in timelines)


@pytest.mark.parametrize("name", [rule.id for rule in RULES if is_query(rule)])
@pytest.mark.parametrize("never", [True, False])
def test_a_deadline_rules_own_timelines_notice_a_broken_condition(name: str, never: bool) -> None:
    rule = BY_ID[name]
    start = rule.condition.partition("\nwhere")[0]
    broken = replace(rule, condition=f"{start}\nwhere {'false' if never else 'true'}", parameters=())
    if "$" in start:  # the window is needed to join
        broken = replace(broken, parameters=rule.parameters)
    rules = [broken if other.id == name else other for other in RULES]
    if not never and name in ("gap.source.rejected", "flag.procurement.serial_double_allocated"):
        return  # the view holds little else
    assert not all(run_test(broken, test, rules, BASELINE).passed for test in broken.tests)


@pytest.mark.parametrize(
    ("rule", "stream"),
    [pytest.param(r, s, id=f"{r.id}-{s}") for r in RULES for s in r.streams if r.kind is Kind.ROW],
)
def test_a_row_rule_is_shown_to_fire_on_each_of_its_streams(rule: Rule, stream: str) -> None:
    fired: set[str] = set()
    for test in rule.tests:
        timeline = parse(test.timeline, BASELINE)
        steps = tuple(s for s in timeline.steps if not s.record.is_event or s.record.name == stream)
        fired |= land(replace(timeline, steps=steps), JUDGE)
    assert any(line.startswith(f"{rule.id} ") for line in fired)


def test_the_corpus_is_in_order() -> None:
    assert lint() == []


def test_every_citation_is_used_and_bears_its_mark() -> None:
    citations = load_citations()
    assert set(citations) == {name for rule in RULES for name in rule.citations}
    assert citations["HQ26-1"].mark == "C" and "HQ26-1 [C]" in str(citations["HQ26-1"])
    assert citations["PS25-2"].mark == "R" and citations["CBC-08"].mark == "S"


def test_the_rule_files_are_part_of_the_package() -> None:
    root = ROOT.parent
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = find_namespace_packages(str(root), include=settings["packages"]["find"]["include"])
    assert {f"rules.{rule.link}" for rule in RULES} <= set(packages)
    assert {"*.toml", "*.lock"} <= set(settings["package-data"]["*"])


def corpus(root: Path, *changes: tuple[str, str]) -> Path:
    text = RULE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    write(root, text)
    return root


def test_a_sound_rule_has_no_problems(tmp_path: Path) -> None:
    corpus(tmp_path)
    assert [problem.text for problem in lint(tmp_path)] == [
        "flag.access.big is not locked; run `sekisho rules lock`"
    ]
    write_lock(load_all(tmp_path), tmp_path / "rules.lock")
    assert lint(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            [('id = "flag.access.big"', 'id = "flag.access.bigger"')],
            "belongs into access/flag.access.bigger.toml",
        ),
        ([('id = "flag.access.big"', 'id = "flag.weather.big"')], "link weather is none of"),
        ([('citations = ["AU-3"]', 'citations = ["AU-33"]')], "citation AU-33 is not in citations.toml"),
        ([('severity = "high"', 'severity = "low"')], "severity low does not fit a flag"),
        ([("enforced = false", "enforced = true")], "what is not codified cannot be enforced"),
        ([("codified = false", "codified = true\nfrom = 2026-02-01\nto = 2026-01-01")], "to is before from"),
        ([('title = "Big"', 'title = "A violation"')], "title passes a verdict of law"),
        ([("sent more than {limit}", "sent {much}")], "{much} is neither subject nor a parameter"),
        ([("{subject} sent more", "Someone sent more")], "does not name its {subject}"),
        ([("bytes_out > $limit", "bytes_out > 100")], "parameter limit is not used"),
        ([('fires = ["flag.access.big party:P-1"]', "fires = []")], "no test in which it fires"),
        ([("fires = []", 'fires = ["flag.access.big party:P-1"]')], "no test in which it stays silent"),
        ([('name = "no more"', 'name = "more"')], "two tests of one name"),
        ([("bytes_out > $limit", "byte_out > $limit")], "byte_out is no field"),
        ([("bytes_out > $limit", "bytes_out > $limits")], "$limits is no parameter"),
        ([("bytes_out > $limit", "bytes_out > $limit and t < now()")], "now() is unknown or depends on more"),
        ([("bytes_out > $limit", "bytes_out > $limit + random()")], "random() is unknown or depends on more"),
        ([("bytes_out > $limit", "sum(bytes_out) > $limit")], "sum() is unknown or depends on more"),
        ([("bytes_out > $limit", "bites(bytes_out) > $limit")], "bites() is unknown"),
        ([("bytes_out > $limit", "bytes_out * 8 > $limit")], "DuckDB refuses it (Out of Range"),
        ([("bytes_out > $limit\nand", "bytes_out + $limit is null and")], "DuckDB refuses it"),
        ([("bytes_out > $limit", "operation > $limit")], "DuckDB refuses it"),
        (
            [("bytes_out > $limit\nand operation <> 'x' and", "bytes_out > $limit) and (")],
            "DuckDB refuses it",
        ),
        ([('subject = ["party"]', 'subject = ["tenant"]')], "tenant is not a subject name"),
        ([('subject = ["party"]', 'subject = ["workload"]')], "stream access has no workload"),
        ([('subject = ["party"]', 'subject = ["serial"]')], 'serial needs each = "serials"'),
        ([("version = 3", "version = 0")], "version must be an integer"),
        ([("known_gaps = []", "")], "known_gaps must be a list"),
    ],
)
def test_lint_names_each_defect(tmp_path: Path, changes: Sequence[tuple[str, str]], says: str) -> None:
    found = [str(problem) for problem in lint(corpus(tmp_path, *changes))]
    assert any(says in text and str(tmp_path) in text for text in found), found


def test_a_condition_must_be_boolean(tmp_path: Path) -> None:
    text = RULE.replace("bytes_out > $limit\nand operation <> 'x' and t > broker_time - $window", "bytes_out")
    write(tmp_path, text)
    assert any("is of type BIGINT, not BOOLEAN" in problem.text for problem in lint(tmp_path))


def test_lint_notices_one_title_twice(tmp_path: Path) -> None:
    corpus(tmp_path)
    write(tmp_path, RULE.replace("flag.access.big", "flag.access.huge"), name="flag.access.huge.toml")
    assert [problem.text for problem in lint(tmp_path)] == [
        "has the title of flag.access.big.toml; change one"
    ]


def test_the_lock_refuses_changed_logic_until_the_version_is_raised(tmp_path: Path) -> None:
    lock = tmp_path / "rules.lock"
    write_lock(load_all(corpus(tmp_path)), lock)
    before = lock.read_text()
    corpus(tmp_path, ("value = 100", "value = 99"))
    assert any("has other logic than locked version 3" in problem.text for problem in lint(tmp_path))
    with pytest.raises(SekishoError, match="raise version"):
        write_lock(load_all(tmp_path), lock)
    assert lock.read_text() == before
    corpus(tmp_path, ("value = 100", "value = 99"), ("version = 3", "version = 4"))
    assert any("is version 4, locked as 3" in problem.text for problem in lint(tmp_path))
    assert set(write_lock(load_all(tmp_path), lock)) == {"flag.access.big"}
    assert read_lock(lock)["flag.access.big"].version == 4
    assert lint(tmp_path) == []


def test_the_lock_refuses_a_version_that_goes_back_and_a_rule_that_is_gone(tmp_path: Path) -> None:
    lock = tmp_path / "rules.lock"
    write_lock(load_all(corpus(tmp_path)), lock)
    corpus(tmp_path, ("version = 3", "version = 2"))
    with pytest.raises(SekishoError, match="went back from version 3 to 2"):
        write_lock(load_all(tmp_path), lock)
    with pytest.raises(SekishoError, match="its file is gone"):
        write_lock([], lock)


def test_what_is_no_logic_needs_no_new_version(tmp_path: Path) -> None:
    lock = tmp_path / "rules.lock"
    write_lock(load_all(corpus(tmp_path)), lock)
    corpus(tmp_path, ('title = "Big"', 'title = "Large"'), ("bytes_out > $limit", "bytes_out   >   $limit"))
    assert write_lock(load_all(tmp_path), lock) == {}


def test_a_lock_that_cannot_be_read_or_written_is_told_in_one_line(tmp_path: Path) -> None:
    lock = tmp_path / "rules.lock"
    lock.symlink_to(tmp_path / "nothing" / "rules.lock")
    with pytest.raises(SekishoError, match="cannot be written: No such file"):
        write_lock(load_all(corpus(tmp_path)), lock)
    lock.unlink()
    lock.mkdir()
    with pytest.raises(SekishoError, match="cannot be read: Is a directory"):
        lint(tmp_path)


def test_citations_that_are_no_toml_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "citations.toml").write_text("a = ")
    with pytest.raises(SekishoError, match=r"citations\.toml: is not TOML") as raised:
        load_citations(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_torn_lock_file_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "rules.lock"
    lock.write_text('{"flag.access.big": {"version"')
    with pytest.raises(SekishoError, match="is not a lock file"):
        read_lock(lock)


def test_the_committed_lock_is_that_of_the_rules() -> None:
    pins = read_lock(PATH)
    assert {rule.id: (rule.version, rule.sha256) for rule in RULES} == {
        name: (pin.version, pin.sha256) for name, pin in pins.items()
    }


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, list(arguments))


def read(result: Result) -> Any:
    assert result.exit_code in (0, 1), result.output
    return json.loads(result.stdout)


def test_list_and_show_print_text_and_json() -> None:
    assert "gap.source.clock" in run("list").stdout
    listed = read(run("list", "--json"))
    assert [entry["id"] for entry in listed] == sorted(BY_ID)
    shown = read(run("show", "flag.identity.restricted_hq", "--json"))
    assert shown["sha256"] == BY_ID["flag.identity.restricted_hq"].sha256
    assert "CREATE MACRO restricted" in shown["sql"]["macro restricted"]
    assert shown["citations"][0]["mark"] == "C" and shown["in_force"]["from"] == "2023-11-17"
    text = run("show", "flag.identity.restricted_hq").stdout
    assert "HQ26-1 [C]" in text and shown["sha256"] in text and "restricted(P.hq_country, t)" in text


def test_an_unknown_rule_is_wrong_use_with_a_hint() -> None:
    result = run("show", "gap.identity.unscreend")
    assert isinstance(result.exception, SekishoError) and result.exception.exit_code == 2
    assert "did you mean gap.identity.unscreened?" in str(result.exception)


def test_test_runs_one_rule_and_fails_with_exit_status_1(tmp_path: Path) -> None:
    passed = run("test", "--rule", "gap.source.clock")
    assert passed.exit_code == 0 and "3 timelines of 1 rules: 3 passed, 0 failed" in passed.stdout
    corpus(tmp_path, ('fires = ["flag.access.big party:P-1"]', 'fires = ["flag.access.big party:P-2"]'))
    failed = run("test", "--rules", str(tmp_path))
    assert failed.exit_code == 1
    assert "does not hold: flag.access.big party:P-2" in failed.stdout
    assert "holds unexpectedly: flag.access.big party:P-1" in failed.stdout
    outcomes = read(run("test", "--rules", str(tmp_path), "--json"))
    assert [outcome["passed"] for outcome in outcomes] == [False, True]


def test_lint_and_lock_from_the_command_line(tmp_path: Path) -> None:
    root = str(corpus(tmp_path))
    assert run("lint", "--rules", root).exit_code == 1
    assert "is not locked" in read(run("lint", "--rules", root, "--json"))[0]["problem"]
    assert "1 rules locked, 1 new or changed" in run("lock", "--rules", root).stdout
    assert read(run("lock", "--rules", root, "--json")) == {}
    assert run("lint", "--rules", root).exit_code == 0
    corpus(tmp_path, ("value = 100", "value = 99"))
    refused = run("lock", "--rules", root)
    assert refused.exit_code == 1 and isinstance(refused.exception, SekishoError)


def test_the_restricted_macro_is_the_set_with_its_dates() -> None:
    connection = connect()
    for at in (datetime(2026, 2, 2, 23, 59, 59), datetime(2026, 2, 3)):
        for code in [*countries.RESTRICTED, "JP", "US"]:
            until = countries.RESTRICTED.get(code)
            expected = code in countries.RESTRICTED and (until is None or at.replace(tzinfo=UTC) < until)
            found = connection.execute("SELECT restricted(?, ?::TIMESTAMP)", [code, at]).fetchone()
            assert found == (expected,), (code, at)

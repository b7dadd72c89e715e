"""`sekisho rules`: the catalogue, the rules' own tests, the corpus checks and the lock."""

import difflib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from rules import vocabulary
from rules.citations import MARKS, load_citations
from rules.judge import is_judged, translate
from rules.lint import Problem, lint
from rules.lock import write_lock
from rules.playing import Outcome, run_test
from rules.query import compile_rule, is_query
from rules.rule import Rule, load_all
from rules.timeline import load_baseline
from schemas.errors import UsageError
from schemas.events import EVENTS
from stream.rules_option import rules_option

_COLOUR = {"info": "blue", "low": "cyan", "medium": "yellow", "high": "red", "critical": "bold red"}


def _options(function: Callable[..., None]) -> Callable[..., None]:
    """What every verb of the group takes."""
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    return rules_option(as_json(function))


@click.group("rules")
def command() -> None:
    """List, show, test, check and lock the rules."""


@command.command("list")
@_options
def list_rules(root: Path, as_json: bool) -> None:
    """List every rule."""
    rules = load_all(root)
    if as_json:
        print(json.dumps([_summary(rule) for rule in rules], indent=1))
        return
    table = Table("rule", "severity", "status", "title", box=None, pad_edge=False)
    for column in table.columns[:3]:
        column.no_wrap = True
    for rule in rules:
        severity = Text(rule.severity, style=_COLOUR[rule.severity])
        table.add_row(rule.id, severity, f"{rule.status} v{rule.version}", Text(rule.title))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@command.command("show")
@click.argument("rule_id", metavar="ID")
@_options
def show(rule_id: str, root: Path, as_json: bool) -> None:
    """Show one rule: what it says, what it rests on, its SQL and the SHA-256 of its logic."""
    rule = _find(load_all(root), rule_id)
    if as_json:
        print(json.dumps(_details(rule, root), indent=1, default=str))
        return
    console = Console(highlight=False)
    console.print(Text(rule.id, style="bold"), Text(rule.severity, style=_COLOUR[rule.severity]))
    console.print(Text(rule.title))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    for name, text in _facts(rule, root):
        table.add_row(name, Text(text))
    console.print(table)
    console.print(Text("marks: " + ", ".join(f"{mark} {what}" for mark, what in MARKS.items()), style="dim"))
    for name, sql in _sql(rule).items():
        console.print()
        console.print(Text(f"-- {name}", style="dim"))
        console.print(Text(sql), soft_wrap=True)


@command.command("test")
@click.option("--rule", "rule_id", metavar="ID", help="Run only this rule's timelines.")
@_options
def test(rule_id: str | None, root: Path, as_json: bool) -> None:
    """Run the rules' timelines; every rule is judged on each. Exits 1 if one fails."""
    rules = load_all(root)
    baseline = load_baseline()
    chosen = rules if rule_id is None else (_find(rules, rule_id),)
    work = [(rule, one) for rule in chosen for one in rule.tests]
    steps = track(
        work, "timelines", console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    )
    outcomes = [run_test(rule, one, rules, baseline) for rule, one in steps]
    if as_json:
        print(json.dumps([{**asdict(outcome), "passed": outcome.passed} for outcome in outcomes], indent=1))
    else:
        _show_outcomes(outcomes)
    if not all(outcome.passed for outcome in outcomes):
        sys.exit(1)


@command.command("lint")
@_options
def check(root: Path, as_json: bool) -> None:
    """Check the rule files, their lock and their suppressions. Exits 1 if one has a defect.

    Every condition runs on nulls and on the ends of every type; the timelines do not (`rules test`).
    """
    problems = lint(root, datetime.now(UTC).date())
    if as_json:
        print(json.dumps([{"path": str(one.path), "problem": one.text} for one in problems], indent=1))
    else:
        _show_problems(problems)
    if problems:
        sys.exit(1)


@command.command("lock")
@_options
def lock(root: Path, as_json: bool) -> None:
    """Pin the version and logic of every rule in rules.lock.

    Refuses a rule whose logic changed without a new version.
    """
    rules = load_all(root)
    changed = write_lock(rules, root / "rules.lock")
    if as_json:
        print(json.dumps({rule_id: asdict(pin) for rule_id, pin in changed.items()}, indent=1))
        return
    for rule_id, pin in changed.items():
        print(f"{rule_id} version {pin.version} {pin.sha256[:12]}")
    print(f"{len(rules)} rules locked, {len(changed)} new or changed")


def _find(rules: Sequence[Rule], rule_id: str) -> Rule:
    for rule in rules:
        if rule.id == rule_id:
            return rule
    close = difflib.get_close_matches(rule_id, [rule.id for rule in rules], 1)
    hint = f"did you mean {close[0]}?" if close else "`sekisho rules list` shows all"
    raise UsageError(f"there is no rule {rule_id}; {hint}")


def _summary(rule: Rule) -> dict[str, object]:
    return {
        "id": rule.id,
        "version": rule.version,
        "sha256": rule.sha256,
        "title": rule.title,
        "kind": rule.kind,
        "severity": rule.severity,
        "status": rule.status,
        "link": rule.link,
        "streams": list(rule.streams),
        "citations": list(rule.citations),
    }


def _details(rule: Rule, root: Path) -> dict[str, object]:
    known = load_citations(root)
    return {
        **_summary(rule),
        "citations": [asdict(known[name]) if name in known else {"id": name} for name in rule.citations],
        "in_force": {"from": rule.in_force.from_, "to": rule.in_force.to}
        | {"codified": rule.in_force.codified, "enforced": rule.in_force.enforced},
        "logic": rule.logic,
        "message": rule.message,
        "known_gaps": list(rule.known_gaps),
        "what_to_do": rule.what_to_do,
        "tests": [one.name for one in rule.tests],
        "sql": _sql(rule),
        "path": rule.path,
    }


def _facts(rule: Rule, root: Path) -> Iterable[tuple[str, str]]:
    known = load_citations(root)
    yield "kind", f"{rule.kind}, each of {rule.each}" if rule.each else rule.kind
    yield "status", rule.status
    yield "version", str(rule.version)
    yield "sha256", rule.sha256
    yield "streams", ", ".join(rule.streams)
    yield "subject", ", ".join(rule.subject)
    for parameter in rule.parameters:
        yield "parameter", f"{parameter.name} = {parameter.text}"
    yield "message", rule.message
    for name in rule.citations:
        cited = known.get(name)
        yield "cites", name if cited is None else str(cited)
    period = f"{rule.in_force.from_ or '…'} to {rule.in_force.to or '…'}"
    marks = ["codified" if rule.in_force.codified else "not codified"]
    marks += ["enforced" if rule.in_force.enforced else "not enforced"]
    yield "basis", f"{period}, {', '.join(marks)}"
    for gap in rule.known_gaps:
        yield "known gap", gap
    yield "what to do", rule.what_to_do
    yield "tests", str(len(rule.tests))


def _sql(rule: Rule) -> dict[str, str]:
    """The condition as written, and as it runs over each stream's joined rows or the reconciler's tables; and
    the macros it calls."""
    found = {"condition": rule.condition}
    if is_query(rule):
        found["reconciler"] = compile_rule(rule).sql
    for record in EVENTS.values() if is_judged(rule) else ():
        if record.name in rule.streams:
            condition, subject = translate(rule, record)
            found[record.name] = f"SELECT {subject.sql} AS subject\nWHERE {condition.sql}"
    for name in vocabulary.macros_used(rule.condition):
        found[f"macro {name}"] = f"CREATE MACRO {name}{vocabulary.MACROS[name]}"
    return found


def _show_outcomes(outcomes: Sequence[Outcome]) -> None:
    failed = [outcome for outcome in outcomes if not outcome.passed]
    for outcome in failed:
        print(f"FAILED {outcome.rule_id}: {outcome.test}")
        for sign, lines in (("does not hold", outcome.missing), ("holds unexpectedly", outcome.unexpected)):
            for line in lines:
                print(f"  {sign}: {line}")
        if outcome.error:
            print(f"  {outcome.error}")
    rules = len({outcome.rule_id for outcome in outcomes})
    passed = len(outcomes) - len(failed)
    print(f"{len(outcomes)} timelines of {rules} rules: {passed} passed, {len(failed)} failed")


def _show_problems(problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(problem)
    print(f"{len(problems)} problems" if problems else "the rules are in order")

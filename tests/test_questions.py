"""The questions of docs/questions.md give the right answers on records whose incidents are known."""

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner

from benchmarks.questions import Question, read
from rules.rule import load_all
from sinks.views import connect
from stream.commands import coverage, sql
from stream.scan import scan
from stream.simulation.clock import HOUR
from stream.simulation.files import write
from stream.simulation.simulator import Settings, Simulation, simulate

QUESTIONS = {question.number: question for question in read()}

Row = dict[str, Any]


class Case:
    """A simulated site, scanned into a lake; its records as they were sent, by stream."""

    def __init__(self, folder: Path) -> None:
        self.simulation: Simulation = simulate(Settings(accelerators=1024, duration=HOUR, rate=1))
        write(self.simulation.messages(), folder / "in")
        self.lake = folder / "lake"
        scan(folder / "in", self.lake, load_all(), self.simulation.until)
        self.connection: duckdb.DuckDBPyConnection = connect(self.lake)
        self.lines = {
            name: (folder / "in" / f"{name}.ndjson").read_text().splitlines()
            for name in ("allocation", "access", "placement", "authorization")
        }

    def sent(self, stream: str) -> list[Row]:
        """The distinct records that can be read."""
        rows = {}
        for line in self.lines[stream]:
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                rows[
                    tuple(row.get(name) for name in ("source", "event_id", "authorization_id", "version"))
                ] = row
        return list(rows.values())

    def ask(self, number: int, **values: str) -> list[Row]:
        """The answer to a question."""
        question = QUESTIONS[number]
        assert set(question.parameters) == set(values)
        cursor = self.connection.execute(question.sql, values or None)
        head = [column[0] for column in cursor.description or ()]
        return [dict(zip(head, row, strict=True)) for row in cursor.fetchall()]

    def planted(self, rule_id: str) -> str:
        """The subject of an incident of a rule."""
        return next(i.subject for i in self.simulation.incidents if i.rule_id == rule_id)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    made = Case(tmp_path_factory.mktemp("questions"))
    yield made
    made.connection.close()


def test_there_are_ten() -> None:
    assert list(QUESTIONS) == list(range(1, 11))


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=lambda question: str(question.number))
def test_each_is_one_that_the_command_takes(case: Case, question: Question) -> None:
    values = {"at": "2026-03-02T03:00:00Z", "day": "2026-03-02"}
    given = [f"--param={name}={values.get(name, 'nobody')}" for name in question.parameters]
    result = CliRunner().invoke(sql.command, ["--lake", str(case.lake), "--json", *given, question.sql])
    assert result.exit_code == 0, result.exception


def test_who_had_an_accelerator(case: Case) -> None:
    events = sorted(case.sent("allocation"), key=lambda event: (event["occurred_at"], event["source"]))
    at = events[len(events) // 2]["occurred_at"]
    serials = {serial for event in events for serial in event.get("serials") or ()}
    held: dict[str, set[str]] = defaultdict(set)
    for event in events:
        if event["occurred_at"] <= at:
            for holders in held.values() if event["action"] == "released" else ():
                holders.discard(event["allocation_id"])
            for serial in event.get("serials") or () if event["action"] == "allocated" else ():
                held[serial].add(event["allocation_id"])
    asked = sorted(serials)[::200]
    assert len({bool(held[serial]) for serial in asked}) == 2, "some are held, some are free"
    for serial in asked:
        assert {row["allocation_id"] for row in case.ask(1, serial=serial, at=at)} == held[serial]


def test_what_a_party_did(case: Case) -> None:
    subject = case.planted("flag.identity.restricted_hq")
    rows = case.ask(2, party=subject.removeprefix("party:"), day="2026-03-02")
    ((expected,),) = case.connection.execute(
        "SELECT count(*) FROM access WHERE party_id = $party AND dt IS NOT NULL",
        {"party": subject.removeprefix("party:")},
    ).fetchall()
    assert sum(row["accesses"] for row in rows) == expected > 0


def test_who_got_in_from_a_country(case: Case) -> None:
    events = [event for event in case.sent("access") if event.get("source_country") == "SG"]
    rows = case.ask(3, country="SG")
    assert sum(row["accesses"] for row in rows) == sum(e["action"] != "denied" for e in events) > 0


def test_what_is_open(case: Case) -> None:
    expected = sum(i.state in ("provisional", "confirmed") for i in case.simulation.incidents)
    rows = case.ask(4)
    assert sum(row["findings"] for row in rows) == expected > 30
    assert rows[0]["severity"] == "critical"


def test_what_proves_a_finding(case: Case) -> None:
    for rule_id, stream in (("flag.identity.restricted_hq", None), ("flag.access.after_release", "access")):
        finding, events = case.connection.execute(
            "SELECT finding_id, events FROM finding WHERE rule_id = $rule AND subject = $subject",
            {"rule": rule_id, "subject": case.planted(rule_id)},
        ).fetchall()[0]
        rows = case.ask(5, finding=finding)
        assert len(rows) == events > 0
        lines = case.lines[stream] if stream else [line for part in case.lines.values() for line in part]
        assert {row["record"] for row in rows} <= set(lines)


def test_how_much_time_is_accounted_for(case: Case) -> None:
    rows = case.ask(6)
    whole = sum(row["accelerator_seconds"] for row in rows)
    covered = sum(row["accelerator_seconds"] * (row["covered"] or 0) for row in rows)
    result = CliRunner().invoke(coverage.command, ["--lake", str(case.lake), "--json"])
    assert covered / whole == pytest.approx(json.loads(result.stdout)["coverage"], abs=1e-4)


def test_how_many_were_open_under_an_authorization(case: Case) -> None:
    subject = case.planted("flag.authorization.quantity_exceeded").removeprefix("authorization:")
    most = max(
        row["max_accelerators"]
        for row in case.sent("authorization")
        if row["authorization_id"] == subject and row.get("max_accelerators")
    )
    assert case.ask(7, authorization=subject)[0]["open"] > most


def test_what_came_late(case: Case) -> None:
    streams = ("allocation", "access", "placement")
    events = sum(
        case.connection.execute(f"SELECT count(*) FROM {stream}").fetchall()[0][0] for stream in streams
    )
    assert sum(row["events"] for row in case.ask(8)) == events


def test_what_could_not_be_read(case: Case) -> None:
    (row,) = case.ask(9)
    lines = case.lines[row["topic"].removeprefix("custody.")]
    assert row["records"] == 1 and row["example"] in {line[:200] for line in lines}


def test_which_accounts_were_in_two_places(case: Case) -> None:
    owners: dict[str, str] = dict(
        case.connection.execute(
            "SELECT allocation_id, party_id FROM allocation WHERE action = 'allocated' ORDER BY occurred_at"
        ).fetchall()
    )
    seen: dict[tuple[str, str], tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
    rows: list[Any] = case.connection.execute(
        "SELECT principal, occurred_at::DATE::VARCHAR, source_country, allocation_id FROM access"
    ).fetchall()
    for principal, day, country, allocation in rows:
        countries, parties = seen[principal, day]
        countries |= {country} - {None}
        parties |= {owners[allocation]} if allocation in owners else set()
    expected = {
        (principal, day): (len(countries), len(parties))
        for (principal, day), (countries, parties) in seen.items()
        if principal and (len(countries) > 1 or len(parties) > 1)
    }
    found = {(r["principal"], str(r["day"])): (r["countries"], r["parties"]) for r in case.ask(10)}
    assert found and found.items() <= expected.items()
    assert len(found) == min(len(expected), 100)

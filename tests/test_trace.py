"""`sekisho trace`: what is told of each kind of thing, in order, and nothing that must not be."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rules.rule import load_all
from schemas.errors import SekishoError, UsageError
from stream.commands.trace import command
from stream.outcome import rows
from stream.scan import scan

Record = dict[str, Any]

SECRET = "Hidden Name KK"
PARTY = {
    "valid_from": "2026-01-01T00:00:00Z",
    "status": "verified",
    "screened_at": "2026-02-28T00:00:00Z",
    "hq_country": "JP",
    "legal_name": SECRET,
    "parent_name": SECRET,
}
FROM = {"version": 1, "valid_from": "2026-01-01T00:00:00Z"}
REFERENCES: dict[str, list[Record]] = {
    "party": [
        PARTY | {"party_id": "P-1", "version": 1},
        PARTY | {"party_id": "P-1", "version": 2, "valid_from": "2026-03-01T01:00:00Z"},
        PARTY | {"party_id": "P-2", "version": 1},
    ],
    "principal": [FROM | {"binding_id": "B-1", "principal": "iam:ann", "party_id": "P-1"}],
    "authorization": [FROM | {"authorization_id": "A-1"}],
    "source": [FROM | {"source": "mute", "streams": ["access"], "silence_limit_s": 3600}],
    "site": [FROM | {"site_id": "S-1", "country": "JP"}],
    "asset": [FROM | {"serial": name, "model": "NVIDIA B200", "lot_id": "LOT-7", "status": "installed",
                      "supplier_party_id": "P-2", "site_id": "S-1"} for name in ("SN1", "SN2")],
}  # fmt: skip


def at(clock: str) -> str:
    return f"2026-03-01T{clock}Z"


def allocated(name: str, clock: str, **more: object) -> Record:
    return {"event_id": f"{name}.a", "occurred_at": at(clock), "source": "slurm", "action": "allocated",
            "allocation_id": name, "party_id": "P-1", "authorization_id": "A-1", "site_id": "S-1",
            "model": "NVIDIA B200", "accelerators": 1, "serials": ["SN1"],
            "requested_by": "ann"} | more  # fmt: skip


def released(name: str, clock: str) -> Record:
    return {"event_id": f"{name}.r", "occurred_at": at(clock), "source": "slurm", "action": "released",
            "allocation_id": name}  # fmt: skip


EVENTS: dict[str, list[Record]] = {
    "allocation": [
        released("AL-1", "02:00:00"),
        allocated("AL-1", "00:30:00"),
        allocated("AL-2", "02:30:00", party_id="P-9"),
        released("AL-2", "03:00:00"),
        allocated("AL-3", "02:30:00", serials=["SN2"]),
    ],
    "access": [
        {"event_id": "x1", "occurred_at": at("00:40:00"), "source": "iam", "action": "opened",
         "allocation_id": "AL-1", "principal": "iam:ann", "method": "remote", "session_id": "T-1",
         "source_ip": "192.0.2.7", "source_country": "JP", "mfa": True, "site_id": "S-1", "node": "n7"},
        *(
            {"event_id": f"c{n}", "occurred_at": at(f"00:4{n}:00"), "source": "iam", "action": "call",
             "allocation_id": "AL-1", "session_id": "T-1", "bytes_out": 1000}
            for n in range(1, 5)
        ),
        {"event_id": "x2", "occurred_at": at("02:40:00"), "source": "iam", "action": "call",
         "allocation_id": "AL-2", "principal": "iam:ann", "source_country": "IR",
         "operation": "evil\x1b[2J\u202e", "session_id": "same"},
    ],
    "placement": [
        {"event_id": "p1", "occurred_at": at("00:31:00"), "source": "kube", "action": "started",
         "allocation_id": "AL-1", "workload_id": "W-1", "site_id": "S-1", "serials": ["SN1"]},
        {"event_id": "p2", "occurred_at": at("01:30:00"), "source": "kube", "action": "moved",
         "allocation_id": "AL-1", "workload_id": "W-1", "site_id": "S-9", "from_site_id": "S-1"},
        {"event_id": "p3", "occurred_at": at("02:31:00"), "source": "kube", "action": "started",
         "allocation_id": "AL-2", "workload_id": "same", "site_id": "S-1", "serials": ["SN1"]},
    ],
}  # fmt: skip


EVENTS["access"].append(EVENTS["access"][1])  # sent twice


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trace")
    (folder / "in").mkdir()
    for name, records in (REFERENCES | EVENTS).items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "in" / f"{name}.ndjson").write_text(lines)
    with (folder / "in" / "access.ndjson").open("a") as file:
        file.write("{\n")
    scan(folder / "in", folder / "lake", load_all())
    return folder / "lake"


def run(lake: Path, *arguments: str) -> str:
    result = CliRunner().invoke(command, ["--lake", str(lake), *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def traced(lake: Path, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(lake, *arguments, "--json"))
    return found


def ids(found: dict[str, Any]) -> list[str]:
    return [event["event_id"] for event in found["events"]]


ALLOCATION_1 = ["AL-1.a", "p1", "x1", "c1", "c2", "c3", "c4", "p2", "AL-1.r"]
ALLOCATION_2 = ["AL-2.a", "p3", "x2", "AL-2.r"]


@pytest.mark.parametrize(
    ("name", "kind", "events"),
    [
        ("AL-1", "allocation", ALLOCATION_1),
        ("SN1", "serial", ALLOCATION_1 + ALLOCATION_2),
        ("P-1", "party", [*ALLOCATION_1, "AL-2.a", "AL-3.a", "x2", "AL-2.r"]),
        ("P-9", "party", ALLOCATION_2),
        ("W-1", "workload", ALLOCATION_1),
        ("T-1", "session", ALLOCATION_1),
        ("SN2", "serial", ["AL-3.a"]),
        ("P-2", "party", []),
    ],
)
def test_every_related_event_in_order(lake: Path, name: str, kind: str, events: list[str]) -> None:
    found = traced(lake, name)
    assert (found["kind"], found["id"]) == (kind, name)
    assert ids(found) == events


def test_the_four_links_as_they_were_at_the_time(lake: Path) -> None:
    events = {event["event_id"]: event for event in traced(lake, "AL-1")["events"]}
    first = events["AL-1.a"]
    assert first["at"] == "2026-03-01T00:30:00.000000Z"
    assert (first["who"]["party_id"], first["who"]["party_version"]) == ("P-1", 1)
    assert (first["where"]["site_id"], first["where"]["site_version"]) == ("S-1", 1)
    assert first["under_what"] == {"authorization_id": "A-1", "authorization_version": 1}
    assert first["how"]["requested_by"] == "ann"
    opened = events["x1"]
    how = {
        name: opened["how"][name] for name in ("method", "session_id", "source_ip", "source_country", "mfa")
    }
    assert how == {"method": "remote", "session_id": "T-1", "source_ip": "192.0.2.7", "source_country": "JP",
                   "mfa": True}  # fmt: skip
    assert opened["who"]["principal"] == "iam:ann" and opened["where"]["node"] == "n7"
    assert opened["under_what"]["through_allocation"] == "A-1"
    assert events["p2"]["who"]["through_allocation"] == "P-1"
    assert events["p2"]["where"] == {
        "site_id": "S-9",
        "site_version": None,
        "node": None,
        "from_site_id": "S-1",
    }


def test_findings_on_the_way(lake: Path) -> None:
    found = traced(lake, "AL-1")
    moved = next(event for event in found["events"] if event["event_id"] == "p2")
    rules = {one["rule_id"] for one in moved["findings"]}
    assert {"gap.location.site_unknown", "gap.location.no_reverification"} <= rules
    assert rules <= {finding["rule_id"] for finding in found["findings"]}
    assert all(one["state"] and len(one["finding_id"]) == 32 for one in moved["findings"])


def test_a_finding_with_the_allocation_around_it(lake: Path) -> None:
    named = next(
        f for f in traced(lake, "AL-2")["findings"] if f["rule_id"] == "flag.access.restricted_country"
    )
    found = traced(lake, named["finding_id"])
    assert found["kind"] == "finding"
    assert ids(found) == ALLOCATION_2
    assert [f["finding_id"] for f in found["findings"]].count(named["finding_id"]) == 1


def test_a_finding_tells_its_states_and_the_absence_that_it_is(lake: Path) -> None:
    (named,) = [f for f in traced(lake, "AL-3")["findings"] if f["rule_id"] == "gap.location.no_placement"]
    found = traced(lake, named["finding_id"])
    assert ids(found) == ["AL-3.a"]
    assert [(s["revision"], s["state"], s["supersedes"]) for s in found["states"]] == [(1, "confirmed", None)]
    assert "  1  confirmed  events 1" in run(lake, named["finding_id"])


def test_a_finding_about_a_record_that_was_rejected(lake: Path) -> None:
    (name,) = rows(lake, "SELECT finding_id FROM finding WHERE rule_id = 'gap.source.rejected'")[0]
    (event,) = traced(lake, name)["events"]
    assert (event["stream"], event["reason"], event["offset"]) == ("rejected", "not_json", 7)
    assert [one["finding_id"] for one in event["findings"]] == [name]
    assert "rejected  not_json  custody.access/0/7" in run(lake, name)


def test_a_finding_of_a_source_that_never_spoke(lake: Path) -> None:
    (name,) = rows(lake, "SELECT finding_id FROM finding WHERE subject LIKE 'source:mute|%'")[0]
    found = traced(lake, name)
    assert found["events"] == [] and len(found["findings"]) == len(found["states"]) == 1
    assert "source:mute|since:2026-01-01T00:00:00.000000Z" in run(lake, name)


def test_coverage_of_an_allocation(lake: Path) -> None:
    pieces = traced(lake, "AL-1")["coverage"]
    assert pieces[0]["from_at"] == at("00:30:00.000000")
    assert pieces[0]["reasons"] == ["where"] and pieces[1]["reasons"] == []
    output = run(lake, "AL-1").partition("\ncoverage\n")[2].splitlines()
    assert output[0] == "00:30:00.000000 – 00:31:00.000000  1 × 60 s  missing where"
    assert output[1].endswith("covered")


def test_a_serial_begins_with_its_papers(lake: Path) -> None:
    (paper,) = traced(lake, "SN1")["papers"]
    assert (paper["lot_id"], paper["supplier_party_id"], paper["version"]) == ("LOT-7", "P-2", 1)
    assert "LOT-7" in run(lake, "SN1").splitlines()[3]


def test_what_could_be_two_things_asks_which(lake: Path) -> None:
    with pytest.raises(UsageError, match="a workload and a session: say which with --as workload"):
        run(lake, "same")
    assert traced(lake, "same", "--as", "session")["events"][-2]["event_id"] == "x2"


@pytest.mark.parametrize("name", ["nothing", "", "AL-1' OR '1'='1", "al-1", "$id"])
def test_what_is_not_there_is_said_in_one_line(lake: Path, name: str) -> None:
    with pytest.raises(SekishoError, match=r"no serial, party, .* in this lake is named") as raised:
        run(lake, name)
    assert raised.value.exit_code == 1 and "\n" not in str(raised.value)
    with pytest.raises(SekishoError, match="no party in this lake"):
        run(lake, "AL-1", "--as", "party")


def test_calls_without_a_finding_are_one_line_unless_asked(lake: Path) -> None:
    """The fourth has one: the source was silent after it."""
    told = run(lake, "AL-1")
    assert "3 calls until 00:43:00.000000, 3,000 bytes out" in told and told.count("access call") == 2
    assert run(lake, "AL-1", "--all").count("access call") == 4


def test_nothing_of_the_papers_but_ids_and_no_control_characters(lake: Path) -> None:
    for name in ("SN1", "P-1", "P-2", "AL-1", "AL-2", "W-1", "T-1"):
        for output in (run(lake, name), run(lake, name, "--json")):
            assert "Hidden" not in output and "hq_country" not in output
            assert "\x1b" not in output
    told = run(lake, "AL-2")
    assert r"evil\u001b[2J\u202e" in told and "\u202e" not in told

"""The simulated data centre: what is planted is found by a plain reading of the contract, nothing else."""

import contextlib
import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from rules.rule import load_all
from schemas.errors import SekishoError, UsageError
from schemas.events import EVENTS
from sinks.views import connect
from stream.commands.simulate import command
from stream.scan import scan as product_scan
from stream.simulation import bench, files
from stream.simulation.clock import HOUR, MINUTE, iso, micros
from stream.simulation.incident import RECONCILER
from stream.simulation.messages import merged
from stream.simulation.simulator import RESENT, START, Settings, Simulation, simulate
from tests.plain.coverage import covered_share
from tests.plain.history import History, judge_all
from tests.plain.scan import Scanned, scan

ROW_RULES = {
    "gap.identity.unknown", "flag.identity.ambiguous", "flag.identity.not_verified", "gap.identity.stale",
    "gap.identity.unscreened", "flag.identity.screening_match", "flag.identity.restricted_hq",
    "gap.identity.hq_unknown", "gap.access.method_missing", "gap.access.broker_unnamed",
    "flag.access.broker_unregistered", "flag.access.restricted_country",
    "flag.access.country_outside_authorization", "flag.access.method_outside_authorization",
    "gap.location.site_unknown", "flag.location.outside_authorization", "flag.location.asset_elsewhere",
    "gap.location.no_reverification", "gap.authorization.missing", "gap.authorization.not_in_force",
    "flag.authorization.party_not_covered", "flag.authorization.item_not_covered",
    "gap.authorization.condition_overdue", "gap.procurement.serial_unknown",
    "flag.procurement.asset_not_installed", "flag.procurement.model_mismatch", "gap.source.clock",
}  # fmt: skip
"""Contract section 4, kind `row`."""

BENCH_DIGEST = "6f65d40cb0481afb3aed0c7b0c71b32a6be5330079ec35023a0a0de75457ece4"
"""Of 100,000 events. It may only change on purpose: figures of before and after are then not comparable."""

_FIRED = """
SELECT count(*) FROM (
  SELECT verdicts FROM allocation UNION ALL SELECT verdicts FROM access
  UNION ALL SELECT verdicts FROM placement)
WHERE len(verdicts) > 0
"""

SMALL = Settings(seed=7, accelerators=1_024, duration=2 * HOUR, rate=1.0)


def planted(simulation: Simulation, needs: str | None) -> set[tuple[str, str]]:
    return {(i.rule_id, i.subject) for i in simulation.incidents if i.needs == needs}


def events(simulation: Simulation) -> list[dict[str, object]]:
    """Each once, however often it was sent."""
    return [orjson.loads(value) for stream in simulation.events for value in dict.fromkeys(stream.values)]


@pytest.fixture(scope="module")
def small() -> Simulation:
    return simulate(SMALL)


@pytest.fixture(scope="module")
def judged(small: Simulation, tmp_path_factory: pytest.TempPathFactory) -> Scanned:
    folder = tmp_path_factory.mktemp("simulated")
    files.write(small.messages(), folder)
    return scan(folder, small.until)


def found(scanned: Scanned) -> set[tuple[str, str]]:
    return {firing for _, judged in scanned.events.values() for firing in judged.firings}


def test_every_row_rule_is_planted(small: Simulation) -> None:
    assert {rule for rule, _ in planted(small, None)} == ROW_RULES


def test_one_record_shows_what_needs_no_other_and_nothing_else(small: Simulation, judged: Scanned) -> None:
    assert found(judged) == planted(small, None)


@pytest.fixture(scope="module")
def history(small: Simulation, tmp_path_factory: pytest.TempPathFactory) -> History:
    folder = tmp_path_factory.mktemp("all")
    files.write(small.messages(), folder)
    return judge_all(folder, small.until)


def states(history: History) -> dict[tuple[str, str], str]:
    return {key: finding.state for key, finding in history.findings.items()}


def expected(simulation: Simulation) -> dict[tuple[str, str], str]:
    return {(i.rule_id, i.subject): i.state for i in simulation.incidents}


def test_the_whole_history_shows_every_incident_and_nothing_else(small: Simulation, history: History) -> None:
    assert states(history) == expected(small)


def test_without_a_last_tick_only_the_clock_is_not_seen(small: Simulation, tmp_path: Path) -> None:
    files.write(small.messages(), tmp_path)
    found = states(judge_all(tmp_path))
    assert found == {key: "confirmed" for key in expected(small) if key[0] != "gap.source.clock"}


def test_what_is_sent_twice_changes_nothing(small: Simulation, history: History) -> None:
    sent = sum(map(len, small.events))
    assert len(history.duplicates) == sent - len(events(small)) == pytest.approx(sent * RESENT, rel=0.5)
    for duplicate, original in history.duplicates.items():
        assert history.scanned.raw[duplicate] == history.scanned.raw[original]


def test_every_source_lets_the_watermark_pass(small: Simulation, history: History) -> None:
    assert history.watermark == small.until - 12 * MINUTE


def test_every_link_but_how_is_missing_somewhere(history: History) -> None:
    assert {reason for piece in history.pieces for reason in piece.reasons} == {"who", "where", "under_what"}
    assert 0.9 < (covered_share(history.pieces) or 0) < 0.95


@pytest.mark.parametrize(
    "settings",
    [
        Settings(seed=1, accelerators=10_800, duration=4 * HOUR, rate=0.5),
        Settings(seed=2, accelerators=2_048, duration=30 * HOUR, rate=0.1),
        Settings(seed=3, accelerators=1_024, duration=HOUR, rate=2.0),
    ],
    ids=["site", "days", "shortest"],
)
def test_other_seeds_and_sizes(settings: Settings, tmp_path: Path) -> None:
    simulation = simulate(settings)
    files.write(simulation.messages(), tmp_path)
    assert states(judge_all(tmp_path, simulation.until)) == expected(simulation)


def test_scan_finds_the_same(small: Simulation, history: History, tmp_path: Path) -> None:
    source, lake = tmp_path / "site", tmp_path / "lake"
    files.write(small.messages(), source)
    summary = product_scan(source, lake, load_all(), small.until)
    with contextlib.closing(connect(lake)) as connection:
        rows = connection.execute("SELECT rule_id, subject, state FROM finding").fetchall()
        duplicates = connection.execute("SELECT count(*) FROM duplicate").fetchall()
        rejected = connection.execute("SELECT topic, reason FROM dead_letter").fetchall()
    assert {(rule, subject): state for rule, subject, state in rows} == expected(small)
    assert len(rows) == len(small.incidents)
    assert duplicates == [(len(history.duplicates),)]
    assert rejected == [("custody.access", "enum:method")]
    assert summary.coverage == pytest.approx(covered_share(history.pieces), abs=1e-12)


def test_only_the_planted_record_is_rejected(judged: Scanned) -> None:
    reasons = Counter(reason for _, reason in judged.raw.values() if reason is not None)
    assert reasons == {"enum:method": 1}


def test_subjects_are_distinct(small: Simulation) -> None:
    assert len({(i.rule_id, i.subject) for i in small.incidents}) == len(small.incidents)
    assert planted(small, RECONCILER)


def test_same_seed_same_bytes_other_seed_other_bytes() -> None:
    first, again = simulate(SMALL), simulate(SMALL)
    assert list(first.messages()) == list(again.messages())
    other = simulate(Settings(seed=8, accelerators=1_024, duration=2 * HOUR, rate=1.0))
    assert list(other.messages()) != list(first.messages())


def test_about_as_many_events_as_asked_for() -> None:
    simulation = simulate(Settings(seed=5, duration=2 * HOUR, rate=4.0))
    assert sum(map(len, simulation.events)) == pytest.approx(4 * 7200, rel=0.03)


def test_sources_count_up_by_one_but_for_the_planted_hole(small: Simulation) -> None:
    numbers: dict[object, list[int]] = {}
    for event in events(small):
        if "source_seq" in event:
            numbers.setdefault(event["source"], []).append(int(str(event["source_seq"])))
    holes = {
        source: sorted(set(range(min(taken), max(taken) + 1)) - set(taken))
        for source, taken in numbers.items()
    }
    assert {source: missing for source, missing in holes.items() if missing} == {
        "audit/ishikari-1": [6, 7, 8]
    }
    assert all(len(taken) == len(set(taken)) for taken in numbers.values())


def test_no_serial_is_in_two_allocations_at_once_but_the_planted_one(small: Simulation) -> None:
    ends = {e["allocation_id"]: str(e["occurred_at"]) for e in events(small) if e["action"] == "released"}
    held: dict[str, list[tuple[str, str]]] = {}
    for event in events(small):
        if event["action"] == "allocated":
            for serial in event["serials"]:  # type: ignore[attr-defined]
                until = ends.get(event["allocation_id"], "9999")
                held.setdefault(serial, []).append((str(event["occurred_at"]), until))
    twice = {
        f"serial:{serial}"
        for serial, spans in held.items()
        for index, (start, _) in enumerate(sorted(spans))
        if index and start < max(end for _, end in sorted(spans)[:index])
    }
    assert twice == {
        i.subject for i in small.incidents if i.rule_id == "flag.procurement.serial_double_allocated"
    }


def test_no_authorization_goes_over_its_cap_but_the_planted_one(small: Simulation) -> None:
    caps = {
        fields["authorization_id"]: fields.get("max_accelerators")
        for fields in (orjson.loads(m.value) for m in small.references if m.record == "authorization")
    }
    changes: dict[object, list[tuple[str, int]]] = {}
    sizes = {e["allocation_id"]: e["accelerators"] for e in events(small) if e["action"] == "allocated"}
    for event in events(small):
        sign = {"allocated": 1, "released": -1}.get(str(event["action"]))
        if sign and "authorization_id" in event:
            change = (str(event["occurred_at"]), sign * int(str(sizes[event["allocation_id"]])))
            changes.setdefault(event["authorization_id"], []).append(change)
    over = set()
    for authorization, steps in changes.items():
        held = 0
        for _, step in sorted(steps):  # at one time releases come first
            held += step
            if caps[authorization] is not None and held > caps[authorization]:
                over.add(f"authorization:{authorization}")
    assert over == {i.subject for i in small.incidents if i.rule_id == "flag.authorization.quantity_exceeded"}


def test_every_allocation_is_placed_in_time_but_the_planted_one(small: Simulation) -> None:
    rows = events(small)
    placed = {row["allocation_id"] for row in rows if row["action"] == "started"}
    late = iso(small.until - 2 * 60 * 1_000_000)
    unplaced = {
        f"allocation:{row['allocation_id']}"
        for row in rows
        if row["action"] == "allocated"
        and str(row["occurred_at"]) < late
        and row["allocation_id"] not in placed
    }
    assert unplaced == {i.subject for i in small.incidents if i.rule_id == "gap.location.no_placement"}


def test_arrivals_are_in_order_and_after_the_events(small: Simulation) -> None:
    arrivals = [message.arrival for message in merged(small.events)]
    assert arrivals == sorted(arrivals)
    ahead = 0
    for stream in small.events:
        for arrival, value in zip(stream.arrivals.tolist(), stream.values, strict=True):
            ahead += iso(arrival) < orjson.loads(value)["occurred_at"]
    assert ahead == 1  # the planted clock


def test_too_small_or_too_short_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 1024"):
        simulate(Settings(accelerators=512))
    with pytest.raises(UsageError, match="at least 1h"):
        simulate(Settings(duration=HOUR - 1))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--rate", "nan"), "more than 100,000,000 events"),
        (("--rate", "inf"), "more than 100,000,000 events"),
        (("--rate", "1e300"), "more than 100,000,000 events"),
        (("--duration", "999999999999d"), "out of the years 2000 to 9899"),
        (("--start", "0001-01-01T00:00:00Z"), "out of the years 2000 to 9899"),
        (("--start", "9899-12-31T23:59:59Z"), "out of the years 2000 to 9899"),
    ],
)
def test_what_no_simulation_can_hold_is_refused(tmp_path: Path, options: tuple[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        CliRunner().invoke(command, ["--out", str(tmp_path / "out"), *options], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", ["2000-01-01T00:00:00Z", "9899-12-31T22:00:00Z"])
def test_all_records_of_the_first_and_of_the_last_year_are_accepted(tmp_path: Path, start: str) -> None:
    begin = micros(datetime.fromisoformat(start))
    simulation = simulate(Settings(accelerators=1024, duration=HOUR, rate=0.1, start=begin))
    files.write(simulation.messages(), tmp_path / "in")
    summary = product_scan(tmp_path / "in", tmp_path / "lake", load_all(), simulation.until)
    assert sum(summary.rejected.values()) == 1  # which is planted


def test_a_place_that_cannot_be_written_is_told_in_one_line(small: Simulation, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SekishoError, match="choose another --out"):
        files.write_story(small.story(), tmp_path / "file" / "out")


def test_bench_digest_is_pinned() -> None:
    assert bench.digest(100_000) == BENCH_DIGEST


def test_bench_is_what_it_says(tmp_path: Path) -> None:
    made = bench.build()
    assert len(made.world.tenants) + made.world.principals == pytest.approx(100_000, rel=0.02)
    count = files.write(made.messages(60_000), tmp_path)
    values = [line for name in ("allocation", "access", "placement") for line in _lines(tmp_path, name)]
    assert len(values) == 60_000 < count
    assert sum(map(len, values)) / len(values) == pytest.approx(395, rel=0.02)
    used = Counter(orjson.loads(value).get("principal") for value in values)
    used.pop(None)
    top = sum(n for _, n in used.most_common(len(used) // 100))
    assert top / used.total() > 0.05  # the busiest hundredth does far more than its share
    product_scan(tmp_path, tmp_path / "lake", load_all())
    with contextlib.closing(connect(tmp_path / "lake")) as connection:
        (fired,) = connection.execute(_FIRED).fetchall()[0]
    assert fired / 60_000 == pytest.approx(0.01, rel=0.3)


def test_a_longer_bench_begins_with_the_shorter() -> None:
    long, short = bench.build().messages(60_000), bench.build().messages(55_000)
    assert all(a == b for a, b in zip(long, short, strict=False))


def test_bench_ends() -> None:
    with pytest.raises(UsageError, match="at most"):
        next(iter(bench.build().blocks(bench.LIMIT + 1)))


def test_command_writes_files_and_the_story(tmp_path: Path) -> None:
    out = tmp_path / "site"
    args = ["--out", str(out), "--accelerators", "1024", "--duration", "1h", "--rate", "1", "--json"]
    result = CliRunner().invoke(command, args)
    assert result.exit_code == 0, result.output
    summary = json.loads(result.output)
    written = {
        name: len(_lines(out, name)) for name in (*(r.name for r in EVENTS.values()), "party", "asset")
    }
    assert written == {name: summary["records"][name] for name in written}
    story = json.loads((out / "incidents.json").read_text())
    assert story["until"] == iso(micros(START) + HOUR)
    assert all(i["rule_id"] and i["subject"] and i["sentence"].endswith(".") for i in story["incidents"])


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "--out DIR"),
        (["--out", "x", "--live"], "--brokers"),
        (["--out", "x", "--profile", "bench", "--seed", "3"], "bench is fixed"),
        (["--out", "x", "--events", "3"], "bench profile"),
    ],
)
def test_wrong_use_is_said(
    args: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(command, args)
    assert isinstance(result.exception, UsageError)
    assert text in str(result.exception)
    assert not list(tmp_path.iterdir())


def _lines(folder: Path, name: str) -> list[bytes]:
    return (folder / f"{name}.ndjson").read_bytes().splitlines()

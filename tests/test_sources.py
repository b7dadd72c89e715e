"""Foreign logs become exactly these contract records, and scan accepts every one."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from deltalake.exceptions import TableNotFoundError

from deploy.local_kafka import LocalKafka
from schemas.errors import UsageError
from schemas.sources import mapping, names
from schemas.sources.cloudtrail import instance_types
from schemas.sources.local_time import LocalTimeError, instant, timezone_of
from schemas.sources.slurm_sacct import Accelerators, tres
from stream.commands.map import command
from tests.compare import rows, run_scan
from tests.compare_history import history_differences
from tests.landings import scan as read_table
from tests.plain.tables import EVENTS
from tests.plain.values import Reason, decode
from tests.topics import delete_custody_topics

SAMPLES = Path(__file__).resolve().parents[1] / "schemas" / "sources" / "samples"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def run_map(source: str, out: Path, *arguments: str | Path) -> dict[str, Any]:
    """The `--json` summary of `sekisho map`."""
    result = CliRunner().invoke(
        command,
        ["--source", source, "--out", str(out), "--json", *(str(argument) for argument in arguments)],
        catch_exceptions=False,
        standalone_mode=False,
    )
    assert result.exception is None
    summary: dict[str, Any] = json.loads(result.stdout)
    return summary


def records(out: Path, stream: str) -> list[dict[str, Any]]:
    """A stream's records, each one that the contract accepts."""
    lines = (out / f"{stream}.ndjson").read_bytes().splitlines()
    for line in lines:
        assert not isinstance(decode(EVENTS[stream], line), Reason), line
    return [json.loads(line) for line in lines]


def brief(found: list[dict[str, Any]], *fields: str) -> list[tuple[Any, ...]]:
    return [tuple(record.get(field) for field in fields) for record in found]


def test_sacct_text(tmp_path: Path) -> None:
    summary = run_map("slurm-sacct", tmp_path, "--timezone", "Asia/Tokyo", SAMPLES / "slurm-sacct.txt")
    assert summary == {
        "records": {"allocation": 6, "placement": 6},
        "left_out": {
            "step": 1,
            "not_started": 1,
            "no_accelerators": 1,
            "accelerators_unknown": 1,
            "ends_before_start": 1,
            "columns": 1,
            "heading": 1,
        },
    }
    allocations = records(tmp_path, "allocation")
    assert brief(allocations, "allocation_id", "action", "occurred_at", "accelerators", "model", "node") == [
        ("slurm/ishikari-1/1001", "allocated", "2026-03-01T00:00:00Z", 4, "h100", "gpu07"),
        ("slurm/ishikari-1/1002", "allocated", "2026-03-01T01:00:00Z", 16, None, None),
        ("slurm/ishikari-1/1005", "allocated", "2026-03-01T02:00:00Z", 2, None, "gpu01"),
        ("slurm/ishikari-1/1007", "allocated", "2026-03-01T02:00:00Z", 1, None, "gpu01"),
        ("slurm/ishikari-1/1005", "released", "2026-03-01T02:05:00Z", 2, None, "gpu01"),
        ("slurm/ishikari-1/1001", "released", "2026-03-01T03:30:00Z", 4, "h100", "gpu07"),
    ]
    assert allocations[0] == {
        "event_id": "1001/20260301T000000Z/allocated",
        "occurred_at": "2026-03-01T00:00:00Z",
        "source": "slurm/ishikari-1",
        "principal": "slurm/ishikari-1:hana",
        "allocation_id": "slurm/ishikari-1/1001",
        "node": "gpu07",
        "action": "allocated",
        "model": "h100",
        "accelerators": 4,
        "requested_by": "slurm/ishikari-1:hana",
    }
    placements = records(tmp_path, "placement")
    assert brief(placements, "workload_id", "action", "nodelist")[:2] == [
        ("slurm/ishikari-1/1001", "started", None),
        ("slurm/ishikari-1/1002", "started", "gpu[08-09]"),
    ]


def test_sacct_json_and_slurmrestd(tmp_path: Path) -> None:
    summary = run_map("slurm-sacct", tmp_path, SAMPLES / "slurm-sacct.json")
    assert summary["left_out"] == {"accelerators_unknown": 1, "not_started": 1, "malformed": 1, "no_job": 1}
    assert brief(records(tmp_path, "allocation"), "allocation_id", "action", "accelerators", "model") == [
        ("slurm/ishikari-1/2001", "allocated", 4, "h100"),
        ("slurm/ishikari-1/2002", "allocated", 8, "h100"),
        ("slurm/ishikari-1/2003", "allocated", 4, "h100"),
        ("slurm/ishikari-1/2003", "released", 4, "h100"),
        ("slurm/ishikari-1/2001", "released", 4, "h100"),
    ]


def test_cloudtrail(tmp_path: Path) -> None:
    summary = run_map("cloudtrail", tmp_path, SAMPLES / "cloudtrail.json")
    assert summary == {
        "records": {"allocation": 3, "access": 8, "placement": 3},
        "left_out": {
            "malformed": 2,
            "call_failed": 2,
            "no_accelerators": 2,
            "aws_service": 1,
            "not_secret": 1,
            "instance_type_unknown": 1,
            "not_custody": 1,
            "instance_unknown": 1,
        },
    }
    assert brief(records(tmp_path, "access"), "action", "operation", "mfa", "source_ip", "session_id") == [
        ("opened", "login", True, "192.0.2.7", None),
        ("denied", "login", False, "192.0.2.7", None),
        ("denied", "assume_role", None, "192.0.2.7", None),
        ("opened", "shell", True, "192.0.2.7", "hana-0a1b"),
        ("closed", "shell", True, "192.0.2.7", "hana-0a1b"),
        ("call", "secret_read", None, None, None),
        ("call", "secret_read", None, "192.0.2.7", None),
        ("denied", "run_instances", None, "192.0.2.7", None),
    ]
    allocations = records(tmp_path, "allocation")
    assert brief(allocations, "allocation_id", "action", "model", "accelerators", "principal") == [
        (f"aws/111122223333/{instance}", action, "NVIDIA H100", 8, f"aws/111122223333:{ROLE}")
        for instance, action in (("i-0a", "allocated"), ("i-0b", "allocated"), ("i-0a", "released"))
    ]
    ids = [record["event_id"] for stream in EVENTS for record in records(tmp_path, stream)]
    assert len(set(ids)) == len(ids) == 14


ROLE = "arn:aws:iam::111122223333:role/train"


def test_half_a_character_is_left_out_with_a_reason(tmp_path: Path) -> None:
    log = json.loads((SAMPLES / "cloudtrail.json").read_text())
    before = run_map("cloudtrail", tmp_path / "before", SAMPLES / "cloudtrail.json")
    whole = next(record for record in log["Records"] if record["eventName"] == "ConsoleLogin")
    log["Records"].append(whole | {"eventID": "half\ud800"})
    (tmp_path / "log.json").write_text(json.dumps(log))
    summary = run_map("cloudtrail", tmp_path / "out", tmp_path / "log.json")
    assert summary["records"] == before["records"]
    assert summary["left_out"] == before["left_out"] | {"lone_surrogate": 1}


def test_what_no_log_says_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--timezone"):
        run_map("slurm-sacct", tmp_path / "out", SAMPLES / "slurm-sacct.txt")
    assert not (tmp_path / "out").exists()
    log = tmp_path / "log"
    log.write_text("JobID|User|Start|End|State|AllocTRES\n7|a|1772323200|1772326800|COMPLETED|gres/gpu=1\n")
    assert run_map("slurm-sacct", tmp_path / "1", log)["left_out"] == {"no_cluster": 1}
    assert run_map("slurm-sacct", tmp_path / "2", "--cluster", "c", log)["records"] == {
        "allocation": 2,
        "placement": 2,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", None),
        ("JobID|User|Start|End|AllocTRES\n", "lacks the column state"),
        ("some prose\n", "no sacct output"),
        ('{"jobs": 5}', "no list of jobs"),
        ("{", "no list of jobs"),
    ],
)
def test_files_of_another_format_are_refused(text: str, message: str | None, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(text)
    if message is None:
        assert run_map("slurm-sacct", tmp_path / "out", log)["records"] == {}
    else:
        with pytest.raises(UsageError, match=message):
            run_map("slurm-sacct", tmp_path / "out", log)
    with pytest.raises(UsageError, match="no CloudTrail log file"):
        run_map("cloudtrail", tmp_path / "out", log)


def test_nothing_is_overwritten_and_unknown_names_are_refused(tmp_path: Path) -> None:
    run_map("cloudtrail", tmp_path, SAMPLES / "cloudtrail.json")
    before = (tmp_path / "access.ndjson").read_bytes()
    with pytest.raises(UsageError, match="exists"):
        run_map("cloudtrail", tmp_path, SAMPLES / "cloudtrail.json")
    assert (tmp_path / "access.ndjson").read_bytes() == before
    with pytest.raises(UsageError, match="cloudtrail, slurm-sacct"):
        run_map("syslog", tmp_path / "out", SAMPLES / "cloudtrail.json")
    with pytest.raises(UsageError, match="no time zone"):
        run_map("slurm-sacct", tmp_path / "out", "--timezone", "../etc", SAMPLES / "slurm-sacct.txt")


def test_the_verb_exits_2_with_one_line(tmp_path: Path) -> None:
    arguments = ["map", "--source", "slurm-sacct", "--out", str(tmp_path / "out")]
    program = [sys.executable, "-c", "from stream.cli import main; main()", *arguments]
    ran = subprocess.run([*program, str(SAMPLES / "slurm-sacct.txt")], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert "--timezone" in ran.stderr


@pytest.mark.parametrize(
    ("local", "zone", "expected"),
    [
        ("2026-03-01T09:00:00", "Asia/Tokyo", "2026-03-01T00:00:00"),
        ("2026-03-01T09:00:00", "+09:00", "2026-03-01T00:00:00"),
        ("2026-03-01T09:00:00", "-0330", "2026-03-01T12:30:00"),
        ("2026-03-08T01:59:59", "America/New_York", "2026-03-08T06:59:59"),
        ("2026-03-08T02:00:00", "America/New_York", "time_nonexistent"),
        ("2026-03-08T02:59:59", "America/New_York", "time_nonexistent"),
        ("2026-03-08T03:00:00", "America/New_York", "2026-03-08T07:00:00"),
        ("2026-11-01T00:59:59", "America/New_York", "2026-11-01T04:59:59"),
        ("2026-11-01T01:00:00", "America/New_York", "time_ambiguous"),
        ("2026-11-01T01:59:59", "America/New_York", "time_ambiguous"),
        ("2026-11-01T02:00:00", "America/New_York", "2026-11-01T07:00:00"),
        ("2011-12-30T12:00:00", "Pacific/Apia", "time_nonexistent"),
    ],
)
def test_local_times(local: str, zone: str, expected: str) -> None:
    try:
        found = instant(datetime.fromisoformat(local), timezone_of(zone))
    except LocalTimeError as error:
        assert error.reason == expected
    else:
        assert found == datetime.fromisoformat(expected).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("billing=12,cpu=12,gres/gpu=2,mem=31000M,node=1", Accelerators(2, None)),
        ("gres/gpu=4,gres/gpu:h100=4", Accelerators(4, "h100")),
        ("gres/gpu:h100=4", Accelerators(4, "h100")),
        ("gres/gpu=3,gres/gpu:h100=2", Accelerators(3, None)),
        ("gres/gpu:h100=2,gres/gpu:a100=2", Accelerators(4, None)),
        ("gres/gpumem=80G,gres/gpuutil=50,gres/shard=3", None),
        ("gres/gpu=0", None),
        ("gres/gpu:a100_1g.5gb=1,gres/gpu=1", Accelerators(1, "a100_1g.5gb")),
        ("", None),
    ],
)
def test_tres(text: str, expected: Accelerators | None) -> None:
    assert tres(text) == expected


def test_every_reason_is_explained_and_every_instance_type_is_sane() -> None:
    assert names() == ["cloudtrail", "slurm-sacct"]
    for name in names():
        assert all(mapping(name).reasons.values())
    assert instance_types()["p5.48xlarge"].count == 8
    assert all(held.count in (1, 2, 4, 6, 8, 12, 16) for held in instance_types().values())


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Real logs of others, mapped. Where they are not at hand, tests are skipped; in CI they fail."""
    if not SHARED.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("CI must run with the real records in ../shared/data")
        pytest.skip("the real records in ../shared/data are not here")
    folder = tmp_path_factory.mktemp("real")
    trails = sorted(SHARED.glob("cloudtrail-*/*.json"))
    jobs = sorted(SHARED.glob("slurmrestd-slurmweb/*/*job*.json"))
    new_york = ("--timezone", "America/New_York")
    (folder / "summary.json").write_text(
        json.dumps(
            {
                "cloudtrail": run_map("cloudtrail", folder / "cloudtrail", *trails),
                "phillips": run_map(
                    "slurm-sacct", folder / "phillips", *new_york, SHARED / "xdmod-ccr" / "phillips.log"
                ),
                "slurmrestd": run_map("slurm-sacct", folder / "slurmrestd", *jobs),
            }
        )
    )
    return {name: folder / name for name in ("cloudtrail", "phillips", "slurmrestd", "summary.json")}


@pytest.mark.shared
def test_real_logs_map_without_remainder(real: dict[str, Path]) -> None:
    summary = json.loads(real["summary.json"].read_text())
    trail, phillips, slurmrestd = (summary[name] for name in ("cloudtrail", "phillips", "slurmrestd"))
    assert (
        trail["records"]["access"] + sum(trail["left_out"].values()) == 1684
    )  # one event or reason a record
    assert phillips["records"] == {"allocation": 4, "placement": 4}
    assert phillips["left_out"] == {"no_accelerators": 4044, "not_started": 239}  # of 4,285 jobs
    assert slurmrestd["records"]["allocation"] == slurmrestd["records"]["placement"] > 0
    denied = [r for r in records(real["cloudtrail"], "access") if r["action"] == "denied"]
    assert [r["operation"] for r in denied if r["operation"] == "run_instances"] == ["run_instances"]
    held = {r["allocation_id"]: r["accelerators"] for r in records(real["slurmrestd"], "allocation")}
    assert held["slurm/hpc/11"] == 8  # two nodes of four
    assert held["slurm/hpc/10"] == 4  # completed: what --gpus asked for


@pytest.mark.shared
@pytest.mark.parametrize("name", ["cloudtrail", "phillips", "slurmrestd"])
def test_real_logs_land_through_scan(name: str, real: dict[str, Path], tmp_path: Path) -> None:
    run_scan(real[name], tmp_path / "lake")
    raw = rows(tmp_path / "lake", "raw")
    assert {row["reason"] for row in raw} == {None}
    events = [row for stream in EVENTS for row in rows(tmp_path / "lake", stream)]
    assert all("gap.identity.unknown" in row["verdicts"] for row in events)  # nobody is on board yet
    assert len(events) == len(raw) > 0
    assert list(history_differences(real[name], tmp_path / "lake")) == []


def sekisho(*arguments: str | Path) -> list[str]:
    program = "from stream.cli import main; main()"
    return [sys.executable, "-c", program, *(str(argument) for argument in arguments)]


def landed(lake: Path) -> int:
    try:
        return read_table(lake, "raw").num_rows
    except TableNotFoundError:
        return 0


def answers(lake: Path, stream: str) -> list[dict[str, Any]]:
    """A stream's rows without where and when each was read."""
    where = {"topic", "partition", "offset", "broker_time", "ingested_at", "dt"}
    found = [{name: row[name] for name in row if name not in where} for row in rows(lake, stream)]
    return sorted(found, key=lambda row: (row["source"], row["event_id"]))


@pytest.mark.shared
def test_real_logs_are_judged_the_same_through_kafka(
    real: dict[str, Path], kafka: LocalKafka, tmp_path: Path
) -> None:
    delete_custody_topics(kafka.bootstrap)
    run_scan(real["cloudtrail"], tmp_path / "scanned")
    total = len(records(real["cloudtrail"], "access"))
    topic = ("--topic", "custody.access", "--create", "--partitions", "3")
    shipped = sekisho("produce", *topic, "--brokers", kafka.bootstrap, real["cloudtrail"] / "access.ndjson")
    subprocess.run(shipped, check=True, capture_output=True)
    lake = tmp_path / "live"
    options = ("--metrics", "off", "--commit-seconds", "1", "--group", "test-sources", "--partitions", "3")
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            sekisho("worker", "--brokers", kafka.bootstrap, "--lake", lake, *options), stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + 90
        while landed(lake) < total:
            assert worker.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.5)
    finally:
        worker.send_signal(signal.SIGTERM)
        status = worker.wait(60)
    assert status == 0
    assert landed(lake) == total
    assert answers(lake, "access") == answers(tmp_path / "scanned", "access")

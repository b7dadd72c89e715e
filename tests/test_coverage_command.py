"""`sekisho coverage`: the figures by hand, what is missing, utilisation, and what it says without data."""

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from rules.pipeline import Landing, admit_references
from rules.references import References
from schemas.errors import UsageError
from schemas.events import ACCESS
from schemas.reference import ASSET
from schemas.tables import FETCHED
from sinks.lake import Lake
from stream.commands.coverage import command, percent
from tests.landings import START, land, landing
from tests.settling import piece, settle

HOUR = 60  # minutes, as pieces count them
Row = dict[str, Any]


def iso(minutes: int) -> str:
    return f"{START + timedelta(minutes=minutes):%Y-%m-%dT%H:%M:%S.%fZ}"


def assets(*lines: Row) -> Landing:
    """Versions of assets, as files have them: a tombstone is a line of its own."""
    rows = [
        {"topic": ASSET.topic, "partition": 0, "offset": offset, "value": json.dumps(line).encode()}
        for offset, line in enumerate(lines)
    ]
    return admit_references(ASSET, pa.RecordBatch.from_pylist(rows, FETCHED), References(), keyed=False)


def asset(serial: str, version: int = 1, start: int = -HOUR, **fields: Any) -> Row:
    named = {"serial": serial, "version": version, "valid_from": iso(start), "status": "installed"}
    return {**named, "site_id": "S1", "model": "NVIDIA H100", **fields}


def lake(folder: Path, pieces: Iterable[Row], watermark: datetime, *lines: Row) -> Path:
    opened = Lake.open(folder)
    land(opened, landing(ACCESS, {0: range(3)}), *([assets(*lines)] if lines else []))
    settle(opened, 1, {"coverage": pieces}, watermark)
    return folder


def run(folder: Path, *options: str) -> Result:
    return CliRunner().invoke(command, ["--lake", str(folder), *options])


def told(folder: Path, *options: str) -> Row:
    result = run(folder, "--json", *options)
    assert result.exit_code == 0, result.exception
    found: Row = json.loads(result.stdout)
    return found


def groups(found: Row) -> Row:
    """Name → (coverage, allocated hours, utilisation)."""
    return {
        group[found["by"]]: (group["coverage"], group["accelerator_seconds"] / 3600, group["utilisation"])
        for group in found["groups"]
    }


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Two allocations over two days, sixteen accelerators installed; 8 * 36 + 4 * 4 accelerator-hours."""
    day = 24 * HOUR
    missing: Row = {"who": False, "reasons": ["who"]}
    both: Row = {"who": False, "where": False, "reasons": ["who", "where"]}
    pieces = [
        piece("X", 0, 30 * HOUR, site_id="S1", party_id="P1", model="H100"),
        piece("X", 30 * HOUR, None, site_id="S1", model="H100", **missing),
        piece("Y", day - HOUR, day + HOUR, accelerators=4, party_id="P1", model="NVIDIA H100", **both),
        piece("Y", day + HOUR, day + 3 * HOUR, accelerators=4, site_id="S2", party_id="P1", model=None),
    ]
    stock = [asset(f"SN{n}") for n in range(16)]
    return lake(tmp_path / "lake", pieces, START + timedelta(hours=36), *stock)


def test_the_headline_and_what_is_missing(several: Path) -> None:
    found = told(several)
    assert found["accelerator_seconds"] == 304 * 3600
    assert found["covered_accelerator_seconds"] == (240 + 8) * 3600
    assert found["coverage"] == pytest.approx(248 / 304)
    assert found["missing"] == [
        {"links": ["who"], "accelerator_seconds": 48 * 3600},
        {"links": ["who", "where"], "accelerator_seconds": 8 * 3600},
    ]
    assert found["installed_accelerator_seconds"] == 16 * 36 * 3600
    assert found["utilisation"] == pytest.approx(304 / (16 * 36))
    assert (found["since"], found["until"]) == (iso(0), iso(36 * HOUR)) and found["watermark"] == iso(
        36 * HOUR
    )


def test_by_site_party_model_and_day(several: Path) -> None:
    assert groups(told(several, "--by", "site")) == {
        "S1": (pytest.approx(240 / 288), 288, pytest.approx(288 / (16 * 36))),
        "S2": (1, 8, None),
        None: (0, 8, None),
    }
    assert groups(told(several, "--by", "party")) == {
        "P1": (pytest.approx(248 / 256), 256, None),
        None: (0, 48, None),
    }
    assert groups(told(several, "--by", "model")) == {
        "H100": (pytest.approx(240 / 296), 296, pytest.approx(296 / (16 * 36))),
        None: (1, 8, None),
    }
    assert groups(told(several, "--by", "day")) == {
        "2026-03-01": (pytest.approx(192 / 196), 196, pytest.approx(196 / (16 * 24))),
        "2026-03-02": (pytest.approx((48 + 8) / 108), 108, pytest.approx(108 / (16 * 12))),
    }


def test_an_interval_clips_pieces_and_what_is_installed(several: Path) -> None:
    found = told(several, "--since", iso(29 * HOUR), "--until", iso(31 * HOUR))
    assert (found["coverage"], found["accelerator_seconds"]) == (0.5, 16 * 3600)
    assert found["utilisation"] == 0.5
    beyond = told(several, "--since", iso(35 * HOUR), "--until", iso(99 * HOUR))
    assert (beyond["until"], beyond["accelerator_seconds"]) == (iso(36 * HOUR), 8 * 3600)
    before = told(several, "--since", iso(-HOUR), "--until", iso(0))
    assert (before["coverage"], before["utilisation"]) == (None, 0)


def test_installed_is_the_highest_version_in_force_until_a_tombstone(tmp_path: Path) -> None:
    lines = [
        asset("SN1"),
        asset("SN1", 2, 1 * HOUR, valid_to=iso(2 * HOUR), status="spare"),
        asset("SN2", 1, 0, site_id=None),
        {"serial": "SN2", "tombstone_at": iso(3 * HOUR)},
        asset("SN2", 2, 3 * HOUR, site_id="S2"),
        asset("SN3", 1, 0, status="lost"),
        asset("SN4", 1, 5 * HOUR),
    ]
    pieces = [piece("X", 0, None, site_id="S1", accelerators=1)]
    folder = lake(tmp_path, pieces, START + timedelta(hours=4), *lines)
    found = told(folder)
    assert found["installed_accelerator_seconds"] == (3 + 4) * 3600
    seconds = {group["site"]: group["installed_accelerator_seconds"] / 3600 for group in found["groups"]}
    assert seconds == {"S1": 3, None: 3, "S2": 1}
    assert groups(found)["S2"] == (None, 0, 0)


def test_the_report_is_readable_and_others_text_steers_nothing(several: Path) -> None:
    text = run(several).stdout
    assert "Coverage 81.58% of 304.0 allocated accelerator-hours" in text
    assert "Utilisation 52.78% of 576.0 installed" in text
    assert "who, where" in text and "unknown" in text and "violation" not in text
    assert "█" in text


def test_an_id_may_hold_anything(tmp_path: Path) -> None:
    folder = lake(tmp_path, [piece("X", 0, HOUR, site_id="[red]\x1b[31m")], START + timedelta(hours=1))
    assert "[red]\\u001b[31m" in run(folder).stdout


def test_without_data_it_says_so(tmp_path: Path) -> None:
    land(Lake.open(tmp_path), landing(ACCESS, {0: range(3)}))
    result = run(tmp_path)
    assert result.exit_code == 0 and "No coverage yet" in result.stdout
    assert (told(tmp_path)["coverage"], told(tmp_path)["groups"]) == (None, [])
    settle(Lake.open(tmp_path, create=False), 1, {})
    result = run(tmp_path)
    assert result.exit_code == 0 and "No allocation" in result.stdout


def test_accelerators_may_be_none(tmp_path: Path) -> None:
    folder = lake(tmp_path, [piece("X", 0, HOUR, site_id="S1", accelerators=0)], START + timedelta(hours=1))
    assert told(folder)["coverage"] is None
    assert "no allocation" in run(folder).stdout


@pytest.mark.parametrize(
    "options", [("--since", "2026-03-01"), ("--since", iso(1), "--until", iso(1)), ("--until", "now")]
)
def test_an_interval_must_be_one(several: Path, options: tuple[str, ...]) -> None:
    assert isinstance(run(several, *options).exception, UsageError)


def test_ages_are_not_told_day_by_day(tmp_path: Path) -> None:
    end = START.replace(year=9999)
    folder = lake(tmp_path, [piece("A", 0, 60), piece("B", 60, None)], end)
    raised = run(folder, "--by", "day").exception
    assert isinstance(raised, UsageError) and "that is 2,912,078 days: choose at most 10,000" in str(raised)
    assert len(told(folder, "--by", "day", "--until", iso(90))["groups"]) == 1
    assert len(told(folder, "--by", "site")["groups"]) == 1


def test_no_ratio_is_rounded_to_what_it_is_not() -> None:
    assert [percent(ratio) for ratio in (0, 1e-9, 0.5, 1 - 1e-9, 1)] == [
        "0.00%",
        "0.01%",
        "50.00%",
        "99.99%",
        "100.00%",
    ]

"""Ticks: read and landed like every record, in no table of their own."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from rules.judge import Judge
from rules.pipeline import admit_ticks
from schemas.record import TIME
from schemas.tables import FETCHED
from schemas.ticks import TICK
from sinks.lake import Lake
from sinks.metrics import Metrics
from stream.fetches import Fetch
from stream.judging import Batch, Judging
from stream.landing import Lander
from stream.record_batches import from_rows
from stream.settings import Settings
from tests.landings import scan

REASONS = [
    (b'{"at": "2026-03-01T00:00:00Z"}', None),
    (b'{"at": "2026-03-01T09:00:00+09:00", "by": 1}', None),
    (b"{}", "missing:at"),
    (b'{"at": null}', "missing:at"),
    (b'{"at": "2026-03-01T00:00:00"}', "type:at"),
    (b'{"at": 7}', "type:at"),
    (b"[]", "not_object"),
    (b"{", "not_json"),
    (None, "tombstone"),
]


def fetched(values: list[bytes | None]) -> pa.RecordBatch:
    rows = len(values)
    columns = {
        "topic": pa.repeat(TICK.topic, rows),
        "partition": pa.repeat(pa.scalar(0, pa.int32()), rows),
        "offset": pa.array(range(rows), pa.int64()),
        "broker_time": pa.repeat(pa.scalar(0, TIME), rows),
        "value": pa.array(values, pa.binary()),
    }
    return pa.RecordBatch.from_arrays(
        [columns.get(field.name, pa.nulls(rows, field.type)) for field in FETCHED], schema=FETCHED
    )


@pytest.mark.parametrize(("value", "reason"), REASONS)
def test_a_tick_is_decoded_as_strictly_as_an_event(value: bytes | None, reason: str | None) -> None:
    landing = admit_ticks(fetched([value]))
    assert landing.raw["reason"].to_pylist() == [reason]
    assert landing.raw["disposition"].to_pylist() == ["accepted" if reason is None else "rejected"]
    assert landing.typed.num_rows == landing.findings.num_rows == 0


def test_a_worker_lands_ticks_in_raw_alone(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path / "lake")
    values = [value for value, _ in REASONS]
    count = len(values)
    records = from_rows((row, 1000, None, None, value) for row, value in enumerate(values))
    fetch = Fetch(TICK.topic, 0, 0, count, records, 1)
    judging = Judging(Judge([]), {})
    judged = judging.judge(judging.decode(Batch([fetch], count, 1, 0.0)))
    assert not judged.has_events, "a tick is judged against nothing, so it ends no transaction"
    lander = Lander(lake, Settings(), Metrics())
    lander.append(judged)
    lander.commit()
    assert lake.offsets() == {(TICK.topic, 0): count}
    raw = sorted(scan(tmp_path / "lake", "raw").to_pylist(), key=lambda row: row["offset"])
    assert [row["reason"] for row in raw] == [reason for _, reason in REASONS]
    assert [row["value"] for row in raw] == values
    assert {row["broker_time"] for row in raw} == {datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)}

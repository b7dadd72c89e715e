"""What a demo reads back from the lake."""

from pathlib import Path

from sinks.lake import Lake
from stream.outcome import _coverage
from tests.settling import piece, settle


def test_coverage_is_weighed_by_accelerators_and_time_however_many(tmp_path: Path) -> None:
    most = (1 << 63) - 1
    pieces = [
        piece("A", 0, 30, accelerators=most),
        piece("B", 0, 10, accelerators=most, where=False, reasons=["where"]),
    ]
    settle(Lake.open(tmp_path), 1, {"coverage": pieces})
    assert _coverage(tmp_path) == (0.75, {"where": 0.25})

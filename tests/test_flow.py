"""What workers are held against is what `sekisho scan` says of the same records."""

from pathlib import Path

from stream.simulation import bench
from tests.flow import Expected, dealt


def test_the_expected_verdicts_are_those_of_scan(tmp_path: Path) -> None:
    sent = list(dealt(bench.build().messages(3_000), 4))
    expected = Expected(sent)
    assert list(expected.unlike_scan(sent, tmp_path)) == []
    fired = sum(landing.findings.num_rows for landings in expected.landings.values() for landing in landings)
    assert fired > 10, "nothing fires: nothing is compared"

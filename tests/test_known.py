"""What a process knows when it starts."""

from pathlib import Path

import pytest

from rules.references import References
from schemas.errors import SekishoError
from schemas.reference import PARTY
from sinks.lake import Lake
from stream import known
from tests.landings import land, landing


def test_references_are_known_after_a_restart(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, landing(PARTY, {0: range(3)}))
    land(lake, landing(PARTY, {0: range(3, 5)}))
    references = References()
    known.load(references, lake, lake.offsets())
    assert references.known == {(PARTY.topic, 0): 5}
    assert references.count(PARTY) == 4  # the first record was rejected


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    lake = Lake.open(tmp_path)
    land(lake, landing(PARTY, {0: range(5)}))
    (file,) = (tmp_path / "party").glob("dt=*/*.parquet")
    file.write_bytes(b"PAR1 torn")
    with pytest.raises(SekishoError, match=file.name):
        known.load(References(), lake, lake.offsets())

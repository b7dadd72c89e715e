"""The restricted set, its dates, and how countries compare."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from schemas import countries

_D5 = (
    "AF", "BY", "CD", "CF", "CN", "CU", "ER", "HT", "IQ", "IR", "KP",
    "LB", "LY", "MM", "NI", "RU", "SD", "SO", "SS", "SY", "VE", "ZW",
)  # fmt: skip


def _us(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def test_the_set_is_d5_macau_and_hong_kong_as_china() -> None:
    permanent = {code for code, until in countries.RESTRICTED.items() if until is None}
    assert permanent == {*_D5, "MO"}
    assert countries.is_restricted("hk", _us("2026-06-01"))
    assert countries.AS_OF == "2026-07-23"


def test_every_source_id_is_explained() -> None:
    cited = {source for entry in countries._DATA["restricted"].values() for source in entry["source"]}
    assert cited <= set(countries.SOURCES)


@pytest.mark.parametrize(
    ("at", "expected"),
    [("2026-02-02T23:59:59", True), ("2026-02-03T00:00:00", False), ("2020-01-01T00:00:00", True)],
)
def test_cambodia_leaves_on_its_date(at: str, expected: bool) -> None:
    assert countries.is_restricted("kh", _us(at)) is expected


def test_normalisation_of_columns_and_lists() -> None:
    assert countries.countries(pa.array(["jp", None, "hk", "CN"])).to_pylist() == ["JP", None, "CN", "CN"]
    lists = pa.array([None, ["Hk", "jp"], []])
    assert countries.country_lists(lists).to_pylist() == [None, ["CN", "JP"], []]
    assert not countries.is_restricted(None, 0)

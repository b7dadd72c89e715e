"""The restricted set, its dates, and how countries compare."""

from datetime import UTC, datetime

import pyarrow as pa

from schemas import countries

_D5 = (
    "AF", "BY", "CD", "CF", "CN", "CU", "ER", "HT", "IQ", "IR", "KP",
    "LB", "LY", "MM", "NI", "RU", "SD", "SO", "SS", "SY", "VE", "ZW",
)  # fmt: skip


def test_the_set_is_d5_macau_and_hong_kong_as_china() -> None:
    permanent = {code for code, until in countries.RESTRICTED.items() if until is None}
    assert permanent == {*_D5, "MO"}
    assert countries.country("hk") in permanent


def test_every_source_id_is_explained() -> None:
    cited = {source for entry in countries._DATA["restricted"].values() for source in entry["source"]}
    assert cited <= set(countries._DATA["sources"])


def test_cambodia_leaves_on_its_date() -> None:
    leaving = {code: until for code, until in countries.RESTRICTED.items() if until is not None}
    assert leaving == {"KH": datetime(2026, 2, 3, tzinfo=UTC)}
    assert ("KH", datetime(2026, 2, 3)) in countries.restricted_rows()


def test_normalisation_of_columns_and_lists() -> None:
    assert countries.countries(pa.array(["jp", None, "hk", "CN"])).to_pylist() == ["JP", None, "CN", "CN"]
    lists = pa.array([None, ["Hk", "jp"], []])
    assert countries.country_lists(lists).to_pylist() == [None, ["CN", "JP"], []]

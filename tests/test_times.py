"""Times and dates: the edges by hand, and whole columns held against their strings one by one."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.times import MAX_TIME, parse_date, parse_dates, parse_time, parse_times
from tests.value_cases import NO_TIMES, TIMES, micros


@pytest.mark.parametrize(("text", "instant"), TIMES.items())
def test_time(text: str, instant: str) -> None:
    assert parse_time(text) == micros(instant)


@pytest.mark.parametrize("text", NO_TIMES)
def test_no_time(text: str) -> None:
    assert parse_time(text) is None


def test_bounds() -> None:
    assert parse_time("1970-01-01T00:00:00.000000999Z") == 0
    assert parse_time("9999-12-31T23:59:59.999999999Z") == MAX_TIME
    assert parse_time("9999-12-31T23:59:59.999999+00:01") == MAX_TIME - 60_000_000


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("2026-03-01", dt.date(2026, 3, 1)),
        ("2024-02-29", dt.date(2024, 2, 29)),
        ("0001-01-01", dt.date.min),
        ("9999-12-31", dt.date.max),
        ("0000-12-31", None),
        ("2026-02-29", None),
        ("1900-02-29", None),
        ("2026-04-31", None),
        ("2026-13-01", None),
        ("2026-00-01", None),
        ("2026-3-01", None),
        ("20260301", None),
        ("2026/03/01", None),
        ("2026-03-01Z", None),
        ("2026-03-01T00:00:00Z", None),
        (" 2026-03-01", None),
        ("2026-03-01\n", None),
        ("12026-03-01", None),
        ("-026-03-01", None),
        ("２０２６-03-01", None),
    ],
)
def test_date(text: str, date: dt.date | None) -> None:
    assert parse_date(text) == date
    dates, wrong = parse_dates(pa.array([text, None]))
    assert wrong.tolist() == [date is None, False]
    assert date is None or dates.to_pylist() == [date, None]


def _digits(low: int, high: int, width: int) -> st.SearchStrategy[str]:
    return st.integers(low, high).map(lambda number: f"{number:0{width}}")


def _near(right: st.SearchStrategy[str], *odd: str) -> st.SearchStrategy[str]:
    return st.one_of(right, right, right, st.sampled_from(odd))


_HOURS = _near(_digits(0, 23, 2), "24", "7", "-1", "")
_SIXTIES = _near(_digits(0, 59, 2), "60", "5", "99")
_ZONES = st.one_of(
    st.just("Z"),
    st.tuples(
        st.sampled_from("+-"),
        _HOURS,
        st.one_of(st.just(""), _SIXTIES, _SIXTIES.map(lambda minutes: f":{minutes}")),
    ).map("".join),
    st.sampled_from(("", "z", " Z", "UTC", "Z+00", "+", "\u2212 09")),
)
_FRACTIONS = st.one_of(
    st.just(""), st.text("0123456789", min_size=1, max_size=10).map(lambda digits: f".{digits}")
)
_CLOCKS = st.one_of(
    _HOURS,
    st.tuples(_HOURS, st.just(":"), _SIXTIES).map("".join),
    st.tuples(_HOURS, st.just(":"), _SIXTIES, st.just(":"), _SIXTIES, _FRACTIONS).map("".join),
)
_YEARS = _near(_digits(1969, 2101, 4), "0000", "0001", "1677", "2262", "9999", "10000", "226")
_DAYS = st.tuples(_YEARS, st.just("-"), _near(_digits(1, 12, 2), "13", "00", "3"), st.just("-"),
                  _near(_digits(1, 31, 2), "00", "32", "1")).map("".join)  # fmt: skip
_NEAR_TIMES = st.tuples(_DAYS, _near(st.sampled_from("T "), "t", "", "_", "  "), _CLOCKS, _ZONES).map("".join)
_STRINGS = st.one_of(
    _NEAR_TIMES, _NEAR_TIMES, _NEAR_TIMES, st.sampled_from(list(TIMES)), st.text(max_size=12), st.none()
)


@settings(max_examples=1500)
@example(["2026-03-01T00:00:00Z", "0000-01-01T00Z", None])
@example(["9999-12-31T23:59:59-00:01"])
@example(["2026-02-30T00:00:00Z", "2026-03-01T00:00:00.123456789Z"])
@given(st.lists(_STRINGS, max_size=4))
def test_a_column_of_times_is_its_strings(texts: list[str | None]) -> None:
    times, wrong = parse_times(pa.array(texts, pa.string()))
    expected = [None if text is None else parse_time(text) for text in texts]
    assert wrong.tolist() == [
        text is not None and found is None for text, found in zip(texts, expected, strict=True)
    ]
    assert times.type == pa.timestamp("us", "UTC")
    assert [
        None if bad else found for bad, found in zip(wrong, times.cast(pa.int64()).to_pylist(), strict=True)
    ] == expected


@settings(max_examples=500)
@given(st.lists(st.one_of(_DAYS, _DAYS, st.text(max_size=11), st.none()), max_size=4))
def test_a_column_of_dates_is_its_strings(texts: list[str | None]) -> None:
    dates, wrong = parse_dates(pa.array(texts, pa.string()))
    expected = [None if text is None else parse_date(text) for text in texts]
    assert wrong.tolist() == [
        text is not None and found is None for text, found in zip(texts, expected, strict=True)
    ]
    assert dates.filter(pa.array(~wrong)).to_pylist() == np.array(expected, dtype=object)[~wrong].tolist()


@pytest.mark.parametrize("text", NO_TIMES)
def test_a_wrong_time_in_a_column_leaves_the_others(text: str) -> None:
    right = "2026-03-01T00:00:00.123456789+09:00"
    times, wrong = parse_times(pa.array([right, text, None]))
    assert wrong.tolist() == [False, True, False]
    assert times.cast(pa.int64())[0].as_py() == parse_time(right)
    assert times[2].as_py() is None


@pytest.mark.parametrize("parse", [parse_times, parse_dates])
def test_columns_of_nothing(parse) -> None:  # type: ignore[no-untyped-def]
    for texts in ([], [None, None]):
        found, wrong = parse(pa.array(texts, pa.string()))
        assert found.null_count == len(texts)
        assert wrong.tolist() == [False] * len(texts)

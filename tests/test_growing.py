"""Numbers in order, and the positions of runs, against plain Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.growing import Growing, ascending, distinct, ranges

numbers = st.lists(st.integers(0, 3) | st.integers(0, (1 << 63) - 1), max_size=60)


@given(numbers, st.sampled_from([np.int64, np.uint64]))
def test_positions_in_ascending_order(values: list[int], dtype: type) -> None:
    order = ascending(np.array(values, dtype)).tolist()
    assert sorted(order) == list(range(len(values)))
    assert [values[place] for place in order] == sorted(values)


@pytest.mark.parametrize("apart", [1, 1 << 40])
def test_numbers_that_differ_in_low_bits_only(apart: int) -> None:
    values = np.random.default_rng(1).permutation(5000).astype(np.uint64) * np.uint64(apart)
    values |= np.uint64(1 << 63)
    assert (values[ascending(values)] == np.sort(values)).all()


@given(numbers)
def test_distinct_numbers(values: list[int]) -> None:
    assert distinct(np.array(values, np.int64)).tolist() == sorted(set(values))


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 4)), max_size=20))
def test_the_positions_of_runs(runs: list[tuple[int, int]]) -> None:
    firsts, counts = np.array(runs, np.int64).reshape(-1, 2).T
    expected = [place for first, count in runs for place in range(first, first + count)]
    assert ranges(firsts, counts).tolist() == expected


@given(st.lists(st.lists(st.integers(0, 9), max_size=90), max_size=5))
def test_what_is_appended_stays(parts: list[list[int]]) -> None:
    held = Growing(np.int64)
    for part in parts:
        held.append(part)
    assert held.values.tolist() == [value for part in parts for value in part]

"""Lists of texts have one id where they are the same list, and only there."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from rules.lists import Lists

TEXTS = st.one_of(st.none(), st.text("1:,-a", max_size=4), st.just("é" * 70))
LISTS = st.lists(st.one_of(st.none(), st.lists(TEXTS, max_size=3)), max_size=20)


def array(lists: list[list[str | None] | None]) -> pa.ListArray:
    return pa.array(lists, pa.list_(pa.string()))


@given(st.lists(LISTS, max_size=3))
def test_ids_are_equal_where_the_lists_are(batches: list[list[list[str | None] | None]]) -> None:
    held, seen = Lists(), dict[str, int]()
    for batch in batches:
        ids = held.intern(array(batch))
        for one, id in zip(batch, ids.tolist(), strict=True):
            assert id == (-1 if one is None else seen.setdefault(repr(one), len(seen)))
        assert held.take(ids).to_pylist() == batch
    assert len(held) == len(seen)


def test_a_slice_is_read_from_its_beginning() -> None:
    held = Lists()
    ids = held.intern(array([["a"], None, ["b", "c"], ["a"], []])[1:])
    assert ids.tolist() == [-1, 0, 1, 2]
    assert held.take(np.array([2, 1, -1, 0])).to_pylist() == [[], ["a"], None, ["b", "c"]]

"""Partitions by key are those of Kafka's other clients."""

import hypothesis.strategies as st
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import example, given

from stream.partitioner import partitions_of


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 200))
@example([], 1)
@example([b"", b"a", b"ab", b"abc", b"abcd", b"\xff" * 7, b"0123456789abcdef" * 2], 999)
def test_each_key_goes_where_others_send_it(keys: list[bytes], count: int) -> None:
    there = list(range(count))
    assert partitions_of(keys, count) == [DefaultPartitioner()(key, there, there) for key in keys]

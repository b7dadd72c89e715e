"""Apply a plain function to an Arrow string column, calling it once a distinct value."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc


def map_distinct(values: pa.Array, function: Callable[[str], object], type: pa.DataType) -> pa.Array:
    """`function` of every string, as an array of `type` and of the same length; null stays null.

    Columns of codes and names repeat themselves: a batch of 50,000 models holds a few dozen.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    distinct = pa.array([function(value) for value in encoded.dictionary.to_pylist()], type)
    return distinct.take(encoded.indices)


def map_items(lists: pa.Array, function: Callable[[str], object], type: pa.DataType) -> pa.Array:
    """`map_distinct` over the items of a list column: a list array of `type`; null lists stay null."""
    if isinstance(lists, pa.ChunkedArray):
        lists = lists.combine_chunks()
    # `flatten` leaves out what lies under null lists and outside a slice, so offsets count from the lengths.
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    ends = pc.cumulative_sum(lengths)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    items = map_distinct(lists.flatten(), function, type)
    return pa.ListArray.from_arrays(offsets, items, mask=pc.is_null(lists))

"""Arrow values of any type by number; lists of texts, each different one once."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.asof import Ints
from rules.keys import Keys

_SMALL = 1 << 16  # rows; chunks up to this size always merge
_LARGEST = 1 << 30  # bytes; larger chunks would bring 32-bit string offsets near their end


class Lists:
    """A growing set of lists of texts, each with a dense id 0, 1, 2, … in the order of first sight."""

    def __init__(self) -> None:
        self._keys = Keys()
        self._values = Chunks(pa.schema([("list", pa.list_(pa.string()))]))

    def __len__(self) -> int:
        return len(self._keys)

    def intern(self, lists: pa.ListArray) -> Ints:
        """The id of each list, unknown ones are added; -1 for null."""
        before = len(self)
        ids = self._keys.intern(_spelled(lists))
        new = np.flatnonzero(ids >= before)
        _, first = np.unique(ids[new], return_index=True)
        self._values.append(pa.RecordBatch.from_pydict({"list": lists.take(pa.array(new[first]))}))
        return ids

    def take(self, ids: Ints) -> pa.ListArray:
        """The lists of these ids; null for -1."""
        (lists,) = self._values.take(ids, ["list"])
        return lists


def _spelled(lists: pa.ListArray) -> pa.StringArray:
    """A text for each list, equal where they are: elements behind their lengths, `-` for a null one."""
    elements = lists.flatten().dictionary_encode()
    texts = elements.dictionary
    told = pc.binary_join_element_wise(pc.binary_length(texts).cast(pa.string()), texts, ":")
    told = told.take(elements.indices).fill_null("-")
    lengths = pc.list_value_length(lists)
    counts = lengths.fill_null(0).to_numpy()
    if (counts == 1).all():
        return told
    ends = np.cumsum(np.append(0, counts), dtype=np.int32)
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(ends), told), ",")
    return pc.if_else(lengths.is_valid(), joined, pa.scalar(None, pa.string()))


class Chunks:
    """Rows numbered 0, 1, 2, … in a few chunks.

    Appending merges chunks of like size, so that their number grows with the logarithm of the rows and a take
    touches few; a row is copied a handful of times in its life, whatever the sizes of the batches.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._chunks: list[pa.RecordBatch] = []
        self._starts = np.zeros(1, np.int64)  # first row number of each chunk, then the number of rows

    def append(self, batch: pa.RecordBatch) -> None:
        """Append rows; the batch must have this schema."""
        if batch.num_rows == 0 or not self.schema.names:
            return
        chunks = [*self._chunks, batch]
        while len(chunks) > 1 and _mergeable(chunks[-2], chunks[-1]):
            last = chunks.pop()
            chunks[-1] = pa.concat_batches([chunks[-1], last])
        self._chunks = chunks
        self._starts = np.cumsum([0, *(chunk.num_rows for chunk in chunks)])

    def take(self, rows: Ints, columns: Sequence[str]) -> list[pa.Array]:
        """The given columns of the given rows, in order; null for -1."""
        if not columns:
            return []
        if not self._chunks:
            return [pa.nulls(len(rows), self.schema.field(name).type) for name in columns]
        if len(self._chunks) == 1:
            indices = pa.array(rows, mask=rows < 0)
            return [self._chunks[0].column(name).take(indices) for name in columns]
        # row -1 falls to the first chunk, as a null
        chunk_of = np.maximum(np.searchsorted(self._starts, rows, "right") - 1, 0)
        order = np.argsort(chunk_of, kind="stable")
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        parts: list[list[pa.Array]] = [[] for _ in columns]
        bounds = np.searchsorted(chunk_of[order], np.arange(len(self._chunks) + 1))
        for number, chunk in enumerate(self._chunks):
            wanted = rows[order[bounds[number] : bounds[number + 1]]]
            if len(wanted):
                indices = pa.array(wanted - self._starts[number], mask=wanted < 0)
                for part, name in zip(parts, columns, strict=True):
                    part.append(chunk.column(name).take(indices))
        if len(rows) == 0:
            return [pa.nulls(0, self.schema.field(name).type) for name in columns]
        if len(parts[0]) == 1:
            return [part[0] for part in parts]
        indices = pa.array(back)
        return [pa.concat_arrays(part).take(indices) for part in parts]


def _mergeable(before: pa.RecordBatch, last: pa.RecordBatch) -> bool:
    near = before.num_rows <= max(_SMALL, 4 * last.num_rows)
    return near and before.nbytes + last.nbytes < _LARGEST

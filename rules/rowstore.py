"""Arrow rows by number: appended in batches of any size, taken at random."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from rules.asof import Ints

_SMALL = 1 << 16  # rows; chunks up to this size always merge
_LARGEST = 1 << 30  # bytes; larger chunks would bring 32-bit string offsets near their end


class RowStore:
    """Rows numbered 0, 1, 2, … in a few chunks.

    Appending merges chunks of like size, so that their number grows with the logarithm of the rows and a take
    touches few; a row is copied a handful of times in its life, whatever the sizes of the batches.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._chunks: list[pa.RecordBatch] = []
        self._starts = np.zeros(1, np.int64)  # first row number of each chunk, then the number of rows

    def __len__(self) -> int:
        return int(self._starts[-1])

    def append(self, batch: pa.RecordBatch) -> None:
        """Append rows; the batch must have the store's schema."""
        assert batch.schema.equals(self.schema), f"{batch.schema} is not {self.schema}"
        if batch.num_rows == 0:
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

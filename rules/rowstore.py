"""Arrow rows by number: appended in batches of any size, taken at random."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules.asof import Ints

_SMALL = 1 << 16  # rows; chunks up to this size always merge
_LARGEST = 1 << 30  # bytes; larger chunks would bring 32-bit string offsets near their end
_MOST_TEXTS = 1 << 12  # distinct ones of a column that is held in codes
_CODE = pa.int16()


class RowStore:
    """Rows numbered 0, 1, 2, … in a few chunks.

    Appending merges chunks of like size, so that their number grows with the logarithm of the rows and a take
    touches few; a row is copied a handful of times in its life, whatever the sizes of the batches. Columns of
    few different texts are held in codes: where rows lie far apart, a text costs two misses of the cache.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self._texts = {field.name: _Texts() for field in schema if pa.types.is_string(field.type)}
        self._chunks: list[pa.RecordBatch] = []
        self._starts = np.zeros(1, np.int64)  # first row number of each chunk, then the number of rows

    def __len__(self) -> int:
        return int(self._starts[-1])

    def append(self, batch: pa.RecordBatch) -> None:
        """Append rows; the batch must have the store's schema."""
        assert batch.schema.equals(self.schema), f"{batch.schema} is not {self.schema}"
        if batch.num_rows == 0:
            return
        coded = self._coded(batch)
        chunks = [*self._chunks, coded]
        while len(chunks) > 1 and _mergeable(chunks[-2], chunks[-1]):
            last = chunks.pop()
            chunks[-1] = pa.concat_batches([chunks[-1], last])
        self._chunks = chunks
        self._starts = np.cumsum([0, *(chunk.num_rows for chunk in chunks)])

    def take(self, rows: Ints, columns: Sequence[str]) -> list[pa.Array]:
        """The given columns of the rows, in order; null for -1; dictionaries where they are held in codes."""
        taken = zip(columns, self._taken(rows, columns), strict=True)
        return [self._texts[name].decode(column) if name in self._texts else column for name, column in taken]

    def _coded(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch as it is to be held. From when a column has too many texts, it is held as it comes."""
        columns = {name: batch[name] for name in self.schema.names}
        for name, texts in list(self._texts.items()):
            codes = texts.encode(batch[name])
            if codes is not None:
                columns[name] = codes
                continue
            del self._texts[name]
            at = self.schema.get_field_index(name)
            self._chunks = [
                chunk.set_column(at, name, texts.decode(chunk[name]).dictionary_decode())
                for chunk in self._chunks
            ]
        return pa.RecordBatch.from_pydict(columns)

    def _taken(self, rows: Ints, columns: Sequence[str]) -> list[pa.Array]:
        if not columns:
            return []
        if not self._chunks:
            return [pa.nulls(len(rows), self._held(name)) for name in columns]
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
            return [pa.nulls(0, self._held(name)) for name in columns]
        if len(parts[0]) == 1:
            return [part[0] for part in parts]
        indices = pa.array(back)
        return [pa.concat_arrays(part).take(indices) for part in parts]

    def _held(self, name: str) -> pa.DataType:
        return _CODE if name in self._texts else self.schema.field(name).type


class _Texts:
    """The different texts of a column, each with a code 0, 1, 2, … in the order of first sight."""

    def __init__(self) -> None:
        self._values = pa.array([], pa.string())

    def encode(self, column: pa.StringArray) -> pa.Int16Array | None:
        """The code of each text, null for null; None where there are too many."""
        encoded = column.dictionary_encode()
        codes = pc.index_in(encoded.dictionary, self._values)
        new = codes.is_null()
        values = pa.concat_arrays([self._values, encoded.dictionary.filter(new)])
        if len(values) > _MOST_TEXTS:
            return None
        added = np.arange(len(self._values), len(values), dtype=np.int32)
        self._values = values
        return pc.replace_with_mask(codes, new, pa.array(added)).cast(_CODE).take(encoded.indices)

    def decode(self, codes: pa.Int16Array) -> pa.DictionaryArray:
        """The texts of these codes."""
        return pa.DictionaryArray.from_arrays(codes, self._values)


def _mergeable(before: pa.RecordBatch, last: pa.RecordBatch) -> bool:
    near = before.num_rows <= max(_SMALL, 4 * last.num_rows)
    return near and before.nbytes + last.nbytes < _LARGEST

"""Arrow rows by number: appended in batches of any size, taken at random."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rules.asof import Ints
from rules.growing import Growing
from rules.keys import Keys
from rules.lists import Chunks, Lists

Mask = npt.NDArray[np.bool_]

_FEW = 1 << 12  # different texts or lists of a column whose dictionary is all of them

_NULLS = "are null"  # a bit for each field


class RowStore:
    """Rows numbered 0, 1, 2, … .

    Numbers and times of a row lie side by side, and so do the numbers of its texts and lists: among millions
    of rows each place that is read is a miss of the cache. Other columns are held in `Chunks`.
    """

    def __init__(self, schema: pa.Schema) -> None:
        """Raises AssertionError where more than 32 fields are not of `Chunks`."""
        self.schema = schema
        self._coded = {
            f.name: Lists() if pa.types.is_list(f.type) else Keys() for f in schema if _is_coded(f.type)
        }
        fixed = {f.name: f.type for f in schema if f.name in self._coded or not pa.types.is_nested(f.type)}
        assert len(fixed) <= 32, "a bit of a uint32 for each"
        self._fixed = fixed
        self._rows = Growing(
            np.dtype([(_NULLS, "<u4"), *((name, _numpy(kind)) for name, kind in fixed.items())])
        )
        self._dictionaries: dict[str, pa.Array] = {}
        self._others = Chunks(pa.schema([field for field in schema if field.name not in fixed]))

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, batch: pa.RecordBatch) -> None:
        """Append rows; the batch must have the store's schema."""
        assert batch.schema.equals(self.schema), f"{batch.schema} is not {self.schema}"
        rows = self._rows.extend(batch.num_rows)
        rows[_NULLS] = 0
        for bit, name in enumerate(self._fixed):
            column = batch[name]
            if column.null_count:
                nulls = column.is_null().to_numpy(zero_copy_only=False)
                rows[_NULLS] |= nulls.astype(np.uint32) << np.uint32(bit)
            rows[name] = self._coded[name].intern(column) if name in self._coded else _numbers(column)
        self._others.append(batch.select(self._others.schema.names))

    def take(self, rows: Ints, columns: Sequence[str], encode: bool = False) -> list[pa.Array]:
        """The given columns of the given rows, in order; null for -1.

        With `encode`, all but numbers, truth values and times come dictionary-encoded: of what many rows
        share there is one copy.
        """
        others = [name for name in columns if name not in self._fixed]
        taken = dict(zip(others, self._take_others(rows, others, encode), strict=True))
        if len(others) < len(columns):
            missing = rows < 0
            held = self._held(rows, missing)
            for bit, name in enumerate(self._fixed):
                if name in columns:
                    nulls = missing | (held[_NULLS] >> np.uint32(bit) & np.uint32(1) != 0)
                    taken[name] = self._column(name, held[name].copy(), nulls, encode)
        return [taken[name] for name in columns]

    def _held(self, rows: Ints, missing: Mask) -> npt.NDArray[np.void]:
        if len(self) == 0:
            return np.zeros(len(rows), self._rows.values.dtype)
        # indexing would take ten times as long
        held: npt.NDArray[np.void] = self._rows.values.take(np.where(missing, 0, rows))
        return held

    def _column(self, name: str, values: npt.NDArray[np.generic], nulls: Mask, encode: bool) -> pa.Array:
        if name not in self._coded:
            return pa.array(values, mask=nulls).view(self._fixed[name])
        coded = self._coded[name]
        if not encode:
            return coded.take(np.where(nulls, -1, values.astype(np.int64)))
        codes = pa.array(values, mask=nulls)
        if len(coded) <= _FEW:
            return pa.DictionaryArray.from_arrays(codes, self._dictionary(name), safe=False)
        codes = codes.dictionary_encode()
        numbers = codes.dictionary.to_numpy().astype(np.int64)
        return pa.DictionaryArray.from_arrays(codes.indices, coded.take(numbers), safe=False)

    def _take_others(self, rows: Ints, columns: Sequence[str], encode: bool) -> list[pa.Array]:
        if not (columns and encode):
            return self._others.take(rows, columns)
        encoded = pa.array(rows, mask=rows < 0).dictionary_encode()
        distinct = self._others.take(encoded.dictionary.to_numpy(), columns)
        return [pa.DictionaryArray.from_arrays(encoded.indices, column) for column in distinct]

    def _dictionary(self, name: str) -> pa.Array:
        """All texts or lists of a column, by number: made once for all batches."""
        coded, dictionary = self._coded[name], self._dictionaries.get(name)
        if dictionary is None or len(dictionary) < len(coded):
            dictionary = self._dictionaries[name] = coded.take(np.arange(len(coded)))
        return dictionary


def _is_coded(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or (pa.types.is_list(kind) and pa.types.is_string(kind.value_type))


def _numpy(kind: pa.DataType) -> np.dtype[np.generic]:
    """What holds a value: of a text or list its number, of a time its int."""
    if _is_coded(kind):
        return np.dtype(np.int32)
    if pa.types.is_boolean(kind):
        return np.dtype(np.bool_)
    return np.dtype(f"{'f' if pa.types.is_floating(kind) else 'i'}{kind.bit_width // 8}")


def _numbers(column: pa.Array) -> npt.NDArray[np.generic]:
    """Values of fixed width, zero for null."""
    kind = _numpy(column.type)
    if pa.types.is_temporal(column.type):
        column = column.view(pa.from_numpy_dtype(kind))
    numbers: npt.NDArray[np.generic] = column.fill_null(False if kind == np.bool_ else 0).to_numpy(
        zero_copy_only=False
    )
    return numbers

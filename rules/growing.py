"""Numpy arrays that grow at their end at amortised cost; positions of many runs at once; numbers in order."""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Number = TypeVar("Number", np.int64, np.uint64)


class Growing:
    """Values of one dtype, or rows of some of them, appended in bulk; `values` views what has been appended,
    without a copy."""

    def __init__(self, dtype: npt.DTypeLike, columns: int | None = None) -> None:
        self._room: npt.NDArray[Any] = np.empty(64 if columns is None else (64, columns), dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def values(self) -> npt.NDArray[Any]:
        """The values so far; the view does not follow later growth, so take it again after an append."""
        return self._room[: self._length]

    def append(self, values: npt.ArrayLike) -> None:
        """Append an array (or a list) of values."""
        added = np.asarray(values, self._room.dtype)
        self.extend(len(added))[:] = added

    def extend(self, count: int) -> npt.NDArray[Any]:
        """Append `count` values of no meaning and return the view in which to write them."""
        start, end = self._length, self._length + count
        if end > len(self._room):
            length = max(end, 2 * len(self._room))
            room = np.empty((length, *self._room.shape[1:]), self._room.dtype)
            room[:start] = self._room[:start]
            self._room = room
        self._length = end
        return self._room[start:end]

    def replace(self, values: npt.NDArray[Any]) -> None:
        """Hold these values instead (the array is taken over, not copied)."""
        self._room, self._length = values.astype(self._room.dtype, copy=False), len(values)


def ranges(firsts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The positions `first, first + 1, …` (`count` of them) of every run, one after another."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    positions: npt.NDArray[np.int64] = np.repeat(firsts - (ends - counts), counts) + np.arange(total)
    return positions


def distinct(values: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """The distinct values, ascending. `np.unique` hashes them, which takes forty times as long as to sort."""
    ordered = np.sort(values)
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return ordered[first]


def ascending(keys: npt.NDArray[Number]) -> npt.NDArray[np.int64]:
    """The positions of some numbers, none of which is negative, in ascending order of these; of equal ones in
    any.

    To sort numbers takes half as long as to sort positions by them. So positions take the place of the low
    bits; only where numbers that differ in these alone come out wrong are positions sorted after all.
    """
    if len(keys) == 0:
        return np.empty(0, np.int64)
    low = np.uint64((1 << len(keys).bit_length()) - 1)
    room = np.uint64(min(64 - int(keys.max()).bit_length(), 63))
    placed = ((keys.view(np.uint64) << room) & ~low) | np.arange(len(keys), dtype=np.uint64)
    order: npt.NDArray[np.int64] = (np.sort(placed) & low).view(np.int64)
    ordered = keys[order]
    return order if (ordered[1:] >= ordered[:-1]).all() else np.argsort(keys)

"""Immutable sorted runs of fixed-width entries, in files or in memory: what the index of events is made of.

A run's file holds its entries column after column, four little-endian 64-bit words each, ordered by the
first word (the *key*, a uniform hash), and then a filter: one bit for every range of keys, set where the run
has a key in it. There are at least eight ranges to an entry, so most keys that a run does not have are told
by one look at the filter.
"""

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rules.growing import ranges
from rules.keys import WORTH_LOADING
from schemas.errors import SekishoError
from schemas.loops import loops

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Bits = npt.NDArray[np.uint8]

_SEARCH = "rules.reconciler.run_search"
_WORDS = 4
_CHUNK = 1 << 17  # entries merged at a time


@dataclass(frozen=True)
class Entries:
    """Entries in columns: `words[i]` is the i-th word of all of them.

    `key` hashes the id; `t` is the event time in µs. `place` is the topic's code in the upper half and the
    partition in the lower, so that (place, offset) sorts as coordinates do when the codes sort as the topics.
    `pages` are those of the file that they lie in, None in memory.
    """

    words: Words
    pages: mmap.mmap | None = None

    @staticmethod
    def of(key: Words, t: Ints, place: Ints, offset: Ints) -> "Entries":
        return Entries(np.stack([key, *(column.view(np.uint64) for column in (t, place, offset))]))

    def __len__(self) -> int:
        return self.words.shape[1]

    def take(self, rows: Ints) -> "Entries":
        """The entries at these positions, copied."""
        taken = np.empty((_WORDS, len(rows)), np.uint64)
        for column, out in zip(self.words, taken, strict=True):
            np.take(column, rows, out=out, mode="clip")
        return Entries(taken)

    def let_go(self) -> None:
        """Takes the file's pages out of the process's memory; those that are asked for again come back from
        the system's cache."""
        if self.pages is not None:
            self.pages.madvise(mmap.MADV_DONTNEED)

    def slice(self, low: int, high: int) -> "Entries":
        """The entries from position `low` up to `high`, not copied."""
        return Entries(self.words[:, low:high])

    @property
    def key(self) -> Words:
        return self.words[0]

    @property
    def t(self) -> Ints:
        return self.words[1].view(np.int64)

    @property
    def place(self) -> Ints:
        return self.words[2].view(np.int64)

    @property
    def offset(self) -> Ints:
        return self.words[3].view(np.int64)


def concat(parts: Iterable[Entries]) -> Entries:
    """The parts as one."""
    empty = np.empty((_WORDS, 0), np.uint64)
    return Entries(np.concatenate([empty, *(part.words for part in parts)], axis=1))


@dataclass(frozen=True)
class Run:
    """One run under its name."""

    name: str
    entries: Entries
    filter: Bits

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def low(self) -> int:
        """The earliest event time, µs."""
        return int(self.entries.t.min())

    @cached_property
    def high(self) -> int:
        """The latest event time, µs."""
        return int(self.entries.t.max())

    def find(self, keys: Words) -> Ints:
        """The positions of all entries with one of the keys, which ascend."""
        search = loops(_SEARCH, len(keys) >= WORTH_LOADING)
        if search is None:
            return self._plain_find(keys)
        return ranges(*search.find(self.entries.key, self.filter, _shift(self.filter), keys))

    def _plain_find(self, keys: Words) -> Ints:
        held = self.entries.key
        keys = keys[np.flatnonzero(_marked(self.filter, keys))]
        first = np.searchsorted(held, keys)
        there = np.flatnonzero(held[np.minimum(first, len(held) - 1)] == keys)
        first = first[there]
        return ranges(first, np.searchsorted(held, keys[there], "right") - first)


def merge(name: str, parts: Sequence[Entries], folder: Path | None) -> Run:
    """Makes one run of sorted parts, a range of keys at a time; in memory if there is no folder."""
    count = sum(len(part) for part in parts)
    bits = np.zeros(_filter_bytes(count), np.uint8)
    chunks = _filtered(_merged(parts, count), bits)
    if folder is None:
        return Run(name, concat(chunks), bits)
    _store(folder / name, chunks, count, bits)
    return load(name, count, folder)


def load(name: str, count: int, folder: Path) -> Run:
    """Opens a run of `count` entries. Raises SekishoError where the file is not what was written."""
    path = folder / name
    size, more = 8 * _WORDS * count, _filter_bytes(count)
    if not path.is_file() or path.stat().st_size != size + more:
        raise SekishoError(f"{path} is missing or damaged; delete the reconciler's folder: it is made again")
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    words = np.frombuffer(pages, np.dtype("<u8"), _WORDS * count).reshape(_WORDS, count)
    return Run(name, Entries(words, pages), np.frombuffer(pages, np.uint8, offset=size))


def _merged(parts: Sequence[Entries], count: int) -> Iterator[Entries]:
    number = -(-count // _CHUNK)
    cuts = np.array([(index << 64) // number for index in range(1, number)], np.uint64)
    bounds = [[0, *np.searchsorted(part.key, cuts).tolist(), len(part)] for part in parts]
    for index in range(number):
        chunk = concat(part.slice(at[index], at[index + 1]) for part, at in zip(parts, bounds, strict=True))
        for part in parts:
            part.let_go()
        yield chunk.take(np.argsort(chunk.key, kind="stable")) if len(parts) > 1 else chunk


def _filtered(chunks: Iterable[Entries], bits: Bits) -> Iterator[Entries]:
    """The chunks, while `bits` is filled with their filter."""
    for chunk in chunks:
        if len(chunk):
            _mark(bits, chunk.key)
        yield chunk


def _store(path: Path, chunks: Iterable[Entries], count: int, bits: Bits) -> None:
    """Writes a run; what a commit will name must outlive a power cut."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        start = 0
        for chunk in chunks:
            for index, column in enumerate(chunk.words):
                _write_at(handle, np.ascontiguousarray(column, "<u8").data, 8 * (index * count + start))
            start += len(chunk)
        _write_at(handle, bits.data, 8 * _WORDS * count)
        os.fsync(handle)
    finally:
        os.close(handle)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_at(handle: int, data: memoryview, position: int) -> None:
    data = data.cast("B")
    while len(data):
        written = os.pwrite(handle, data, position)
        data, position = data[written:], position + written


def _filter_bytes(count: int) -> int:
    """One bit for each of at least 8 ranges per entry; a power of two."""
    return 1 << max(count - 1, 0).bit_length()


def _shift(bits: Bits) -> np.uint64:
    """By how much to shift a key right for the number of its bit."""
    return np.uint64(64 - (8 * len(bits) - 1).bit_length())


def _bit(bits: Bits, keys: Words) -> tuple[Ints, Bits]:
    """(byte, value within it) of the bit of each key."""
    number = keys >> _shift(bits)
    return (number >> np.uint64(3)).view(np.int64), _BIT[(number & np.uint64(7)).view(np.int64)]


_BIT = (1 << np.arange(8)).astype(np.uint8)


def _marked(bits: Bits, keys: Words) -> npt.NDArray[np.uint8]:
    """Not zero where the run may have the key."""
    at, value = _bit(bits, keys)
    return bits[at] & value


def _mark(bits: Bits, keys: Words) -> None:
    """Sets the bits of ascending keys."""
    search = loops(_SEARCH, len(keys) >= WORTH_LOADING)
    if search is not None:
        search.mark(bits, _shift(bits), keys)
    else:
        _plain_mark(bits, keys)


def _plain_mark(bits: Bits, keys: Words) -> None:
    at, value = _bit(bits, keys)
    firsts = np.flatnonzero(np.concatenate([[True], at[1:] != at[:-1]]))
    bits[at[firsts]] |= np.bitwise_or.reduceat(value, firsts)

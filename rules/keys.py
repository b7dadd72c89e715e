"""Strings to dense ids: a persistent open-addressing hash table in numpy arrays.

A probe costs the same whether the table holds ten thousand keys or ten million, because the table outlives
the batch and nothing in it is built again. Hashes only find candidates: keys are compared byte by byte, so
two ids never share a key and a key never gets another's id.
"""

import hashlib
import secrets
from dataclasses import dataclass
from types import ModuleType
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rules.growing import Growing, ranges
from schemas.loops import loops

Ids = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
_Rows = Ids | slice

WORTH_LOADING = 20_000
"""Strings in one look-up for which `rules.probe` is loaded: most of a second, and half of one thereafter."""

_WORDS = 16  # strings of more than 16 words of 8 bytes are hashed and compared one by one
_SPARE = 16  # zero bytes behind the last string: words may overrun, and two never look like an aligned array
_SAMPLE = 4096
MASKS = np.array([(1 << (8 * count)) - 1 for count in range(9)], np.uint64)  # the low `count` bytes of a word
MIX_1 = np.uint64(0x9E3779B97F4A7C15)
MIX_2 = np.uint64(0xBF58476D1CE4E5B9)
_32, _29 = np.uint64(32), np.uint64(29)
TAG, ID = np.uint64(0xFFFFFFFF_00000000), np.uint64(0xFFFFFFFF)
"""Of a slot's entry: the high half of the key's hash, and its id + 1."""


@dataclass(frozen=True)
class _Text:
    """Strings as bytes: string i is `data[starts[i]:starts[i] + lengths[i]]`; _SPARE bytes follow."""

    data: npt.NDArray[np.uint8]
    starts: Ids
    lengths: Ids

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def words(self) -> Words:
        return _words(self.data)

    def word(self, rows: _Rows, index: int) -> Words:
        """Word `index` of the given strings, zero past their ends; each must be longer than `8 * index`."""
        left = np.minimum(self.lengths[rows] - 8 * index, 8)
        masked: Words = self.words[self.starts[rows] + 8 * index] & MASKS[left]
        return masked

    def longer(self, length: int) -> _Rows:
        """Which strings are longer than that."""
        return _which(self.lengths > length)

    def bytes(self, row: int) -> bytes:
        start = int(self.starts[row])
        return self.data[start : start + int(self.lengths[row])].tobytes()


def _words(data: npt.NDArray[np.uint8]) -> Words:
    """The 8-byte word at every byte position, unaligned, without a copy."""
    return np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))


def _text(strings: pa.Array) -> _Text:
    """The bytes of a string or binary array (slices and nulls allowed), copied so that words may overrun."""
    count = len(strings)
    if count == 0:
        return _Text(np.zeros(_SPARE, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64))
    assert pa.types.is_string(strings.type) or pa.types.is_binary(strings.type), strings.type
    _, offset_buffer, data_buffer = strings.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[strings.offset : strings.offset + count + 1].astype(
        np.int64
    )
    size = int(offsets[-1] - offsets[0])
    data = np.zeros(size + _SPARE, np.uint8)
    if size:
        data[:size] = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    offsets -= offsets[0]
    return _Text(data, offsets[:-1], np.diff(offsets))


def _encode(strings: pa.Array) -> tuple[pa.Array, Ids | None]:
    """(the strings to look up, each row's position among them or -1 for null); None: they are the input.

    Repeating strings are looked up once where a sample says that there are enough of them.
    """
    if isinstance(strings, pa.ChunkedArray):
        strings = strings.combine_chunks()
    if pa.types.is_dictionary(strings.type) and strings.dictionary.null_count:
        strings = strings.dictionary_decode()
    if not pa.types.is_dictionary(strings.type):
        if len(strings) > 2 * _SAMPLE and len(strings[:_SAMPLE].unique()) > 0.6 * _SAMPLE:
            return strings, None
        strings = strings.dictionary_encode()
    codes = strings.indices.fill_null(-1) if strings.null_count else strings.indices
    return strings.dictionary, codes.to_numpy().astype(np.int64, copy=False)


class Keys:
    """A growing set of strings, each with a dense id 0, 1, 2, … in the order of first sight."""

    def __init__(self, seed: int | None = None) -> None:
        """`seed` keeps writers of keys from making them collide (random by default); no id depends on it."""
        self._seed = np.uint64((secrets.randbits(64) if seed is None else seed) | 1)
        self._slots = np.zeros(1024, np.uint64)  # TAG | ID, 0 for none; a power of two, at most half full
        self._offsets = Growing(np.int64)  # of key i in `data`: from offset i to offset i + 1
        self._offsets.append([0])
        self._data = Growing(np.uint8)
        self._data.append(np.zeros(_SPARE, np.uint8))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def find(self, strings: pa.Array) -> Ids:
        """The id of each string of a string or dictionary array; -1 where unknown or null."""
        distinct, codes = _encode(strings)
        text = _text(distinct)
        ids = self._find(text, self._hash(text))
        if codes is None:
            ids[strings.is_null().to_numpy(zero_copy_only=False)] = -1
            return ids
        return _spread(ids, codes)

    def intern(self, strings: pa.Array) -> Ids:
        """`find`, but unknown strings are added first; -1 for null."""
        if isinstance(strings, pa.DictionaryArray):
            strings = strings.dictionary_decode()  # a foreign dictionary may hold a string twice
        distinct, codes = _encode(strings.dictionary_encode())
        assert codes is not None
        text = _text(distinct)
        hashes = self._hash(text)
        ids = self._find(text, hashes)
        missing = np.flatnonzero(ids < 0)
        if len(missing):
            ids[missing] = np.arange(len(self), len(self) + len(missing))
            self._store(text, missing, hashes[missing])
        return _spread(ids, codes)

    def take(self, ids: Ids) -> pa.StringArray:
        """The strings of these ids; null for -1."""
        buffers = [None, pa.py_buffer(self._offsets.values), pa.py_buffer(self._data.values)]
        strings = pa.Array.from_buffers(pa.large_string(), len(self), buffers)
        return strings.take(pa.array(ids, mask=ids < 0)).cast(pa.string())

    def only(self, ids: Ids) -> "Keys":
        """The strings of these ids, each once, as keys of their own with ids 0, 1, 2, … in this order."""
        text = _text(self.take(ids))
        kept = type(self)(int(self._seed))
        kept._store(text, np.arange(len(text)), kept._hash(text))
        return kept

    def _hash(self, text: _Text) -> Words:
        probe = _probe(text)
        if probe is not None:
            return cast("Words", probe.hash_all(text.words, text.starts, text.lengths, self._seed))
        return self._plain_hash(text)

    def _plain_hash(self, text: _Text) -> Words:
        state = (text.lengths.astype(np.uint64) * MIX_1) ^ self._seed
        longest = int(text.lengths.max(initial=0))
        for index in range(min((longest + 7) // 8, _WORDS)):
            rows = text.longer(8 * index)
            mixed = (state[rows] ^ text.word(rows, index)) * MIX_1
            state[rows] = mixed ^ (mixed >> _32)
        for row in np.flatnonzero(text.lengths > 8 * _WORDS) if longest > 8 * _WORDS else ():
            digest = hashlib.blake2b(
                text.bytes(int(row)), digest_size=8, key=int(self._seed).to_bytes(8, "little")
            )
            state[row] = np.frombuffer(digest.digest(), np.uint64)[0]
        state = (state ^ (state >> _29)) * MIX_2
        return state ^ (state >> _32)

    def _find(self, text: _Text, hashes: Words) -> Ids:
        """The id of each string, -1 where unknown."""
        probe = _probe(text) if len(self) else None
        if probe is None:
            return self._plain_find(text, hashes)
        table = self._slots, _words(self._data.values), self._offsets.values
        return cast("Ids", probe.find(text.words, text.starts, text.lengths, hashes, *table))

    def _plain_find(self, text: _Text, hashes: Words) -> Ids:
        """Linear probing, all strings in step; a string drops out at its key or at an empty slot."""
        found = np.full(len(text), -1, np.int64)
        mask = len(self._slots) - 1
        rows = np.arange(len(text))
        at = (hashes & np.uint64(mask)).astype(np.int64)
        while len(rows):
            entries = self._slots[at]
            used = np.flatnonzero(entries)
            rows, at, entries = rows[used], at[used], entries[used]
            held = (entries & ID).astype(np.int64) - 1
            candidates = np.flatnonzero(((entries ^ hashes[rows]) & TAG) == 0)
            same = candidates[self._equal(text, rows[candidates], held[candidates])]
            found[rows[same]] = held[same]
            rest = np.ones(len(rows), bool)
            rest[same] = False
            rows, at = rows[rest], (at[rest] + 1) & mask
        return found

    def _equal(self, text: _Text, rows: Ids, ids: Ids) -> npt.NDArray[np.bool_]:
        """Whether string `rows[i]` is the key `ids[i]`, compared whole."""
        offsets = self._offsets.values
        starts = offsets[ids]
        own = _Text(self._data.values, starts, offsets[ids + 1] - starts)
        lengths = text.lengths[rows]
        equal = lengths == own.lengths
        longest = int(lengths.max(initial=0))
        for index in range(min((longest + 7) // 8, _WORDS)):
            live = _which(equal & (lengths > 8 * index))
            equal[live] = text.word(rows[live], index) == own.word(live, index)
        for row in np.flatnonzero(equal & (lengths > 8 * _WORDS)) if longest > 8 * _WORDS else ():
            equal[row] = text.bytes(int(rows[row])) == own.bytes(int(row))
        return equal

    def _store(self, text: _Text, rows: Ids, hashes: Words) -> None:
        """Append the given strings, which are distinct and unknown, as the next ids."""
        first, base = len(self), int(self._offsets.values[-1])
        lengths = text.lengths[rows]
        everything = len(rows) == len(text)  # then the bytes lie one after another
        added = text.data[:-_SPARE] if everything else text.data[ranges(text.starts[rows], lengths)]
        self._data.extend(len(added))
        data = self._data.values
        data[base : base + len(added)] = added
        data[base + len(added) :] = 0
        self._offsets.append(base + np.cumsum(lengths))
        assert len(self) < 1 << 31, "ids have 31 bits"
        if 2 * len(self) > len(self._slots):
            self._slots = np.zeros(1 << (2 * len(self)).bit_length(), np.uint64)
            first, offsets = 0, self._offsets.values
            hashes = self._hash(_Text(self._data.values, offsets[:-1], np.diff(offsets)))
        self._place(first, hashes)

    def _place(self, first: int, hashes: Words) -> None:
        """Give each id from `first` on, with its hash, the first free slot from that on."""
        probe = loops("rules.probe", len(hashes) >= WORTH_LOADING)
        if probe is not None:
            probe.place(self._slots, hashes, first)
        else:
            self._plain_place(first, hashes)

    def _plain_place(self, first: int, hashes: Words) -> None:
        """All ids in step; of several that want one slot, one gets it."""
        mask = len(self._slots) - 1
        entries = (hashes & TAG) | np.arange(first + 1, first + 1 + len(hashes), dtype=np.uint64)
        at = (hashes & np.uint64(mask)).astype(np.int64)
        while len(entries):
            free = self._slots[at] == 0
            self._slots[at[free]] = entries[free]
            rest = self._slots[at] != entries
            entries, at = entries[rest], (at[rest] + 1) & mask


def _probe(text: _Text) -> ModuleType | None:
    """The module that looks such strings up faster, where it can be loaded and is worth that."""
    if text.lengths.max(initial=0) > 8 * _WORDS:
        return None
    return loops("rules.probe", len(text) >= WORTH_LOADING)


def _which(mask: npt.NDArray[np.bool_]) -> _Rows:
    """The rows of the mask; all of them as a slice, which takes no copies."""
    return slice(None) if mask.all() else np.flatnonzero(mask)


def _spread(ids: Ids, codes: Ids) -> Ids:
    """`ids[codes]`, -1 where the code is -1."""
    spread: Ids = np.concatenate((ids, [-1]))[codes]
    return spread

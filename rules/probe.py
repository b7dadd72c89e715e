"""The look-up of `rules.keys` as one loop over the strings: hash, probe, compare.

Python that numba compiles, since numpy makes a dozen passes of it, each of which misses the processor's cache
anew. `Keys` goes without it, too, with the same answers and hashes. `words` and `own_words` have the 8-byte
word at every byte position; strings are of at most 16 words.
"""

import numpy as np
import numpy.typing as npt

from rules.keys import MASKS, MIX_1, MIX_2, Ids, Words
from schemas.compiled import compiled, inlined

_32, _29 = np.uint64(32), np.uint64(29)
_BLOCK = 512  # strings


@compiled
def hash_all(words: Words, starts: Ids, lengths: Ids, seed: np.uint64) -> Words:
    """The hash of each string."""
    codes = np.empty(len(starts), np.uint64)
    for row in range(len(starts)):
        at, left = starts[row], lengths[row]
        state = (np.uint64(left) * MIX_1) ^ seed
        while left > 0:
            mixed = (state ^ (words[at] & MASKS[min(left, 8)])) * MIX_1
            state = mixed ^ (mixed >> _32)
            at += 8
            left -= 8
        state = (state ^ (state >> _29)) * MIX_2
        codes[row] = state ^ (state >> _32)
    return codes


@inlined
def _same(words: Words, at: int, own_words: Words, own_at: int, length: int) -> bool:
    while length > 0:
        if (words[at] ^ own_words[own_at]) & MASKS[min(length, 8)]:
            return False
        at += 8
        own_at += 8
        length -= 8
    return True


@compiled
def find(
    words: Words,
    starts: Ids,
    lengths: Ids,
    codes: Words,
    slots: npt.NDArray[np.int32],
    hashes: Words,
    own_words: Words,
    own_offsets: Ids,
) -> Ids:
    """The id of each string, by its hash in `codes`; -1 where unknown. The other arrays are those of `Keys`.

    Some strings at a time, first what lies at their hashes and then all else: so the processor fetches from
    many places at once.
    """
    ids = np.empty(len(starts), np.int64)
    mask = np.uint64(len(slots) - 1)
    held, begins = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.int64)
    for first in range(0, len(starts), _BLOCK):
        end = min(first + _BLOCK, len(starts))
        for row in range(first, end):
            ids[row] = slots[codes[row] & mask]
        for row in range(first, end):
            held[row - first] = hashes[max(ids[row], 0)]
            begins[row - first] = own_offsets[max(ids[row], 0)]
        for row in range(first, end):
            at, length = starts[row], lengths[row]
            key, code, own_at = int(ids[row]), held[row - first], begins[row - first]
            slot = codes[row] & mask
            while key >= 0 and not (
                code == codes[row]
                and own_offsets[key + 1] - own_at == length
                and _same(words, at, own_words, own_at, length)
            ):
                slot = (slot + np.uint64(1)) & mask
                key = int(slots[slot])
                code, own_at = hashes[max(key, 0)], own_offsets[max(key, 0)]
            ids[row] = key
    return ids

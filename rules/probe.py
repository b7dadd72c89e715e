"""The look-ups of `rules.keys` (hash, probe, compare) and of `rules.asof` as one loop each.

Python that numba compiles, since numpy makes a dozen passes of it, each of which misses the processor's cache
anew. `Keys` and `Intervals` go without it, too, with the same answers and hashes. `words` and `own_words`
have the 8-byte word at every byte position; strings are of at most 16 words.
"""

import numpy as np
import numpy.typing as npt

from rules.asof import FOREVER
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


@inlined
def _last(first: int, count: int, starts: Ids, time: int) -> int:
    """The row of the last interval of a run that starts by the time, or else of the first."""
    low = first
    while count > 1:
        half = count >> 1
        if starts[low + half] <= time:
            low += half
            count -= half
        else:
            count = half
    return low


@compiled
def at(keys: Ids, times: Ids, firsts: Ids, counts: Ids, starts: Ids, ends: Ids, values: Ids) -> Ids:
    """The value of each key at each time, -1 for none. The other arrays are those of `Intervals`."""
    found = np.full(len(keys), -1)
    for row in range(len(keys)):
        key, time = keys[row], times[row]
        if 0 <= key < len(firsts) and counts[key] > 0:
            low = _last(firsts[key], counts[key], starts, time)
            if starts[low] <= time < ends[low]:
                found[row] = values[low]
    return found


@compiled
def until(keys: Ids, times: Ids, firsts: Ids, counts: Ids, starts: Ids, ends: Ids, values: Ids) -> Ids:
    """The time before which each key keeps the value it has, or goes on having none; FOREVER for always."""
    found = np.full(len(keys), FOREVER)
    for row in range(len(keys)):
        key, time = keys[row], times[row]
        if 0 <= key < len(firsts) and counts[key] > 0:
            low = _last(firsts[key], counts[key], starts, time)
            if time < starts[low]:
                found[row] = starts[low]
            elif time < ends[low]:
                found[row] = ends[low]
            elif low + 1 < firsts[key] + counts[key]:
                found[row] = starts[low + 1]
    return found

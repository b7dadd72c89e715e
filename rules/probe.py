"""The look-ups of `rules.keys` (hash, probe, compare) and of `rules.asof` as one loop each.

Python that numba compiles, since numpy makes a dozen passes of it, each of which misses the processor's cache
anew. `Keys` and `Intervals` go without it, too, with the same answers and hashes. `words` and `own_words`
have the 8-byte word at every byte position; strings are of at most 16 words.
"""

import numpy as np

from rules.asof import FOREVER
from rules.keys import ID, MASKS, MIX_1, MIX_2, TAG, Ids, Words
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
def _id(entry: np.uint64) -> int:
    """The key's id, -1 for an empty slot."""
    return int(np.int64(entry & ID)) - 1


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
    slots: Words,
    own_words: Words,
    own_offsets: Ids,
) -> Ids:
    """The id of each string, by its hash in `codes`; -1 where unknown. The other arrays are those of `Keys`.

    Some strings at a time, and of all of them first what lies at their hashes, then where the keys found
    there begin, then their first words, then all else: so the processor fetches from many places at once.
    """
    ids = np.empty(len(starts), np.int64)
    mask = np.uint64(len(slots) - 1)
    entries, firsts = np.empty(_BLOCK, np.uint64), np.empty(_BLOCK, np.uint64)
    begins = np.empty(_BLOCK, np.int64)
    for low in range(0, len(starts), _BLOCK):
        count = min(_BLOCK, len(starts) - low)
        for row in range(count):
            entries[row] = slots[codes[low + row] & mask]
        for row in range(count):
            begins[row] = own_offsets[max(_id(entries[row]), 0)]
        for row in range(count):
            firsts[row] = own_words[begins[row]]
        for row in range(count):
            at, length, code = starts[low + row], lengths[low + row], codes[low + row]
            slot, entry, own_at, own_first = code & mask, entries[row], begins[row], firsts[row]
            while entry != 0 and not (
                (entry ^ code) & TAG == 0
                and own_offsets[_id(entry) + 1] - own_at == length
                and (words[at] ^ own_first) & MASKS[min(length, 8)] == 0
                and _same(words, at, own_words, own_at, length)
            ):
                slot = (slot + np.uint64(1)) & mask
                entry = slots[slot]
                own_at = own_offsets[max(_id(entry), 0)]
                own_first = own_words[own_at]
            ids[low + row] = _id(entry)
    return ids


@compiled
def place(slots: Words, codes: Words, first: int) -> None:
    """Gives each id from `first` on, by its hash in `codes`, the first free slot from that on."""
    mask = np.uint64(len(slots) - 1)
    for number in range(len(codes)):
        slot = codes[number] & mask
        while slots[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = (codes[number] & TAG) | np.uint64(first + number + 1)


@inlined
def _last(first: int, count: int, rows: Ids, time: int) -> int:
    """The row of the last interval of a run that starts by the time, or else of the first."""
    low = first
    while count > 1:
        half = count >> 1
        if rows[low + half, 0] <= time:
            low += half
            count -= half
        else:
            count = half
    return low


@compiled
def at(keys: Ids, times: Ids, spans: Ids, rows: Ids) -> Ids:
    """The value of each key at each time, -1 for none. `spans` has the first row and the count of each key's
    intervals; a row is a start, an end and a value."""
    found = np.full(len(keys), -1)
    for number in range(len(keys)):
        key, time = keys[number], times[number]
        if 0 <= key < len(spans) and spans[key, 1] > 0:
            low = _last(spans[key, 0], spans[key, 1], rows, time)
            if rows[low, 0] <= time < rows[low, 1]:
                found[number] = rows[low, 2]
    return found


@compiled
def until(keys: Ids, times: Ids, spans: Ids, rows: Ids) -> Ids:
    """The time before which each key keeps the value it has, or goes on having none; FOREVER for always."""
    found = np.full(len(keys), FOREVER)
    for number in range(len(keys)):
        key, time = keys[number], times[number]
        if 0 <= key < len(spans) and spans[key, 1] > 0:
            low = _last(spans[key, 0], spans[key, 1], rows, time)
            if time < rows[low, 0]:
                found[number] = rows[low, 0]
            elif time < rows[low, 1]:
                found[number] = rows[low, 1]
            elif low + 1 < spans[key, 0] + spans[key, 1]:
                found[number] = rows[low + 1, 0]
    return found

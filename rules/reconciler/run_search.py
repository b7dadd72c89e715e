"""The look-ups of `rules.reconciler.runs` as one loop each, compiled by numba.

Runs go without it, too, with the same answers: in numpy passes, each of which goes through all keys anew.
"""

import numpy as np

from rules.reconciler.runs import Bits, Ints, Words
from schemas.compiled import compiled

_7, _3 = np.uint64(7), np.uint64(3)
_STRIDE = 16  # entries; keys that ascend are mostly found this near to the one before


@compiled
def find(held: Words, bits: Bits, shift: np.uint64, keys: Words) -> tuple[Ints, Ints]:
    """The first position, and how many there are, of each of the keys that is held; both ascend.

    `bits` is the filter of what is held, of which a key's number is `key >> shift`.
    """
    firsts, counts = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    found, low = 0, 0
    for key in keys:
        number = key >> shift
        if (bits[number >> _3] >> (number & _7)) & 1 == 0:
            continue
        high, stride = low, _STRIDE
        while high < len(held) and held[high] < key:
            low = high + 1
            high += stride
            stride *= 2
        high = min(high, len(held))
        while low < high:
            middle = (low + high) >> 1
            if held[middle] < key:
                low = middle + 1
            else:
                high = middle
        past = low
        while past < len(held) and held[past] == key:
            past += 1
        if past > low:
            firsts[found], counts[found] = low, past - low
            found += 1
    return firsts[:found], counts[:found]


@compiled
def mark(bits: Bits, shift: np.uint64, keys: Words) -> None:
    """Sets the bits of the keys in a filter."""
    for key in keys:
        number = key >> shift
        bits[number >> _3] |= np.uint8(1 << (number & _7))

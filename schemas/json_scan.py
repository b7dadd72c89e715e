"""Walks through many JSON objects, byte by byte, and notes where the values of named fields lie.

Every payload is either understood whole or left over, unnamed fields included. What is left over is not
wrong, only rare: escapes, integers of 19 digits or more, other numbers with an exponent or that long, nesting
deeper than 64.

Emitters lay their records out alike, and names are half of them. So what stood before a value, from the brace
or the value before on, is remembered, and where the same bytes stand again they mean the same: they are
compared, eight at a time, and not read.

`data` must have `PAD` zero bytes behind the last payload. A zero byte ends every loop, a brace that closes
before or after the end of its payload makes that payload left over: so no text is read as part of another.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.compiled import compiled, inlined
from schemas.json_guards import Bytes, Ints

Places = npt.NDArray[np.int32]
Table = npt.NDArray[Any]
Words = npt.NDArray[np.uint64]

PAD = 8
TABLE = 1024
_MAX_DIGITS = 18
_MAX_DEPTH = 64

# What the value of a field is; one bit each. No field at all and an empty string are nulls.
IS_STRING, IS_INT, IS_BOOL, IS_LIST, IS_NULL = 1, 2, 4, 8, 16
_IS_OTHER = 0

_QUOTE, _ESCAPE, _COLON, _COMMA, _POINT, _MINUS, _ZERO, _NINE, _E, _SMALL_E, _F = b'"\\:,.-09Eef'
_OPEN, _CLOSE, _OPEN_LIST, _CLOSE_LIST = b"{}[]"
_TRUE, _FALSE, _NULL = (int.from_bytes(word, "big") for word in (b"true", b"alse", b"null"))
_MEMBERS = 64  # that are remembered
_REACH = 8  # so many of them are looked at: a record may lack some
_CHANGES = 1024  # of what is remembered; after that layouts are too various to be worth it
_WHITE = np.zeros(256, dtype=np.bool_)
_WHITE[list(b" \n\r\t")] = True
_PLAIN = np.arange(256) >= 32  # what goes on within a string
_PLAIN[[_QUOTE, _ESCAPE]] = False


@inlined
def _white(data: Bytes, at: int) -> int:
    """The first place from `at` on that is no white space."""
    while _WHITE[data[at]]:
        at += 1
    return at


@inlined
def _string_end(data: Bytes, at: int) -> int:
    """Where the string whose text begins at `at` ends: at a quotation mark, unless it is left over."""
    while _PLAIN[data[at]]:
        at += 1
    return at


@inlined
def _word(data: Bytes, at: int) -> int:
    """Four bytes as a number."""
    return data[at] << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3]


@inlined
def place_of(length: int, first: int, last: int) -> int:
    """Where in the table of names to look for one of this length, first and last byte."""
    return (length * 37 + first * 101 + last * 11) & (TABLE - 1)


@compiled
def _number_end(data: Bytes, at: int) -> int:
    """The place behind the number that begins at `at`; -1 where there is none, or one that is left over."""
    start = at
    at += data[at] == _MINUS
    digits = at
    while _ZERO <= data[at] <= _NINE:
        at += 1
    if at == digits or (data[digits] == _ZERO and at > digits + 1):
        return -1
    if data[at] == _POINT:
        digits = at + 1
        at = digits
        while _ZERO <= data[at] <= _NINE:
            at += 1
        if at == digits:
            return -1
    return -1 if at - start > 64 or data[at] == _E or data[at] == _SMALL_E else at


@compiled
def _scalar_end(data: Bytes, at: int) -> int:
    """The place behind any value but an object or a list; -1 where there is none, or one left over."""
    if data[at] == _QUOTE:
        at = _string_end(data, at + 1)
        return at + 1 if data[at] == _QUOTE else -1
    if _word(data, at) == _TRUE or _word(data, at) == _NULL:
        return at + 4
    if data[at] == _F and _word(data, at + 1) == _FALSE:
        return at + 5
    return _number_end(data, at)


@compiled
def _value_end(data: Bytes, at: int) -> int:
    """The place behind any value; -1 where there is none, or one that is left over."""
    depth = 0
    objects = np.uint64(0)  # whether each level is an object, the innermost in the lowest bit
    while True:
        fresh = data[at] == _OPEN or data[at] == _OPEN_LIST
        if fresh:
            if depth == _MAX_DEPTH:
                return -1
            depth += 1
            objects = objects << np.uint64(1) | np.uint64(data[at] == _OPEN)
            at = _white(data, at + 1)
        else:
            at = _scalar_end(data, at)
            if at < 0:
                return -1
        while depth > 0:  # a value has ended, or a level has begun
            in_object = objects & np.uint64(1)
            if not fresh:
                at = _white(data, at)
            if data[at] != (_CLOSE if in_object else _CLOSE_LIST):
                break
            at += 1
            depth -= 1
            objects >>= np.uint64(1)
            fresh = False
        if depth == 0:
            return at
        if not fresh:
            if data[at] != _COMMA:
                return -1
            at = _white(data, at + 1)
        if objects & np.uint64(1):
            if data[at] != _QUOTE:
                return -1
            at = _string_end(data, at + 1)
            if data[at] != _QUOTE:
                return -1
            at = _white(data, at + 1)
            if data[at] != _COLON:
                return -1
            at = _white(data, at + 1)


@compiled
def _integer(data: Bytes, at: int) -> tuple[int, int]:
    """The integer that begins at `at` and the place behind it; -1 where there is none, or one left over."""
    negative = data[at] == _MINUS
    at += negative
    first = at
    number = 0
    while _ZERO <= data[at] <= _NINE and at - first <= _MAX_DIGITS:
        number = number * 10 + (data[at] - _ZERO)
        at += 1
    digits = at - first
    if digits == 0 or digits > _MAX_DIGITS or (data[first] == _ZERO and (digits > 1 or negative)):
        return 0, -1
    return (-number if negative else number), at


@compiled
def _list(data: Bytes, at: int, ends: Places, strings: int) -> tuple[int, int]:
    """The place behind the list of strings that begins at `at`, and how many there are with its own."""
    at = _white(data, at + 1)
    if data[at] == _CLOSE_LIST:
        return at + 1, strings
    while data[at] == _QUOTE:
        start = at + 1
        at = _string_end(data, start)
        if data[at] != _QUOTE:
            break
        ends[2 * strings + 2], ends[2 * strings + 3] = start, at
        strings += 1
        at = _white(data, at + 1)
        if data[at] == _CLOSE_LIST:
            return at + 1, strings
        if data[at] != _COMMA:
            break
        at = _white(data, at + 1)
    return -1, strings


@inlined
def _expected(words: Words, at: int, layout: Ints, member: int) -> int:
    """Which of the members remembered stands at `at`, looked for from `member` on; -1 where none does."""
    last = min(member + _REACH, layout[-1, 0])
    while member < last:
        like, left, place = layout[member, 0], layout[member, 1], at
        while left > 8 and words[place] == words[like]:
            like += 8
            place += 8
            left -= 8
        if left <= 8 and (words[place] ^ words[like]) << np.uint64(64 - 8 * left) == 0:
            return member
        member += 1
    return -1


@compiled
def _remember(layout: Ints, member: int, at: int, length: int, field: int) -> None:
    """Puts a member, of so many bytes at `at`, before another one."""
    count = layout[-1, 0]
    layout[-1, 1] += 1
    if count == _MEMBERS or layout[-1, 1] >= _CHANGES:
        member = count = layout[-1, 0] = 0
    if layout[-1, 1] >= _CHANGES:
        return
    for other in range(count, member, -1):
        layout[other] = layout[other - 1]
    layout[member, 0], layout[member, 1], layout[member, 2] = at, length, field
    layout[-1, 0] = count + 1


@compiled
def _object(
    data: Bytes, words: Words, at: int, names: Bytes, name_ends: Ints, table: Ints, others: Ints,
    permitted: Ints, kinds: Bytes, places: Places, numbers: Ints, ends: Places, strings: int, layout: Ints,
) -> tuple[int, int]:  # fmt: skip
    """The place behind the object that begins at `at`, -1 where it is left over, and how many strings there
    are with its own. For the other arguments see `scan`; `kinds`, `places` and `numbers` are those of a row.
    """
    count = len(name_ends) - 1
    seen = np.uint64(0)
    member = 0
    begin = at  # of what stands before a value: a brace or a comma, the name and the colon
    if data[at] != _OPEN:
        return -1, strings
    while True:
        found = _expected(words, begin, layout, member)
        if found >= 0:
            at = _white(data, begin + layout[found, 1])
            field = layout[found, 2]
            member = found + 1
        else:
            at = _white(data, at + 1)
            if data[at] != _QUOTE:
                return (at + 1 if data[at] == _CLOSE and data[begin] == _OPEN else -1), strings
            start = at + 1
            at = _string_end(data, start)
            if data[at] != _QUOTE:
                break
            # Spelt out: as a function of its own this takes as long as all the rest.
            length = at - start
            field = table[place_of(length, data[start], data[at - 1])]
            while field < count:
                first = name_ends[field]
                same = name_ends[field + 1] - first == length
                place = 0
                while same and place < length:
                    same = names[first + place] == data[start + place]
                    place += 1
                if same:
                    break
                field = others[field]
            at = _white(data, at + 1)
            if data[at] != _COLON:
                break
            at = _white(data, at + 1)
            _remember(layout, member, begin, at - begin, field)
            member += 1
        if field == count:
            at = _value_end(data, at)
        else:
            bit = np.uint64(1) << np.uint64(field)
            if seen & bit:
                break
            seen |= bit
            kind = _IS_OTHER
            if data[at] == _QUOTE:
                start = at + 1
                at = _string_end(data, start)
                if data[at] != _QUOTE:
                    break
                kind = IS_NULL
                if at > start:
                    kind = IS_STRING
                    places[field] = 2 * strings + 2
                    ends[2 * strings + 2], ends[2 * strings + 3] = start, at
                    strings += 1
                at += 1
            elif data[at] == _OPEN_LIST:
                kind = IS_LIST
                places[field] = 2 * strings + 2
                numbers[field] = -strings
                at, strings = _list(data, at, ends, strings)
                numbers[field] += strings
            elif data[at] == _MINUS or _ZERO <= data[at] <= _NINE:
                kind = IS_INT
                numbers[field], at = _integer(data, at)
            elif _word(data, at) == _TRUE:
                kind = IS_BOOL
                numbers[field] = 1
                at += 4
            elif data[at] == _F and _word(data, at + 1) == _FALSE:
                kind = IS_BOOL
                at += 5
            elif _word(data, at) == _NULL:
                kind = IS_NULL
                at += 4
            if not kind & permitted[field]:
                break
            kinds[field] = kind
        if at < 0:
            break
        begin = at
        at = _white(data, at)
        if data[at] == _CLOSE:
            return at + 1, strings
        if data[at] != _COMMA:
            break
    return -1, strings


@compiled
def scan(
    data: Bytes, words: Words, offsets: Ints, names: Bytes, name_ends: Ints, table: Ints, others: Ints,
    permitted: Ints, rows: Ints, kinds: Table, places: Table, numbers: Table, ends: Places,
) -> tuple[int, int]:  # fmt: skip
    """Reads payloads, each from its offset up to the next; returns how many were understood, and strings.

    Args:
        data, words: see the top of the module; the 8 bytes from each place on, but for the last places.
        offsets: where payloads begin; one more, where the last one ends.
        names, name_ends: the fields' names one behind the other; where each begins, and the last one ends.
            There are at most 64 fields.
        table, others: by `place_of` a name (up to `TABLE`) a field that may have it; by such a field the next
            one; in the place of none the number of fields.
        permitted: by field the kinds of value that are taken; any other leaves the payload over.
        rows: to be filled with the payloads that are understood, ascending.
        kinds, places, numbers: to be filled, by understood payload and field: what the value is; where it
            stands in `ends`, of a list its first item; the integer, the truth value or the length of the
            list. They must be IS_NULL, 0 and 0.
        ends: to be filled with where strings begin and end, items of a list next to each other. As offsets of
            an Arrow array they make an empty string its item 0, and each other even item a string.
    """
    understood = 0
    strings = 0
    ends[0] = ends[1] = 0
    # By member where it stood, its length and the field; last how many there are, and how often that changed.
    layout = np.zeros((_MEMBERS + 1, 3), np.int64)
    for row in range(len(offsets) - 1):
        end, more = _object(
            data, words, offsets[row], names, name_ends, table, others, permitted,
            kinds[understood], places[understood], numbers[understood], ends, strings, layout,
        )  # fmt: skip
        if end >= 0 and _white(data, end) >= offsets[row + 1] and end <= offsets[row + 1]:
            rows[understood] = row
            understood += 1
            strings = more
        else:
            kinds[understood] = IS_NULL
            places[understood] = 0
            numbers[understood] = 0
    return understood, strings

"""Ways to break a record, each with an eye on one sentence of the contract's *Values* and section 1.

Nothing here knows what the right answer is; `tests.plain` says that. Records are lists of (name, JSON text)
pairs, so that names can repeat and values can be written in ways `json` would not write them.
"""

import random
from collections.abc import Callable

from tests.plain.tables import Column

Pair = tuple[str, str]  # name and value, both as JSON text
Break = Callable[[random.Random, list[Pair], tuple[Column, ...]], list[Pair]]


def words(text: str) -> list[str]:
    """Items of a table that is written as text."""
    return text.split()


TIMES = [
    *words(r"""
2026-02-03T00:00:00Z 2026-02-03T00Z 2026-02-03T00:00Z 2026-02-03T00:00:00.1Z
2026-02-03T00:00:00.123456789Z 2026-02-03T09:00:00+09 2026-02-03T09:00:00+0900 2026-02-03T09:00:00+09:00
2026-02-02T20:30-0330 2026-02-03T23:59+23:59 2026-02-02T00:01-23:59 2026-02-03T00:00:00-00:00
1970-01-01T00:00:00Z 1969-12-31T23:00-01:00 9999-12-31T23:59:59.999999999Z 2024-02-29T00Z
2026-02-03T00:00:00 2026-02-03 2026-02-03T00:00:00z 2026-02-03t00:00:00Z 2026-02-03T24:00:00Z
2026-02-03T00:60Z 2026-02-03T00:00:60Z 2026-02-03T23:59:60Z 2026-02-03T00:00:00+24:00
2026-02-03T00:00:00+09:60 2026-02-29T00:00Z 2026-13-01T00Z 2026-00-01T00Z 2026-01-00T00Z 2026-04-31T00Z
2026-02-03T00:00:00.Z 2026-02-03T00:00:00,5Z 2026-02-03T00:00:00.1234567890Z 2026-2-3T00:00:00Z
2026-02-03T0:00:00Z 2026-02-03T00:00:00+9 20260203T000000Z 2026-02-03T00:00:00+09:0
2026-02-03T00:00:00+090 2026-02-03T00:00:00+09:00:00 2026-W06-2T00Z 2026-034T00Z
1969-12-31T23:59:59.999999Z 1970-01-01T00:00+00:01 9999-12-31T23:59-00:01 0000-01-01T00Z
10000-01-01T00:00Z +2026-02-03T00Z -2026-02-03T00Z 2026-02-03T00:00:00UTC 2026-02-03T00:00:00GMT
2026-02-03T00:00:00Z[UTC] 2026-02-03T0000Z 2026-02-03T00.5Z 2026-02-03T00:00.5Z now 1770076800
2026-02-03T00:00:00Z+09:00 T00:00:00Z 2026/02/03T00:00:00Z 2026-02-03T00:00:-1Z ２０２６-02-03T00:00:00Z
2026-02-03T00:00:00Ｚ 2026-02-03T00:00:00−01:00 2026-02-03T00:00:00Z\n 2026-02-03\t00:00:00Z
2026-02-03T00:00:00Z\u0000 2026-02-03\u005400:00:00Z
"""),
    "2026-02-03 00:00:00Z",
    "2026-02-03  00:00:00Z",
    "2026-02-03 00:00:00 Z",
    "2026-02-03 00:00:00 +09:00",
    " 2026-02-03T00:00:00Z",
    "2026-02-03T00:00:00Z ",
]
"""Forms of a time, right and wrong, as JSON string content."""

DATES = [
    *words("""
2026-02-03 2024-02-29 1900-01-01 9999-12-31 0001-01-01 2026-02-29 2026-2-3 20260203 2026-02-03T00Z
2026-13-01 2026-02
"""),
    "2026-02-03 ",
]

TOKENS = [
    *words(r"""
8.0 "8" true false null "" [] {} 0 -0 -1 1e3 1E0 0.0 9223372036854775807 9223372036854775808
-9223372036854775808 -9223372036854775809 18446744073709551616 1e308 -1e308 1e-400 [null] [1] [""]
["a",null] ["a"] [["a"]] [true] [{}] {"a":1} "x" "\u0000" "\ud83d\ude42" "a\/b" 1.5 -1.5
[{"condition_id":"C"}] [{"due_at":""}] [{"due_at":5}] [{"due_at":"2026-02-03"}]
[{"condition_id":"C","condition_id":"C"}] [{"x":1,"x":2}] [{},null] [{"sha256":7}] [{"kind":["a"]}]
100000000000000000000 "true" "[]" "null" ["a","a"]
"""),
]
"""JSON values that are of the wrong type for most fields, and of the right one for some."""

NOT_JSON = [
    *words(r"""
NaN Infinity -Infinity 1e400 -1e400 01 +1 .5 1. 0x10 1e 'a' undefined nul TRUE "\x41" "\u12" "\ud800"
"\udc00" "\ude42\ud83d" "\ud83dx" {"\ud800":1} [1,] {"a":1,} {a:1} {"a"} [1 2] "open /*x*/ 1e+ - -. 00
1_000 {"a":NaN} [[1e999]] {"a":{"b":["\udfff"]}} {1:2} [ {,} None True
"""),
    '"\x01"',
    '"tab\tin string"',
    "9" * 400,
    "1" + "0" * 309,
    "-" + "9" * 5000,
    '"\x1f"',
]

PAYLOADS: list[bytes] = [
    b"",
    b" ",
    b"\r",
    b"\t \r",
    b"null",
    b"[]",
    b"{}",
    b"5",
    b'"text"',
    b"true",
    b"[{}]",
    b"{} {}",
    b"{}{}",
    b"{",
    b"}",
    b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b"\x00",
    b"{}\x00",
    b"\xc0\x80",
    b"// {}",
    b"nul",
    b'{"a":1}x',
    b"\x0b{}",
    b"\xc2\xa0{}",
    b"1e400",
    b"NaN",
    b"[" * 5000,
    b'{"a":' * 1100,
]
"""Whole payloads that are not records."""


def quoted(text: str) -> str:
    return f'"{text}"'


def _replace(pairs: list[Pair], name: str, value: str) -> list[Pair]:
    rest = [pair for pair in pairs if pair[0] != quoted(name)]
    return [*rest, (quoted(name), value)]


def _pick(rng: random.Random, columns: tuple[Column, ...], *kinds: str) -> Column:
    fitting = [column for column in columns if not kinds or column.kind in kinds]
    return rng.choice(fitting or list(columns))


def odd_time(rng: random.Random, pairs: list[Pair], columns: tuple[Column, ...]) -> list[Pair]:
    return _replace(pairs, _pick(rng, columns, "time").name, quoted(rng.choice(TIMES)))


def odd_date(rng: random.Random, pairs: list[Pair], columns: tuple[Column, ...]) -> list[Pair]:
    return _replace(pairs, _pick(rng, columns, "date").name, quoted(rng.choice(DATES)))


def odd_value(rng: random.Random, pairs: list[Pair], columns: tuple[Column, ...]) -> list[Pair]:
    return _replace(pairs, _pick(rng, columns).name, rng.choice(TOKENS))


def odd_number(rng: random.Random, pairs: list[Pair], columns: tuple[Column, ...]) -> list[Pair]:
    return _replace(pairs, _pick(rng, columns, "int", "number").name, rng.choice(TOKENS))


def odd_list(rng: random.Random, pairs: list[Pair], columns: tuple[Column, ...]) -> list[Pair]:
    return _replace(pairs, _pick(rng, columns, "strings", "objects").name, rng.choice(TOKENS))


def odd_enum(rng: random.Random, pairs: list[Pair], columns: tuple[Column, ...]) -> list[Pair]:
    column = rng.choice([column for column in columns if column.enum] or list(columns))
    values = [value.upper() for value in column.enum or ()] + ["other", "opened ", "ｏpened"]
    return _replace(pairs, column.name, quoted(rng.choice(values)))


def lacking(rng: random.Random, pairs: list[Pair], columns: tuple[Column, ...]) -> list[Pair]:
    name = rng.choice([column.name for column in columns if column.required])
    rest = [pair for pair in pairs if pair[0] != quoted(name)]
    return rng.choice([rest, [*rest, (quoted(name), "null")], [(quoted(name), '""'), *rest]])


def twice(rng: random.Random, pairs: list[Pair], columns: tuple[Column, ...]) -> list[Pair]:
    name = _pick(rng, columns).name
    written = quoted(rng.choice([name, name.replace("i", "\\u0069").replace("e", "\\u0065")]))
    value = rng.choice(
        [*(pair[1] for pair in pairs if pair[0] == quoted(name)), "null", '""', '"x"', "1", "[]"]
    )
    return [*pairs, (written, value)] if rng.random() < 0.8 else [*pairs, (written, value), (written, value)]


def not_json(rng: random.Random, pairs: list[Pair], columns: tuple[Column, ...]) -> list[Pair]:
    name = rng.choice([_pick(rng, columns).name, "unknown", "x"])
    return _replace(pairs, name, rng.choice(NOT_JSON))


def deep(rng: random.Random, pairs: list[Pair], columns: tuple[Column, ...]) -> list[Pair]:
    levels = rng.choice([1000, 1022, 1023, 1023, 1024, 1024, 1025])  # below the record's own object
    opens = rng.choice(["[", '{"a":', '{"]":', '[{"[[[":'])
    unit = opens.count("[") + opens.count("{") if opens in ("[", '{"a":', '{"]":') else 2
    closes = {"[": "]", '{"a":': "}", '{"]":': "}", '[{"[[[":': "}]"}[opens]
    whole, rest = divmod(levels, unit)
    name = rng.choice(["unknown", "deep", _pick(rng, columns).name])
    return _replace(pairs, name, opens * whole + "[" * rest + "1" + "]" * rest + closes * whole)


def odd_bytes(rng: random.Random, payload: bytes) -> bytes:
    """Break a payload that was good as text."""
    cut = rng.randrange(len(payload))
    insert = rng.choice(
        [b"\xff", b"\xed\xa0\x80", b"\xc3", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xef\xbb\xbf", b"\x00"]
    )
    return rng.choice(
        [
            payload[:cut],
            payload[:cut] + insert + payload[cut:],
            b"\xef\xbb\xbf" + payload,
            payload + b",",
            payload + payload,
            payload + b" ]",
            b"[" + payload + b"]",
            payload + b"\r",
            b" \t" + payload + b" \r",
            payload.decode().encode("utf-16"),
            payload[:-1] + insert + payload[-1:],
        ]
    ).replace(b"\n", b"")


BREAKS: tuple[Break, ...] = (
    odd_time,
    odd_time,
    odd_date,
    odd_value,
    odd_number,
    odd_list,
    odd_enum,
    lacking,
    twice,
    not_json,
    deep,
)


def broken(rng: random.Random, pairs: list[Pair], columns: tuple[Column, ...]) -> bytes:
    """A payload with one to three faults (or, by luck, none)."""
    if rng.random() < 0.15:
        return rng.choice(PAYLOADS)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        pairs = rng.choice(BREAKS)(rng, pairs, columns)
    payload = written(rng, pairs)
    return odd_bytes(rng, payload) if rng.random() < 0.15 else payload


def written(rng: random.Random, pairs: list[Pair]) -> bytes:
    """An object in one of many spellings; never a line feed."""
    pairs = list(pairs)
    if rng.random() < 0.3:
        rng.shuffle(pairs)
    colon, comma = rng.choice([(":", ","), (": ", ", "), (" :\t", " ,"), (":", ",")])
    body = comma.join(f"{name}{colon}{value}" for name, value in pairs)
    return ("{" + body + "}").encode() + (b"\r" if rng.random() < 0.05 else b"")

"""Holds the two decoders against each other, and both against the plain reading of the contract.

For a long run: `python -m tests.fuzz_decoders --minutes 10`. It prints what it has tried and stops at the
first batch on which they differ, with the seed that makes it again.
"""

import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import click
import pyarrow as pa
import pytest

from schemas import columns, json_parse
from schemas.columns import decode
from schemas.events import EVENTS
from schemas.loops import compiles
from schemas.record import Field, Record, Type
from schemas.reference import REFERENCES
from schemas.rows import Rejected, Row, decode_row
from tests.plain import tables
from tests.plain.values import Reason
from tests.plain.values import decode as decode_plainly

RECORDS: list[Record] = [*EVENTS.values(), *REFERENCES.values()]
PLAIN = {**tables.EVENTS, **tables.REFERENCES}
PARSERS = [columns._parsers(0)]
"""Without numba, and, where it is installed, with it."""
if compiles():
    PARSERS.append(columns._parsers(columns.WORTH_LOADING))
Payloads = list[bytes | None]

TIMES = (
    "2026-03-01T07:30:59.123456Z",
    "2026-03-01 07:30:59+09:00",
    "2026-03-01T07:30:59.123456789Z",
    "2026-03-01T07Z",
    "2026-03-01T07:30-0330",
    "1969-12-31T23:00:00-01:00",
    "1969-12-31T23:59:59Z",
    "9999-12-31T23:59:59.9999999Z",
    "9999-12-31T23:59:59-00:01",
    "0000-01-01T00Z",
    "2026-02-29T00Z",
    "2026-03-01T24:00Z",
    "2026-03-01T23:59:60Z",
    "2026-03-01T00:00:00",
    "2026-03-01",
    "2026-03-01T00:00:00z",
    "２０２６-03-01T00:00:00Z",
)
DATES = ("2026-03-01", "1899-12-31", "0001-01-01", "0000-01-01", "9999-12-31", "2026-02-30", "2026-3-1")
TEXTS = (
    '"a"', '"NaN"', '"x: NaN, -Inf 1e400"', '"石狩"', '"\\u77f3"', '"\\ud83d\\ude42"', '"🙂"', '" "',
    '"\\u0000"', '"3e8b4e1234"', '" 1e999"', '"}{"', '"}\\n{"', '":\\"\\""', '"[[[["', f'"{"9" * 400}"',
)  # fmt: skip
INTS = ("0", "1", "-0", "-1", "9223372036854775807", "-9223372036854775808", "42", "20260301073059123456")
NUMBERS = (
    "0",
    "-0",
    "-0.0",
    "0.1",
    "1e-400",
    "1.7976931348623157e308",
    "9007199254740993",
    "1E+2",
    "1" + "0" * 30,
)
WRONG = (
    '"x"', "5", "5.0", "-1", "true", "false", "[]", "{}", "null", '""', '"2026-03-01"', "'a'",
    "[null]", '["a",null]', "[1]", '["a"]', "[{}]", "[[]]", '[{"kind":1}]', '[{"kind":"a","kind":"b"}]',
    '[{"due_at":"x"}]', '[{"x":NaN}]', '[{"x":[1e309]}]', "NaN", "-Infinity", "Inf", "-NaN",
    "[ NaN]", "[0,Inf]",
    "1e400", "99999e305", "-1.8e308", "[ 180.5E+00306]", "1e5", "0e99999", "9223372036854775808",
    "1" + "0" * 309, "1" + "0" * 308, "9" * 220 + "e99", "1" + "0" * 400 + "e-400",
    "0." + "0" * 400 + "1e500",
    "1." + "0" * 400 + "e309", "17" + "." + "0" * 70 + "e308",
    "01", "+1", ".5", "1.", "tru", "nul", '"\\ud800"', '"\\udc00"', '"\\x"', '"a\tb"', '"a\n', '"x:""y"',
    '"x: ""y"', "[" * 30 + "]" * 30, "[" * 1023 + "]" * 1023, "[" * 1024 + "]" * 1024,
    '{"a":' * 1023 + "1" + "}" * 1023, '{"a":' * 1024 + "1" + "}" * 1024,
)  # fmt: skip
BYTES = (
    b"\x00", b"\xff", b"\n", b"\r", b"\t", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"0", b"e", b" ",
    b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xc0\xaf", b"\xf4\x90\x80\x80", b"null", b"NaN", b'""', b"}{",
    b"}\n{", b"\\u", b':""', b"}\x00{",
)  # fmt: skip
LAYOUT = (b'"', b"{", b"}", b",", b":", b" ", b"\t", b"\n", b"\\", b"\x00", b"1")


def value(rng: random.Random, field: Field) -> str:
    """JSON text of a value of the field's type; of a time or date, now and then one that is none."""
    if field.enum:
        return json.dumps(rng.choice(field.enum))
    match field.type:
        case Type.STRING:
            return rng.choice(TEXTS) if rng.random() < 0.3 else f'"{field.name}-{rng.randrange(1000)}"'
        case Type.INT:
            return str(rng.randrange(1, 10**6)) if rng.random() < 0.9 else rng.choice(INTS)
        case Type.NUMBER:
            return rng.choice(NUMBERS) if rng.random() < 0.5 else repr(rng.uniform(-1e6, 1e6))
        case Type.BOOL:
            return rng.choice(("true", "false"))
        case Type.TIME:
            return json.dumps(TIMES[0] if rng.random() < 0.9 else rng.choice(TIMES), ensure_ascii=False)
        case Type.DATE:
            return json.dumps(rng.choice(DATES[:1] * 9 + DATES))
        case Type.STRINGS:
            return "[" + ",".join(rng.choice(TEXTS) for _ in range(rng.randrange(4))) + "]"
        case Type.OBJECTS:
            return "[" + ",".join(_item(rng, field) for _ in range(rng.randrange(4))) + "]"


def _item(rng: random.Random, field: Field) -> str:
    pairs = [(inner.name, value(rng, inner)) for inner in field.fields if rng.random() < 0.7]
    if rng.random() < 0.1:
        pairs.append(("x", rng.choice(WRONG)))
    return _written(rng, pairs)


def _written(rng: random.Random, pairs: Iterable[tuple[str, str]]) -> str:
    colon, comma = rng.choice(((":", ","), (": ", ", "), (" :\t", "\r,")))
    return "{" + comma.join(f'"{name}"{colon}{text}' for name, text in pairs) + "}"


def pairs_of(rng: random.Random, record: Record) -> list[tuple[str, str]]:
    """Names and JSON texts of a record that is mostly right."""
    optional = rng.random()
    return [(f.name, value(rng, f)) for f in record.fields if f.required or rng.random() < optional]


def _spoil(rng: random.Random, record: Record, pairs: list[tuple[str, str]]) -> None:
    """Change one name or value."""
    place = rng.randrange(len(pairs))
    name, text = pairs[place]
    match rng.randrange(7):
        case 0:
            pairs[place] = (name, rng.choice(WRONG))
        case 1:
            pairs[place] = (name, rng.choice(("null", '""', "[]", '"other"', '"other"')))
        case 2:
            del pairs[place]
        case 3:
            pairs.append((name, rng.choice((text, "null", '""', rng.choice(WRONG)))))
        case 4:
            pairs.insert(place, ("".join(f"\\u{ord(c):04x}" for c in name), text))
        case 5:
            pairs.append((rng.choice(("x", "y", "")), rng.choice(WRONG)))
        case _:
            pairs[place] = (name, pairs[rng.randrange(len(pairs))][1])


def payload(rng: random.Random, record: Record, wildness: float) -> bytes | None:
    """One payload; the wilder, the more is wrong with it."""
    pairs = pairs_of(rng, record)
    while rng.random() < wildness and pairs:
        _spoil(rng, record, pairs)
    if rng.random() < wildness:
        rng.shuffle(pairs)
    found = _written(rng, pairs).encode("utf-8", "surrogatepass")
    while rng.random() < wildness / 3 and found:
        at = rng.randrange(len(found) + 1)
        match rng.randrange(6):
            case 0:
                found = found[:at] + rng.choice(BYTES) + found[at:]
            case 1:
                found = found[:at] + rng.choice(BYTES) + found[at + 1 :]
            case 2:
                found = found[:at]
            case 3:
                found = found[:at] + found[at + rng.randrange(1, 9) :]
            case 4:
                found = rng.choice(
                    (found + found, found + b" " + found, b" " + found, found + b"\r", found + b"}")
                )
            case _:
                found = (
                    rng.randbytes(rng.randrange(6)) if rng.random() < 0.3 else found[:at] + b"}" + found[at:]
                )
    if record.is_event and rng.random() < wildness / 20:
        return None
    return found


def spoilt(rng: random.Random, good: bytes) -> bytes:
    """The payload but for a byte or some, often one that a layout depends on."""
    at = rng.randrange(len(good))
    byte = rng.choice((*LAYOUT, rng.randbytes(1)))
    return rng.choice(
        (good[:at] + byte + good[at + rng.randrange(3) :], good[:at], good[:at] + good[at + 1 :])
    )


def batch(rng: random.Random, record: Record) -> Payloads:
    """A batch of payloads, from all clean to all wild; or a few in all orders, as one emitter sends them; or
    of one layout, each spoilt at one place."""
    count = rng.choice((1, 2, 7, 40, 200))
    if rng.random() < 0.2:
        good = _written(rng, pairs_of(rng, record)).encode("utf-8", "surrogatepass")
        return [good, *(spoilt(rng, good) for _ in range(count))]
    if rng.random() < 0.3:
        good = _written(rng, pairs_of(rng, record)).encode("utf-8", "surrogatepass")
        odd = [good[:-1] + f',"x":{rng.choice(WRONG)}}}'.encode() for _ in range(3)]
        shifted = rng.choice((good + b"}", good + b",", good + good, b"{}{", good[:-1]))
        return [rng.choice((good, good, shifted, *odd)) for _ in range(min(count, 40))]
    wildness = rng.choice((0.0, 0.01, 0.1, 0.5, 0.9))
    return [payload(rng, record, wildness) for _ in range(count)]


def check(record: Record, payloads: Payloads, cut: int = 0) -> Counter[str]:
    """Assert that both decoders and the plain reading agree; returns how often each reason was given.

    The first `cut` payloads are decoded as part of the array that the others are sliced from.
    """
    expected = [decode_row(record, one) for one in payloads]
    for one, row in zip(payloads, expected, strict=True):
        if one is not None:
            plainly = decode_plainly(PLAIN[record.name], one)
            reading = Rejected(plainly.text) if isinstance(plainly, Reason) else plainly
            assert row == reading, f"row {row!r}, plainly {reading!r} of {one!r}"
    values = pa.array(payloads, pa.binary())[cut:]
    for parsers in PARSERS:
        with mock.patch.object(columns, "_parsers", lambda _, parsers=parsers: parsers):
            _check_columns(record, payloads[cut:], expected[cut:], decode(record, values))
    return Counter(row.reason if isinstance(row, Rejected) else "accepted" for row in expected)


def _check_columns(
    record: Record, payloads: Payloads, expected: list[Row | Rejected], decoded: columns.Decoded
) -> None:
    decoded.table.validate(full=True)
    reasons = [row.reason if isinstance(row, Rejected) else None for row in expected]
    for place, (reason, wanted) in enumerate(zip(decoded.reasons.to_pylist(), reasons, strict=True)):
        assert reason == wanted, f"columns {reason!r}, row {wanted!r} of {payloads[place]!r}"
    accepted = [(place, row) for place, row in enumerate(expected) if not isinstance(row, Rejected)]
    assert decoded.rows.tolist() == [place for place, _ in accepted]
    assert decoded.rows.dtype == "int64"
    assert decoded.table.schema == record.schema
    wanted_rows = pa.RecordBatch.from_pylist([row for _, row in accepted], schema=record.schema)
    if not decoded.table.equals(wanted_rows):
        for (place, _), found, wanted_row in zip(
            accepted, decoded.table.to_pylist(), wanted_rows.to_pylist(), strict=True
        ):
            assert found == wanted_row, f"of {payloads[place]!r}"
        raise AssertionError("the batches differ, though their rows do not")


def check_seed(seed: int, patch: Callable[[str, Any], None]) -> Counter[str]:
    """Check the batch that the seed makes; `patch` sets attributes of `schemas.json_parse`."""
    rng = random.Random(seed)
    record = rng.choice(RECORDS)
    patch("PIECE", rng.choice((100, 2000, 4 << 20)))
    patch("_SMALL", rng.choice((1, 4, 64)))
    patch("_PATIENCE", rng.choice((1, 8, 1000)))
    payloads = batch(rng, record)
    return check(record, payloads, rng.choice((0, 0, 1)) if len(payloads) > 1 else 0)


@click.command()
@click.option("--minutes", default=5.0, help="How long to look.")
@click.option("--seed", default=None, type=int, help="First seed; each batch has the next.")
def main(minutes: float, seed: int | None) -> None:
    """Look for payloads on which the decoders differ."""
    first = seed = time.time_ns() // 1000 if seed is None else seed
    end = time.monotonic() + minutes * 60
    reasons: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as context:
        while time.monotonic() < end:
            try:
                reasons += check_seed(seed, lambda name, to: context.setattr(json_parse, name, to))
            except BaseException:
                click.echo(f"seed {seed}")
                raise
            seed += 1
    kinds: Counter[str] = Counter()
    for reason, count in reasons.items():
        kinds[reason.partition(":")[0]] += count
    click.echo(f"{seed - first:,} batches, {reasons.total():,} payloads from seed {first}: {dict(kinds)}")


if __name__ == "__main__":
    main()

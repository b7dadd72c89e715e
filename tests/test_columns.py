"""The columnar decoder answers as the row decoder and the plain reading of the contract do.

The edges themselves are named in `value_cases.py` and `test_rows.py`, where each runs through both decoders.
"""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas import columns, json_parse
from schemas.columns import decode
from schemas.events import ACCESS, ALLOCATION
from schemas.json_guards import odd_payloads
from schemas.json_parse import parse, views
from schemas.record import MAX_BYTES, Record
from schemas.reference import AUTHORIZATION, PARTY, SITE
from schemas.rows import decode_row
from tests.fuzz_decoders import RECORDS, Payloads, check, check_seed
from tests.test_rows import BY_NAME, DECODED, MORE
from tests.value_cases import record

GOOD = record("access", {"node": '"n"'})


def _array(*payloads: bytes | None) -> pa.BinaryArray:
    return pa.array(payloads, pa.binary())


def _columnar(kind: Record, *payloads: bytes | None) -> list[int]:
    """Positions of the payloads that did not need the row decoder."""
    return [row for _, rows in parse(kind, _array(*payloads)) for row in rows.tolist()]


@pytest.mark.parametrize("block", range(24))
def test_wild_batches(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(block * 10, block * 10 + 10):
        check_seed(seed, lambda name, to: monkeypatch.setattr(json_parse, name, to))


@settings(max_examples=150)
@given(st.sampled_from(RECORDS), st.lists(st.binary(max_size=40), max_size=8))
def test_any_bytes(kind: Record, payloads: list[bytes]) -> None:
    check(kind, [*payloads, *(b"{" + payload + b"}" for payload in payloads)])


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=250)
@given(st.data(), st.sampled_from(RECORDS))
def test_any_json_in_any_field(data: st.DataObject, kind: Record) -> None:
    names = st.sampled_from([field.name for field in kind.fields] + ["x"])
    changes = data.draw(st.lists(st.dictionaries(names, _JSON, max_size=2), min_size=1, max_size=4))
    least = json.loads(record(kind.name, {})) if kind.name in BASED else {}
    check(
        kind,
        [
            json.dumps({**least, **change}, ensure_ascii=False).encode("utf-8", "replace")
            for change in changes
        ],
    )


BASED = {"allocation", "access", "placement", "party", "authorization", "site", "source", "screening"}


@pytest.mark.parametrize("kind", RECORDS, ids=[one.name for one in RECORDS])
def test_all_edges_in_one_batch(kind: Record) -> None:
    """Bad payloads do not touch their neighbours, and accepted rows keep their order."""
    edges = [case.payload for case in DECODED if case.stream == kind.name]
    edges += [payload for _, of, payload, _ in MORE if of is kind]
    check(kind, [*edges, *reversed(edges)], cut=min(1, len(edges)))


@settings(max_examples=100)
@example(0, 0)
@given(st.integers(0, 5), st.integers(0, 5))
def test_slices(start: int, length: int) -> None:
    values = _array(GOOD, b"{", None, GOOD + b"\r", b"[]")
    found, whole = decode(ACCESS, values.slice(start, length)), decode(ACCESS, values)
    assert found.reasons.equals(whole.reasons.slice(start, length))
    kept = [place for place in whole.rows if start <= place < start + length]
    assert found.rows.tolist() == [place - start for place in kept]
    assert found.table.num_rows == len(kept)


@pytest.mark.parametrize("kind", RECORDS, ids=[one.name for one in RECORDS])
def test_an_empty_batch(kind: Record) -> None:
    for values in (_array(), pa.array([b"{}"], pa.binary())[1:]):
        found = decode(kind, values)
        assert found.table.schema == kind.schema
        assert (found.table.num_rows, len(found.rows), len(found.reasons)) == (0, 0, 0)
        assert found.rows.dtype == np.int64


def test_only_tombstones() -> None:
    found = decode(ALLOCATION, pa.nulls(3, pa.binary()))
    assert found.reasons.to_pylist() == ["tombstone"] * 3
    assert found.table.num_rows == 0


def test_tombstones_of_reference_records_must_not_come_here() -> None:
    with pytest.raises(AssertionError):
        decode(PARTY, _array(None))


@pytest.mark.parametrize(
    "payload", [b"null", b"", b" ", b"\n", b"null\nnull", b"{}null", b"\x00", b"[]", b"{}{}"]
)
def test_buffers_that_crash_or_shift_the_parser(payload: bytes) -> None:
    check(ACCESS, [payload])
    check(ACCESS, [payload, GOOD, payload, payload, GOOD])


def test_rows_that_make_up_for_each_other() -> None:
    """One payload holds two objects and another none: the counts are equal, the rows are not."""
    for pair in ((GOOD + GOOD, b" "), (GOOD + GOOD, b""), (b"{}{", b"}"), (GOOD[:-1], b"}" + GOOD)):
        check(ACCESS, [GOOD, *pair, GOOD])


def test_a_row_cut_by_its_line_feed_does_not_join_the_next() -> None:
    halves = GOOD.split(b",", 1)
    check(ACCESS, [halves[0] + b",", halves[1], GOOD])
    check(ACCESS, [b'{"x":"}', b'{"}', GOOD])
    check(ACCESS, [b'{"x":{}', b"{}}", GOOD])


def test_unnamed_fields_stay_on_the_fast_path() -> None:
    odd = record("access", {"x": '{"a":[1,2.5e10,"(NaN)","Infinity-1","x1e999",null]}'})
    assert _columnar(ACCESS, GOOD, odd, GOOD) == [0, 1, 2]


def test_text_that_only_looks_odd_stays_on_the_fast_path() -> None:
    """Hexadecimal digits, words that begin like NaN or Inf, long lists: no reason for the slow path."""
    texts = ['"3e8b4e123-1e4567"', '"NVIDIA Infra, Nancy"', '"InfiniBand"', json.dumps(["1"] * 3000)]
    assert _columnar(ACCESS, *(record("access", {"x": text}) for text in texts)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "[NaN]",
        "[ -Inf]",
        '{"a":Infinity}',
        "[1,99999e305]",
        "[-1.8E+308]",
        "9" * 309,
        "9" * 220 + "e95",
        "[" * 1030 + "]" * 1030,
    ],
)
def test_guards_find_what_the_parser_lets_pass(text: str) -> None:
    """In a piece among others, at any place of the sampling of long numbers."""
    for shift in range(17):
        payloads = [GOOD, record("access", {"node": '"' + "n" * shift + '"', "x": text}), GOOD]
        offsets, data = views(_array(*payloads))
        assert odd_payloads(data, offsets).tolist() == [False, True, False]
        assert _columnar(ACCESS, *payloads) == [0, 2]


def test_what_one_half_teaches_holds_for_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A payload that the parser cannot place splits the piece before it has met a field without a name."""
    monkeypatch.setattr(json_parse, "_SMALL", 1)
    unnamed, nan = record("access", {"x": "1"}), record("access", {"x": "NaN"})
    check(ACCESS, [GOOD + b"}", unnamed, GOOD, GOOD, nan, GOOD, unnamed, nan])


def test_empty_strings_of_every_type_stay_on_the_fast_path() -> None:
    blank = record(
        "access", {"mfa": '""', "bytes_out": ' ""', "source_seq": '\t""', "node": '":"', "site_id": '""'}
    )
    assert _columnar(ACCESS, *[blank] * 3) == [0, 1, 2]
    check(
        ACCESS,
        [
            blank,
            GOOD,
            record("access", {"node": '":""'}),
            record("access", {"node": '"x: ""y"', "mfa": '""'}),
        ],
    )


@pytest.mark.parametrize(
    "bad",
    [
        record("access", {"source_seq": '"5"'}),
        record("access", {"source_seq": "5.0"}),
        record("access", {"node": "5"}, ',"node":6'),
        GOOD[: len(GOOD) // 2] + b"}",
        GOOD + GOOD,
        GOOD.replace(b'"n"', b'"\xff"'),
    ],
    ids=["type", "fraction", "twice", "syntax", "two objects", "UTF-8"],
)
def test_a_few_bad_payloads_leave_the_rest_on_the_fast_path(bad: bytes) -> None:
    payloads: Payloads = [bad if place % 100 == 50 else GOOD for place in range(2000)]
    found = _columnar(ACCESS, *payloads)
    assert len(found) >= 1980 - 20  # the neighbour may be blamed too
    assert set(found).isdisjoint(range(50, 2000, 100))
    check(ACCESS, payloads[:200])


@pytest.mark.parametrize(
    "byte", [b"", b" ", b'"', b"{", b"}", b",", b":", b"\\", b"\x00", b"\n", b"z", b"\xff"]
)
def test_a_byte_changed_anywhere_after_others_of_the_same_layout(byte: bytes) -> None:
    spoilt = [GOOD[:at] + byte + GOOD[at + 1 :] for at in range(len(GOOD))]
    more = [GOOD[:at] + byte + GOOD[at:] for at in range(len(GOOD))]
    check(ACCESS, [GOOD, *spoilt, GOOD, *more, GOOD])


def test_layouts_too_many_to_remember() -> None:
    """Names of their own in each, in all more than are remembered, and the known ones in other orders."""
    various: Payloads = []
    for number in range(120):
        pairs = [*json.loads(GOOD).items(), *((f"x{number}.{place}", place) for place in range(20))]
        various.append(json.dumps(dict(pairs[number % 7 :] + pairs[: number % 7])).encode())
    check(ACCESS, [*various, GOOD, *various])


def test_a_name_that_stands_twice_where_it_is_expected() -> None:
    twice = GOOD[:-1] + b"," + GOOD[1:]
    check(ACCESS, [GOOD, twice, GOOD[:-1] + GOOD, twice, GOOD])


def test_pieces_of_a_large_batch_keep_their_rows_apart() -> None:
    big = record("access", {"node": '"' + "n" * 300_000 + '"'})
    payloads = [big if place % 3 else GOOD for place in range(60)]
    assert sum(map(len, payloads)) > 2 * json_parse.PIECE
    assert _columnar(ACCESS, *payloads) == list(range(60))
    found = decode(ACCESS, _array(*payloads))
    assert [len(node) for node in found.table["node"].to_pylist()] == [
        300_000 if place % 3 else 1 for place in range(60)
    ]


def test_size_limit() -> None:
    room = MAX_BYTES - len(record("access", {"node": '""'}))
    fits, over = (record("access", {"node": '"' + "n" * size + '"'}) for size in (room, room + 1))
    found = decode(ACCESS, _array(over, fits, b"x" * (MAX_BYTES + 1)))
    assert found.reasons.to_pylist() == ["too_large", None, "too_large"]
    assert found.rows.tolist() == [1]


def test_clean_batches_need_no_row_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_rows(kind: Record, value: bytes | None) -> None:
        raise AssertionError(value)

    expected = decode_row(AUTHORIZATION, AUTHORIZED)
    monkeypatch.setattr(columns, "decode_row", no_rows)
    found = decode(AUTHORIZATION, _array(*[AUTHORIZED] * 3))
    wanted = pa.RecordBatch.from_pylist([expected] * 3, schema=AUTHORIZATION.schema)
    assert found.table.equals(wanted)


AUTHORIZED = record(
    "authorization",
    {
        "conditions": '[{"condition_id":"C","due_at":"2026-03-01T00:00:00.123456789Z"},{"met_at":""},{}]',
        "models": '["","H100"]',
        "max_tpp": "-0",
        "site_ids": "[]",
    },
)


def test_negative_zero_is_zero() -> None:
    found = decode(
        SITE, _array(record("site", {"it_power_kw": "-0.0"}), record("site", {"it_power_kw": "-0"}))
    )
    assert [str(number) for number in found.table["it_power_kw"].to_pylist()] == ["0.0", "0.0"]


def test_cases_cover_all_records_that_have_edges() -> None:
    assert {case.stream for case in DECODED} <= BY_NAME.keys()

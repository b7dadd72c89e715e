"""The row decoder at every edge of the contract's *Values* paragraph, and tombstones written as lines.

Most edges are the named cases of `value_cases.py`, which `test_values.py` runs through a whole scan; here
they run through both decoders alone. The table below adds what only a decoder shows.
"""

import re

import orjson
import pytest

from schemas.events import ACCESS, ALLOCATION
from schemas.record import MAX_BYTES, MAX_DEPTH, Field, Record, Type
from schemas.reference import AUTHORIZATION, PARTY, SCREENING, SITE
from schemas.rows import Rejected, Tombstone, decode_row, repeated_fields, tombstone_line
from schemas.times import parse_time
from tests.fuzz_decoders import RECORDS, check
from tests.value_cases import CASES, Case, record

BY_NAME = {one.name: one for one in RECORDS}
DECODED = [one for one in CASES if one.reason != "version_conflict" and b'"tombstone_at"' not in one.payload]


@pytest.mark.parametrize("case", DECODED, ids=[one.name for one in DECODED])
def test_edge(case: Case) -> None:
    found = decode_row(BY_NAME[case.stream], case.payload)
    if case.reason is None:
        assert isinstance(found, dict)
        assert {name: found[name] for name in case.columns} == case.columns
    else:
        assert found == Rejected(case.reason)
    check(BY_NAME[case.stream], [case.payload])


MORE: list[tuple[str, Record, bytes, str | None]] = [
    ("empty payload", ACCESS, b"", "not_json"),
    ("one brace", ACCESS, b"{", "not_json"),
    ("a byte order mark alone", ACCESS, b"\xef\xbb\xbf", "not_json"),
    ("a comment", ACCESS, record("access", {}) + b"//", "not_json"),
    ("a comma at the end", ACCESS, record("access", {})[:-1] + b",}", "not_json"),
    ("two objects with a comma", ACCESS, record("access", {}) + b"," + record("access", {}), "not_json"),
    ("two objects on two lines", ACCESS, record("access", {}) + b"\n" + record("access", {}), "not_json"),
    ("null between two objects", ACCESS, b"{}null{}", "not_json"),
    ("NUL between braces", ACCESS, b"{}\x00}", "not_json"),
    ("a record over several lines", ACCESS, record("access", {}).replace(b",", b"\r\n,"), None),
    ("a string over two lines", ACCESS, record("access", {"node": '"a\nb"'}), "not_json"),
    ("DEL is no control character of JSON", ACCESS, record("access", {"node": '"\x7f"'}), None),
    ("white space around, and form feed", ACCESS, b"\x0c" + record("access", {}), "not_json"),
    (
        "huge int in a named field",
        ACCESS,
        record("access", {"source_seq": "1" + "0" * 30}),
        "type:source_seq",
    ),
    ("int beyond a double", ACCESS, record("access", {"source_seq": "1" + "0" * 400}), "not_json"),
    ("largest double", SITE, record("site", {"it_power_kw": "1.7976931348623157e308"}), None),
    (
        "just beyond the largest double",
        SITE,
        record("site", {"it_power_kw": "1.7976931348623159e308"}),
        "not_json",
    ),
    ("mantissa and exponent overflow together", ACCESS, record("access", {"x": "99999e305"}), "not_json"),
    (
        "a mantissa that its exponent takes back",
        ACCESS,
        record("access", {"x": "1" + "0" * 400 + "e-400"}),
        None,
    ),
    ("zero with a large exponent", ACCESS, record("access", {"x": "0e99999"}), None),
    ("underflow is zero", SITE, record("site", {"it_power_kw": "1e-400"}), None),
    ("NaN as a number", SITE, record("site", {"it_power_kw": "NaN"}), "not_json"),
    ("Inf, short", ACCESS, record("access", {"x": "[1,-Inf]"}), "not_json"),
    (
        "empty string for a list of objects",
        AUTHORIZATION,
        record("authorization", {"conditions": '""'}),
        None,
    ),
    ("empty string for a number", SITE, record("site", {"it_power_kw": '""'}), None),
    ("empty string for a date", PARTY, record("party", {"incorporated_on": '""'}), None),
    ("empty string for a time", PARTY, record("party", {"valid_to": '""'}), None),
    ("empty string for an enum", PARTY, record("party", {"role": '""'}), None),
    (
        "empty strings in an item",
        PARTY,
        record("party", {"documents": '[{"kind":"","expires_at":""}]'}),
        None,
    ),
    ("items in items", AUTHORIZATION, record("authorization", {"conditions": "[[{}]]"}), "type:conditions"),
    (
        "a name twice in the second item",
        PARTY,
        record("party", {"documents": '[{"kind":"a"},{"kind":"b","\\u006bind":"c"}]'}),
        "type:documents",
    ),
    ("a name once in each item", PARTY, record("party", {"documents": '[{"kind":"a"},{"kind":"a"}]'}), None),
    ("an item's name outside it", PARTY, record("party", {"kind": "1", "sha256": "2"}, ',"kind":3'), None),
    (
        "a named field twice inside an unknown one",
        ACCESS,
        record("access", {"x": '[{"node":1,"node":2}]'}),
        None,
    ),
    (
        "a named field twice inside a deeper item",
        PARTY,
        record("party", {"documents": '[{"x":[{"kind":1,"kind":2}]}]'}),
        None,
    ),
    (
        "name twice and missing elsewhere",
        ACCESS,
        record("access", {"source": None}, ',"event_id":1'),
        "missing:source",
    ),
    ("fields of the prototype", ACCESS, record("access", {"__proto__": '{"node":1}'}), None),
    ("an empty name", ACCESS, record("access", {"": "1"}), None),
    ("a name with NUL", ACCESS, record("access", {"node\\u0000": "1"}), None),
]


@pytest.mark.parametrize(
    ("payload", "reason", "kind"), [(p, r, k) for _, k, p, r in MORE], ids=[m[0] for m in MORE]
)
def test_more_edges(kind: Record, payload: bytes, reason: str | None) -> None:
    found = decode_row(kind, payload)
    assert (found.reason if isinstance(found, Rejected) else None) == reason
    check(kind, [payload])


def test_case_names_are_distinct() -> None:
    assert len({name for name, *_ in MORE}) == len(MORE)


@pytest.mark.parametrize("kind", RECORDS, ids=[one.name for one in RECORDS])
def test_every_field_in_every_wrong_type(kind: Record) -> None:
    """Each field refuses every JSON value that is not of its type, whatever the others are."""
    least = {field.name: _right(field) for field in kind.fields if field.required}
    samples = ['"x"', "5", "5.5", "true", "[]", "{}", '["x"]', "[{}]", "[5]", "[null]"]
    taken = {
        Type.STRING: {'"x"'},
        Type.INT: {"5"},
        Type.NUMBER: {"5", "5.5"},
        Type.BOOL: {"true"},
        Type.TIME: set(),
        Type.DATE: set(),
        Type.STRINGS: {"[]", '["x"]'},
        Type.OBJECTS: {"[]", "[{}]"},
    }
    for field in kind.fields:
        for sample in samples:
            values = {**least, field.name: sample}
            payload = ("{" + ",".join(f'"{name}":{text}' for name, text in values.items()) + "}").encode()
            found = decode_row(kind, payload)
            if sample not in taken[field.type]:
                assert found == Rejected(f"type:{field.name}"), sample
            elif field.enum:
                assert found == Rejected(f"enum:{field.name}"), sample
            else:
                assert isinstance(found, dict), sample


def _right(field: Field) -> str:
    if field.enum:
        return f'"{field.enum[0]}"'
    return {Type.INT: "1", Type.TIME: '"2026-03-01T00Z"'}.get(field.type, '"x"')


def test_null_payload_is_a_tombstone_on_event_topics_only() -> None:
    assert decode_row(ALLOCATION, None) == Rejected("tombstone")
    with pytest.raises(AssertionError):
        decode_row(PARTY, None)


def test_zero_has_no_sign() -> None:
    for text in ("-0", "-0.0", "-1e-400", "0"):
        row = decode_row(SITE, record("site", {"it_power_kw": text}))
        assert isinstance(row, dict)
        assert str(row["it_power_kw"]) == "0.0"


def test_all_fields_are_in_the_row() -> None:
    row = decode_row(ACCESS, record("access", {}))
    assert isinstance(row, dict)
    assert list(row) == [field.name for field in ACCESS.fields]


def test_orjson_is_as_strict_as_the_contract() -> None:
    """What the decoder leaves to the library: an upgrade that changes it must fail here."""
    nested = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    orjson.loads(nested)
    for refused in (
        b"[" + nested + b"]",
        b"NaN",
        b"1e309",
        b'"\\ud800"',
        b'"\\udc00"',
        b'"\xff"',
        b"\xef\xbb\xbf1",
        b"1 2",
        b"[1,]",
        b"01",
        b'"\t"',
    ):
        with pytest.raises(orjson.JSONDecodeError):
            orjson.loads(refused)


def test_repeated_names_are_compared_after_their_escapes() -> None:
    assert repeated_fields(ACCESS, rb'{"node":1,"\u006e\u006F\u0064e":2,"x":1,"x":2}') == {"node"}
    assert repeated_fields(ACCESS, rb'{"node":"\"node\":","x":["node","node"]}') == set()


def test_a_large_record_of_many_tokens_is_decoded_in_time_of_its_length() -> None:
    """No backtracking and no copying per token, however nested or escaped."""
    for filler in ("[" * 1000 + "]" * 1000, '{"node":' * 1000 + "1" + "}" * 1000, '"' + r"\\" * 1000 + '"'):
        count = (MAX_BYTES - 200) // (len(filler) + 1)
        payload = record("access", {"x": "[" + ",".join([filler] * count) + "]"})
        assert len(payload) <= MAX_BYTES
        assert isinstance(decode_row(ACCESS, payload), dict)


AT = '"tombstone_at":"2026-03-01T09:00+09"'


@pytest.mark.parametrize(
    ("kind", "line", "expected"),
    [
        (PARTY, f'{{"party_id":"P",{AT}}}', Tombstone(("P",), parse_time("2026-03-01T00Z") or 0)),
        (PARTY, f' {{{AT},"party_id":"P"}}\r', Tombstone(("P",), parse_time("2026-03-01T00Z") or 0)),
        (
            PARTY,
            f'{{"party_id":"P",{AT}}}'.replace("tomb", r"\u0074omb"),
            Tombstone(("P",), 1772323200000000),
        ),
        (SCREENING, f'{{"entry_id":"1",{AT},"list":"L"}}', Tombstone(("L", "1"), 1772323200000000)),
        (PARTY, f'{{"party_id":"",{AT}}}', Rejected("missing:party_id")),
        (PARTY, f'{{"party_id":null,{AT}}}', Rejected("missing:party_id")),
        (PARTY, f'{{"party_id":5,{AT}}}', Rejected("type:party_id")),
        (PARTY, f'{{"party_id":"P","party_id":"P",{AT}}}', Rejected("type:party_id")),
        (PARTY, '{"party_id":"P","tombstone_at":""}', Rejected("missing:tombstone_at")),
        (PARTY, '{"party_id":"P","tombstone_at":"2026-03-01"}', Rejected("type:tombstone_at")),
        (PARTY, '{"party_id":"P","tombstone_at":1}', Rejected("type:tombstone_at")),
        (PARTY, f'{{"party_id":5,"party_id":5,{AT},{AT}}}', Rejected("type:party_id")),
        (PARTY, '{"party_id":5,"tombstone_at":null}', Rejected("missing:tombstone_at")),
        (SCREENING, f'{{"list":"L",{AT}}}', None),
        (PARTY, f'{{"party_id":"P",{AT},"version":null}}', None),
        (PARTY, f"{{{AT}}}", None),
        (PARTY, '{"party_id":"P"}', None),
        (PARTY, f'[{{"party_id":"P",{AT}}}]', None),
        (PARTY, f'{{"party_id":"P",{AT}', None),
        (PARTY, "null", None),
        (PARTY, "", None),
    ],
    ids=[
        "right",
        "order and white space",
        "name in escapes",
        "two ids",
        "empty id",
        "null id",
        "id of a wrong type",
        "id twice",
        "empty time",
        "date for a time",
        "number for a time",
        "both twice",
        "missing before type",
        "one id of two",
        "another name",
        "no id",
        "no time",
        "not an object",
        "not JSON",
        "null",
        "blank",
    ],
)
def test_tombstone_line(kind: Record, line: str, expected: Tombstone | Rejected | None) -> None:
    assert tombstone_line(kind, line.encode()) == expected


def test_a_tombstone_line_that_is_too_large_is_left_to_the_decoder() -> None:
    line = f'{{"party_id":"{"P" * MAX_BYTES}",{AT}}}'.encode()
    assert tombstone_line(PARTY, line) is None
    assert decode_row(PARTY, line) == Rejected("too_large")


def test_reasons_are_those_of_the_contract() -> None:
    """`gap.source.rejected` puts them into subjects, so their form is fixed."""
    form = re.compile(r"too_large|tombstone|not_json|not_object|(missing|type|enum):[a-z0-9_]+")
    assert all(case.reason is None or form.fullmatch(case.reason) for case in DECODED)

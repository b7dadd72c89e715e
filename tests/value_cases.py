"""Every edge of the contract's *Values* paragraph, as a named record with an answer written by hand.

Run through one scan by `test_values.py`.
"""

import datetime
from typing import Any, NamedTuple

from tests.compare import plain

ACCEPTED = None
EVENT = {"event_id": '"e1"', "occurred_at": '"2026-03-01T00:00:00Z"', "source": '"s"'}
VERSION = {"version": "1", "valid_from": '"2026-01-01T00:00:00Z"'}
BASE = {
    "allocation": {**EVENT, "allocation_id": '"a"', "action": '"allocated"'},
    "access": {**EVENT, "action": '"opened"'},
    "placement": {**EVENT, "action": '"moved"', "workload_id": '"w"'},
    "party": {"party_id": '"P"', **VERSION, "status": '"verified"'},
    "authorization": {"authorization_id": '"A"', **VERSION},
    "site": {"site_id": '"S"', **VERSION},
    "source": {"source": '"s"', **VERSION},
    "screening": {"list": '"L"', "entry_id": '"1"', **VERSION},
}
"""The least record of each stream: field to JSON text."""


class Case(NamedTuple):
    """A line of a stream's file, its reason (None: accepted), and some columns of what lands."""

    name: str
    stream: str
    payload: bytes
    reason: str | None
    columns: dict[str, Any]


def record(stream: str, changes: dict[str, str | None], extra: str = "") -> bytes:
    """The stream's least record with some values (JSON text) changed, added, or (None) left out."""
    fields = {**BASE[stream], **changes}
    body = ",".join(f'"{name}":{value}' for name, value in fields.items() if value is not None)
    return ("{" + body + extra + "}").encode()


CASES: list[Case] = []


def case(
    name: str, stream: str, reason: str | None, columns: dict[str, Any] | None = None, **changes: Any
) -> None:
    CASES.append(Case(name, stream, record(stream, changes), reason, columns or {}))


def raw_case(name: str, payload: bytes, reason: str | None, stream: str = "access") -> None:
    CASES.append(Case(name, stream, payload, reason, {}))


def micros(text: str) -> int:
    """An instant in Python's own notation, as microseconds."""
    value = plain(datetime.datetime.fromisoformat(text))
    assert isinstance(value, int)
    return value


# Bytes and JSON ------------------------------------------------------------------------------------------

GOOD = record("access", {})
raw_case("blank line", b"", "not_json")
raw_case("only spaces", b"   ", "not_json")
raw_case("only a carriage return", b"\r", "not_json")
raw_case("CRLF: the carriage return is white space", GOOD + b"\r", ACCEPTED)
raw_case("white space around", b" \t" + GOOD + b"\t ", ACCEPTED)
raw_case("no-break space is not JSON's white space", b"\xc2\xa0" + GOOD, "not_json")
raw_case("form feed is not JSON's white space", GOOD + b"\x0c", "not_json")
raw_case("byte order mark", b"\xef\xbb\xbf" + GOOD, "not_json")
raw_case("U+FEFF inside a string is a character", record("access", {"node": '"\ufeff"'}), ACCEPTED)
raw_case("invalid UTF-8", record("access", {"node": '"?"'}).replace(b"?", b"\xff"), "not_json")
raw_case(
    "invalid UTF-8 in an unknown field", record("access", {"x": '"?"'}).replace(b"?", b"\xc3"), "not_json"
)
raw_case("overlong UTF-8", record("access", {"node": '"?"'}).replace(b"?", b"\xc0\xaf"), "not_json")
raw_case(
    "surrogate as UTF-8 bytes", record("access", {"x": '"?"'}).replace(b"?", b"\xed\xa0\x80"), "not_json"
)
raw_case("beyond U+10FFFF", record("access", {"x": '"?"'}).replace(b"?", b"\xf4\x90\x80\x80"), "not_json")
raw_case("UTF-16", GOOD.decode().encode("utf-16"), "not_json")
raw_case("two records on a line", GOOD + GOOD, "not_json")
raw_case("cut off", GOOD[:-1], "not_json")
raw_case("trailing NUL", GOOD + b"\x00", "not_json")
raw_case("null", b"null", "not_object")
raw_case("a list in place of an object", b"[" + GOOD + b"]", "not_object")
raw_case("a string", b'"{}"', "not_object")
raw_case("a number", b"5", "not_object")
raw_case("a number beyond a double alone", b"1e999", "not_json")
raw_case("an empty object", b"{}", "missing:event_id")
for text in (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "1" + "0" * 309,
    "01",
    "+1",
    ".5",
    "1.",
    "'x'",
    "[1,]",
):
    label = text if len(text) < 20 else "an integer beyond a double"
    case(f"{label} in an unknown field", "access", "not_json", x=text)
    case(f"{label} in a named field", "access", "not_json", bytes_out=text)
    case(f"{label} deep in an unknown field", "access", "not_json", x='{"a":[{"b":' + text + "}]}")
case("1e308 is a double", "access", ACCEPTED, x="[1e308,-1e308,1e-400]")
case(
    "an integer that a double holds, beyond int64, in an unknown field", "access", ACCEPTED, x="1" + "0" * 308
)
case("lone high surrogate", "access", "not_json", node=r'"\ud800"')
case("lone low surrogate", "access", "not_json", node=r'"\udc00"')
case("surrogates in the wrong order", "access", "not_json", node=r'"\ude42\ud83d"')
case("lone surrogate in an unknown field", "access", "not_json", x=r'["\ud800"]')
case("lone surrogate in a name", "access", "not_json", x=r'{"\udfff":1}')
case("a surrogate pair", "access", ACCEPTED, {"node": "\U0001f642"}, node=r'"\ud83d\ude42"')
case("an escaped backslash before u", "access", ACCEPTED, {"node": r"\ud800"}, node=r'"\\ud800"')
case("NaN as a string", "access", ACCEPTED, {"node": "NaN"}, node='"NaN"')
case("NUL as an escape", "access", ACCEPTED, {"node": "a\x00b"}, node=r'"a\u0000b"')
case("a raw control character in a string", "access", "not_json", node='"a\tb"')
case("an unknown escape", "access", "not_json", node=r'"\x41"')
case("all escapes", "access", ACCEPTED, {"node": '"\\/\b\f\r\t\u00e9'}, node=r'"\"\\\/\b\f\r\t\u00E9"')

# Size and depth ------------------------------------------------------------------------------------------

PADDED = record("access", {"x": '""'})


def padded(size: int) -> bytes:
    return PADDED.replace(b'"x":""', b'"x":"' + b"y" * (size - len(PADDED)) + b'"')


raw_case("1 MiB exactly", padded(1 << 20), ACCEPTED)
raw_case("1 MiB and a byte", padded((1 << 20) + 1), "too_large")
raw_case("too large comes before not JSON", b"x" * ((1 << 20) + 1), "too_large")
case("depth 1024, the record counted", "access", ACCEPTED, x="[" * 1023 + "]" * 1023)
case("depth 1025", "access", "not_json", x="[" * 1024 + "]" * 1024)
case("depth 1024 in objects", "access", ACCEPTED, x='{"a":' * 1023 + "1" + "}" * 1023)
case("depth 1025 in objects", "access", "not_json", x='{"a":' * 1024 + "1" + "}" * 1024)
case("brackets in a string are no depth", "access", ACCEPTED, x='"' + "[" * 3000 + '"')
case(
    "depth 1025 in a named field is not JSON rather than of a wrong type",
    "access",
    "not_json",
    node="[" * 1024 + "]" * 1024,
)
case("many siblings are not deep", "access", ACCEPTED, x="[" + ",".join(["[]"] * 3000) + "]")

# Times ---------------------------------------------------------------------------------------------------

TIMES = {
    "2026-03-01T00:00:00Z": "2026-03-01T00:00:00+00:00",
    "2026-03-01 00:00:00Z": "2026-03-01T00:00:00+00:00",
    "2026-03-01T07Z": "2026-03-01T07:00:00+00:00",
    "2026-03-01T07:30Z": "2026-03-01T07:30:00+00:00",
    "2026-03-01T07:30:59.5Z": "2026-03-01T07:30:59.500000+00:00",
    "2026-03-01T07:30:59.123456Z": "2026-03-01T07:30:59.123456+00:00",
    "2026-03-01T07:30:59.123456999Z": "2026-03-01T07:30:59.123456+00:00",
    "2026-03-01T07:30:59.999999999Z": "2026-03-01T07:30:59.999999+00:00",
    "2026-03-01T09:00:00+09:00": "2026-03-01T00:00:00+00:00",
    "2026-03-01T09:00:00+09": "2026-03-01T00:00:00+00:00",
    "2026-03-01T09:00:00+0900": "2026-03-01T00:00:00+00:00",
    "2026-02-28T20:30-0330": "2026-03-01T00:00:00+00:00",
    "2026-03-01T23:59+23:59": "2026-03-01T00:00:00+00:00",
    "2026-03-01T00:00:00-00:00": "2026-03-01T00:00:00+00:00",
    "2026-03-01T09+09": "2026-03-01T00:00:00+00:00",
    "2024-02-29T12:00:00Z": "2024-02-29T12:00:00+00:00",
    "2000-02-29T12:00:00Z": "2000-02-29T12:00:00+00:00",
    "1970-01-01T00:00:00Z": "1970-01-01T00:00:00+00:00",
    "1969-12-31T23:00:00-01:00": "1970-01-01T00:00:00+00:00",
    "9999-12-31T23:59:59.999999999Z": "9999-12-31T23:59:59.999999+00:00",
}
for text, instant in TIMES.items():
    case(f"time {text}", "access", ACCEPTED, {"occurred_at": micros(instant)}, occurred_at=f'"{text}"')

NO_TIMES = (
    r"""
2026-03-01T00:00:00|2026-03-01|2026-03-01Z|2026-03-01T00:00:00z|2026-03-01t00:00:00Z|2026-03-01T24:00:00Z
2026-03-01T00:60:00Z|2026-03-01T00:00:60Z|2016-12-31T23:59:60Z|2026-03-01T00:00:00+24:00|2026-03-01T00:00:00+09:60
2026-02-29T00:00:00Z|1900-02-29T00Z|2100-02-29T00Z|2026-04-31T00Z|2026-13-01T00Z|2026-00-01T00Z|2026-03-00T00Z
2026-03-01T00:00:00.Z|2026-03-01T00:00:00,5Z|2026-03-01T00:00:00.1234567890Z|2026-03-01T00:00.5Z|2026-03-01T00.5Z
2026-3-1T00:00:00Z|2026-03-01T0:00:00Z|20260301T000000Z|2026-03-01T000000Z|2026-03-01T0000Z|2026-060T00Z|2026-W09-7T00Z
2026-03-01T00:00:00+9|2026-03-01T00:00:00+090|2026-03-01T00:00:00+09:0|2026-03-01T00:00:00+09:00:00
2026-03-01  00:00:00Z|2026-03-01 00:00:00 Z| 2026-03-01T00:00:00Z|2026-03-01T00:00:00Z |2026-03-01\t00:00:00Z
2026-03-01T00:00:00Z\n|2026-03-01T00:00:00Z\u0000|+2026-03-01T00Z|-2026-03-01T00Z|12026-03-01T00Z|026-03-01T00Z
1969-12-31T23:59:59.999999Z|1970-01-01T00:00:00+00:01|9999-12-31T23:59:59-00:01|0000-01-01T00Z|0001-01-01T00Z
2026-03-01T00:00:00UTC|2026-03-01T00:00:00Z+00|2026-03-01T00:00:00 +00|now|1772323200|T|Z|T00Z|2026-03-01TZ
２０２６-03-01T00:00:00Z|2026-03-01T00:00:00\u2212 01|2026/03/01T00:00:00Z|2026-03-01T00:00:-0Z
2026-03-01T00:+1:00Z|2026-03-01_00:00:00Z|2026-03-01T00:00:00.1e3Z|2026-03-01T00:00:00. 5Z
2026-03-01T00:00:Z|2026-03-01T00:Z
""".strip()
    .replace("\n", "|")
    .split("|")
)
for text in NO_TIMES:
    case(f"no time {text}", "access", "type:occurred_at", occurred_at=f'"{text}"')
case("a number is no time", "access", "type:occurred_at", occurred_at="1772323200")
for text in (
    "2026-03-01T00:00:00Z",
    "2026-3-1",
    "20260301",
    "2026-02-29",
    "2026-03-01 ",
    "2026-13-01",
    "2026-03",
):
    case(
        f"no date {text}", "party", "type:incorporated_on", incorporated_on=f'"{text}"', party_id=f'"{text}"'
    )
case(
    "a date",
    "party",
    ACCEPTED,
    {"incorporated_on": datetime.date(1899, 12, 31)},
    incorporated_on='"1899-12-31"',
)

# Ints, numbers, bools ------------------------------------------------------------------------------------

for text in (
    "8.0",
    '"8"',
    "true",
    "false",
    "1e3",
    "1E3",
    "0.5",
    "-0.0",
    "[8]",
    "{}",
    str(2**63),
    str(-(2**63) - 1),
):
    case(f"no int {text}", "access", "type:source_seq", source_seq=text)
case("greatest int64", "access", ACCEPTED, {"source_seq": 2**63 - 1}, source_seq=str(2**63 - 1))
case("least int64", "access", ACCEPTED, {"source_seq": -(2**63)}, source_seq=str(-(2**63)))
case("minus zero is an int", "allocation", ACCEPTED, {"accelerators": 0}, accelerators="-0")
case("accelerators may be zero", "allocation", ACCEPTED, {"accelerators": 0}, accelerators="0")
case("accelerators below zero", "allocation", "type:accelerators", accelerators="-1")
case("bytes_out below zero", "access", "type:bytes_out", bytes_out="-1")
case("max_accelerators below zero", "authorization", "type:max_accelerators", max_accelerators="-1")
case("silence_limit_s below one", "source", "type:silence_limit_s", silence_limit_s="0")
case("silence_limit_s of one", "source", ACCEPTED, {"silence_limit_s": 1}, silence_limit_s="1")
case("an int is a number", "site", ACCEPTED, {"it_power_kw": 5.0}, it_power_kw="5")
case(
    "a number with exponent", "site", ACCEPTED, {"it_power_kw": 1500.0}, it_power_kw="1.5E+3", site_id='"S2"'
)
case(
    "an int beyond int64 is a number",
    "site",
    ACCEPTED,
    {"it_power_kw": 1e20},
    it_power_kw="1" + "0" * 20,
    site_id='"S3"',
)
case("a string is no number", "site", "type:it_power_kw", it_power_kw='"5"')
case("true is no number", "site", "type:it_power_kw", it_power_kw="true")
case("a bool", "access", ACCEPTED, {"mfa": False}, mfa="false")
for text in ("0", "1", '"true"', "[]"):
    case(f"no bool {text}", "access", "type:mfa", mfa=text)

# Null, missing, enums, order -----------------------------------------------------------------------------

sent: str | None
for sent in ("null", '""', None):
    how = "absent" if sent is None else sent
    case(f"event_id {how} is missing", "access", "missing:event_id", event_id=sent)
    case(f"occurred_at {how} is missing", "access", "missing:occurred_at", occurred_at=sent)
    case(f"mfa {how} is null", "access", ACCEPTED, {"mfa": None}, mfa=sent)
    case(f"bytes_out {how} is null", "access", ACCEPTED, {"bytes_out": None}, bytes_out=sent)
    case(f"method {how} is null", "access", ACCEPTED, {"method": None}, method=sent)
    case(f"serials {how} is null", "allocation", ACCEPTED, {"serials": None}, serials=sent)
case(
    "allocation_id is required of an allocation", "allocation", "missing:allocation_id", allocation_id="null"
)
case(
    "allocation_id is optional elsewhere",
    "placement",
    ACCEPTED,
    {"allocation_id": None},
    allocation_id="null",
)
case("workload_id is required of a placement", "placement", "missing:workload_id", workload_id='""')
case("a space is a value", "access", ACCEPTED, {"node": " "}, node='" "')
case("a field's name matches exactly", "access", "missing:event_id", event_id=None, Event_id='"e"')
case("an enum value matches exactly", "access", "enum:action", action='"Opened"')
case("an optional enum is one too", "access", "enum:method", method='"ssh"')
case("an enum of a wrong type", "access", "type:method", method="5")
case("missing comes before type", "access", "missing:source", event_id="5", source="null")
case("type comes before enum", "access", "type:bytes_out", action='"x"', bytes_out='"x"')
case("missing fields in the order of the table", "access", "missing:event_id", event_id="null", action="null")
case("wrong types in the order of the table", "access", "type:source_seq", mfa="5", source_seq="true")
case("enums in the order of the table", "access", "enum:action", method='"x"', action='"x"')
case("a string field with a number", "access", "type:principal", principal="5")
case("a string field with an object", "access", "type:principal", principal="{}")

# Lists ---------------------------------------------------------------------------------------------------

case("a list of strings", "allocation", ACCEPTED, {"serials": ["b", "a", "b"]}, serials='["b","a","b"]')
case("an empty list is not null", "allocation", ACCEPTED, {"serials": []}, serials="[]")
case("an empty string in a list is a string", "allocation", ACCEPTED, {"serials": [""]}, serials='[""]')
for text in ("[null]", '["a",null]', "[1]", '[["a"]]', "[{}]", "[true]", '"a"', "{}", "5"):
    case(f"no list of strings {text}", "allocation", "type:serials", serials=text)
case(
    "conditions",
    "authorization",
    ACCEPTED,
    {"conditions": [{"condition_id": "C", "due_at": micros("2026-03-01T00:00:00+00:00"), "met_at": None}]},
    conditions='[{"met_at":"","condition_id":"C","due_at":"2026-03-01T09:00+09","x":{"due_at":5}}]',
)
CONDITIONS = {
    "[null]": "null",
    "[5]": "number",
    '[{"due_at":"2026-03-01"}]': "bad time",
    '[{"condition_id":5}]': "bad id",
    '[{"condition_id":"C","condition_id":"C"}]': "a name twice",
    "{}": "object",
    '[[{"condition_id":"C"}]]': "nested",
}
for text, how in CONDITIONS.items():
    case(
        f"conditions with {how}",
        "authorization",
        "type:conditions",
        conditions=text,
        authorization_id=f'"{how}"',
    )
case(
    "conditions: unknown names may repeat",
    "authorization",
    ACCEPTED,
    conditions='[{"x":1,"x":2}]',
    version="2",
)
case("documents with a wrong type", "party", "type:documents", documents='[{"kind":7}]')

# Names that repeat, and unknown names --------------------------------------------------------------------

for value in ('"e1"', '"other"', "null", '""', "[]"):
    raw_case(f"event_id twice, then {value}", record("access", {}, f',"event_id":{value}'), "type:event_id")
raw_case("a null optional field twice", record("access", {"node": "null"}, ',"node":null'), "type:node")
raw_case("a name twice, once in escapes", record("access", {"node": '"a"'}, r',"n\u006fde":"a"'), "type:node")
raw_case(
    "a required null twice is of the wrong type",
    record("access", {"source": "null"}, ',"source":""'),
    "type:source",
)
raw_case("an unknown name twice", record("access", {"x": "1"}, ',"x":2,"x":{"a":1,"a":2}'), ACCEPTED)
raw_case("a name in escapes", record("access", {"node": None}, r',"\u006eode":"a"'), ACCEPTED)
case("another stream's field is unknown", "access", ACCEPTED, serials="5", model="[]", workload_id="{}")
case(
    "an unknown field named like a column of the lake",
    "access",
    ACCEPTED,
    topic="5",
    verdicts="1",
    ingested_at="{}",
)

# Tombstones in a scan ------------------------------------------------------------------------------------

raw_case("tombstone", b'{"party_id":"T","tombstone_at":"2026-03-01T00Z"}', ACCEPTED, "party")
raw_case(
    "tombstone with a bad time", b'{"party_id":"T","tombstone_at":"2026-03-01"}', "type:tombstone_at", "party"
)
raw_case("tombstone without a time", b'{"party_id":"T","tombstone_at":null}', "missing:tombstone_at", "party")
raw_case(
    "tombstone without an id", b'{"party_id":"","tombstone_at":"2026-03-01T00Z"}', "missing:party_id", "party"
)
raw_case(
    "tombstone with a number for an id",
    b'{"party_id":5,"tombstone_at":"2026-03-01T00Z"}',
    "type:party_id",
    "party",
)
raw_case(
    "a tombstone has no other name",
    b'{"party_id":"T","tombstone_at":"2026-03-01T00Z","x":1}',
    "missing:version",
    "party",
)
raw_case("null is no tombstone in a file", b"null", "not_object", "party")
raw_case(
    "tombstone of a screening entry",
    b'{"list":"L","entry_id":"1","tombstone_at":"2026-03-01T00Z"}',
    ACCEPTED,
    "screening",
)
case("a version", "party", ACCEPTED, party_id='"V"', brokers="[]")
case("the same version again", "party", ACCEPTED, party_id='"V"', brokers=" [ ] ", x="1")
case("null and an empty list differ", "party", "version_conflict", party_id='"V"', brokers="null")
case("the same version with another value", "party", "version_conflict", party_id='"V"', country='"JP"')
case("enum comes before the conflict", "party", "enum:status", party_id='"V"', status='"other"')

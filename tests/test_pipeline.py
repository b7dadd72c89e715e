"""What a batch as read becomes: raw rows, typed rows, findings; admission of reference records."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest

from rules.judge import Judge
from rules.pipeline import Landing, admit_references, decode_events, judge_events
from rules.references import References
from rules.rule import InForce, Kind, Rule, Severity, Status
from schemas.events import ACCESS, ALLOCATION
from schemas.record import Record
from schemas.reference import ASSET, AUTHORIZATION, PARTY, REFERENCES, SCREENING, SITE
from schemas.tables import FETCHED, FINDING_EVENT, RAW, typed

MINUTE = 60_000_000


def a_rule(
    id: str, condition: str, *streams: str, each: str | None = None, subject: Sequence[str] = ("party",)
) -> Rule:
    return Rule(
        id=id,
        version=1,
        title="t",
        kind=Kind.ROW,
        severity=Severity.HIGH,
        status=Status.STABLE,
        streams=streams,
        citations=(),
        in_force=InForce(codified=False, enforced=False),
        parameters=(),
        condition=condition,
        each=each,
        subject=tuple(subject),
        message="about {subject}",
        known_gaps=(),
        what_to_do="w",
        tests=(),
        path=Path("x.toml"),
    )


UNKNOWN = a_rule("gap.identity.unknown", "parties = 0", "access", "allocation")
SERIAL = a_rule(
    "gap.procurement.serial_unknown", "X.version is null", "allocation", each="serials", subject=["serial"]
)
CLOCK = a_rule("gap.source.clock", "future", "access", "allocation", subject=["source"])


def fetched(
    record: Record,
    values: Sequence[dict[str, Any] | bytes | None],
    keys: Sequence[bytes | None] | None = None,
    broker_time: int | None = 20 * MINUTE,
    first: int = 0,
) -> pa.RecordBatch:
    payloads = [orjson.dumps(value) if isinstance(value, dict) else value for value in values]
    rows = [
        {
            "topic": record.topic,
            "topic_id": "t",
            "partition": 0,
            "offset": first + number,
            "broker_time": broker_time,
            "key": keys[number] if keys else None,
            "headers": [{"key": "h", "value": b"v"}],
            "value": payload,
        }
        for number, payload in enumerate(payloads)
    ]
    return pa.RecordBatch.from_pylist(rows, FETCHED)


def _access(**fields: Any) -> dict[str, Any]:
    event = {"event_id": "e", "occurred_at": "1970-01-01T00:10:00Z", "source": "s", "action": "call"}
    return event | fields


def _party(id: str, version: int, **fields: Any) -> dict[str, Any]:
    return {
        "party_id": id,
        "version": version,
        "valid_from": "1970-01-01T00:00:00Z",
        "status": "verified",
    } | fields


def _schema(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name != "ingested_at"])


def admit(references: References, record: Record, batch: pa.RecordBatch, keyed: bool = True) -> Landing:
    landing = admit_references(record, batch, references, keyed)
    assert landing.raw.schema.equals(_schema(RAW))
    assert landing.typed.schema.equals(_schema(typed(record)))
    assert landing.findings.num_rows == 0
    landing.typed.validate(full=True)
    references.add(record, landing.typed)
    return landing


def test_events_land_as_raw_typed_and_findings() -> None:
    references = References()
    admit(references, PARTY, fetched(PARTY, [_party("P1", 7)], [b"P1"]))
    values = [
        _access(party_id="P1", occurred_at="1970-01-01T09:10:00+09:00"),
        b"{",
        _access(event_id="e2", party_id="P2", allocation_id="A"),
        None,
    ]
    batch = fetched(ACCESS, values)
    landing = judge_events(decode_events(ACCESS, batch), references, Judge([UNKNOWN, CLOCK]))
    assert landing.raw.schema.equals(_schema(RAW))
    assert landing.raw.select(FETCHED.names).equals(batch)
    assert landing.raw["disposition"].to_pylist() == ["accepted", "rejected", "accepted", "rejected"]
    assert landing.raw["reason"].to_pylist() == [None, "not_json", None, "tombstone"]
    assert landing.typed.schema.equals(_schema(typed(ACCESS)))
    rows = landing.typed.to_pylist()
    assert [row["offset"] for row in rows] == [0, 2]
    assert [row["verdicts"] for row in rows] == [[], ["gap.identity.unknown"]]
    assert [(row["party_id"], row["party_id_sent"], row["party_version"]) for row in rows] == [
        ("P1", "P1", 7),
        (None, "P2", None),
    ]
    (finding,) = landing.findings.to_pylist()
    assert landing.findings.schema.equals(_schema(FINDING_EVENT))
    assert finding == {
        "finding_id": hashlib.sha256(b"gap.identity.unknown\nparty:P2").hexdigest()[:32],
        "rule_id": "gap.identity.unknown",
        "rule_sha256": UNKNOWN.sha256,
        "severity": "high",
        "subject": "party:P2",
        "message": "about party:P2",
        "party_id": None,
        "allocation_id": "A",
        "source": "s",
        "event_id": "e2",
        "topic": "custody.access",
        "partition": 0,
        "offset": 2,
        "occurred_at": rows[1]["occurred_at"],
        "state": "provisional",
        "step": None,
    }


def test_a_message_names_its_subject_wherever_its_rule_says() -> None:
    texts = ("nobody", "{subject}", "of {subject}", "{subject} and {subject}: {subject}.", "{subject} {it}")
    rules = [
        replace(a_rule(f"gap.identity.r{number}", "parties = 0", "access"), message=text)
        for number, text in enumerate(texts)
    ]
    batch = fetched(
        ACCESS, [_access(event_id="e1", party_id="{subject}"), _access(event_id="e2", party_id="P")]
    )
    findings = judge_events(decode_events(ACCESS, batch), References(), Judge(rules)).findings
    assert findings["message"].to_pylist() == [
        text.replace("{subject}", subject) for subject in ("party:{subject}", "party:P") for text in texts
    ]


def test_every_serial_has_its_own_finding_and_one_verdict() -> None:
    references = References()
    asset = {"serial": "SN1", "version": 1, "valid_from": "1970-01-01T00:00:00Z"}
    admit(references, ASSET, fetched(ASSET, [asset], [b"SN1"]))
    event = _access(action="allocated", allocation_id="A", serials=["SN3", "SN1", "SN2", "SN3"])
    landing = judge_events(
        decode_events(ALLOCATION, fetched(ALLOCATION, [event])), references, Judge([SERIAL])
    )
    assert landing.findings["subject"].to_pylist() == ["serial:SN2", "serial:SN3"]
    assert landing.typed["verdicts"].to_pylist() == [["gap.procurement.serial_unknown"]]
    assert landing.typed["sku_unknown"].to_pylist() == [True]


@pytest.mark.parametrize(
    ("until", "future", "broker"), [(None, [False, False], [10, 16]), (10 * MINUTE, [False, True], [10, 10])]
)
def test_event_time_stands_in_for_broker_time_in_files(
    until: int | None, future: list[bool], broker: list[int]
) -> None:
    values = [_access(), _access(occurred_at="1970-01-01T00:16:00Z")]
    events = decode_events(ACCESS, fetched(ACCESS, values, broker_time=None))
    landing = judge_events(events, References(), Judge([CLOCK]), until)
    assert landing.typed["future"].to_pylist() == future
    assert landing.typed["broker_time"].cast(pa.int64()).to_pylist() == [at * MINUTE for at in broker]
    assert landing.findings.num_rows == sum(future)
    assert landing.raw["broker_time"].null_count == 2


def test_references_are_admitted_with_reasons_in_order() -> None:
    references = References()
    values = [
        _party("P1", 1),
        _party("P1", 1, role="", brokers=None),  # equal: an empty string is null
        _party("P1", 1, brokers=[]),  # null and an empty list differ
        _party("P2", 1),  # another key than its id
        _party("P1", 1, status="open"),  # enum comes before the key
        _party("P1", 2),
        None,
        None,
        None,
    ]
    keys = [b"P1", b"P1", b"P1", b"P1", b"P9", b"P1", b"P1", b"\xff", None]
    landing = admit(references, PARTY, fetched(PARTY, values, keys))
    assert landing.raw["reason"].to_pylist() == [
        *(None, None, "version_conflict", "key", "enum:status", None),
        *(None, "key", "key"),
    ]
    assert landing.duplicates == 1
    assert landing.typed["offset"].to_pylist() == [0, 5, 6]
    assert landing.typed["version"].to_pylist() == [1, 2, None]
    assert landing.typed["tombstone_at"].cast(pa.int64()).to_pylist() == [None, None, 20 * MINUTE]
    assert references.count(PARTY) == 2
    # a conflict of a later batch, and what is read again after a crash
    later = admit(references, PARTY, fetched(PARTY, [_party("P1", 2, role="broker")], [b"P1"], first=9))
    assert later.raw["reason"].to_pylist() == ["version_conflict"]
    again = admit(references, PARTY, fetched(PARTY, values, keys))
    assert again.raw.equals(landing.raw)
    assert again.typed.equals(landing.typed)
    assert references.count(PARTY) == 2


def test_a_digest_sees_every_value_and_no_layout() -> None:
    references = References()
    base = {"authorization_id": "A", "version": 1, "valid_from": "1970-01-01T00:00:00Z"}
    item = {"condition_id": "c", "due_at": "1970-01-01T00:00:00Z"}
    values: list[dict[str, Any]] = [
        base | {"max_tpp": 8, "conditions": [item]},
        base | {"max_tpp": 8.0, "conditions": [item | {"met_at": None}], "unknown": 1},
        base | {"max_tpp": 8.5, "conditions": [item]},
        base | {"max_tpp": 8, "conditions": [item | {"due_at": "1970-01-01T00:00:00.000001Z"}]},
        base | {"max_tpp": 8, "conditions": [item], "valid_to": "2000-01-01T00:00:00Z"},
        base | {"max_tpp": 8, "conditions": [item], "models": [""]},
    ]
    landing = admit(references, AUTHORIZATION, fetched(AUTHORIZATION, values, [b"A"] * len(values)))
    assert landing.raw["reason"].to_pylist() == [None, None] + ["version_conflict"] * 4
    assert landing.duplicates == 1


def test_screening_keys_join_list_and_entry() -> None:
    values: list[dict[str, Any] | None] = [
        {"list": "SDN", "entry_id": "1|2", "version": 1, "valid_from": "1970-01-01T00:00:00Z"},
        {"list": "SDN", "entry_id": "1", "version": 1, "valid_from": "1970-01-01T00:00:00Z"},
        None,
        None,
        None,
    ]
    keys = [b"SDN|1|2", b"1|SDN", b"SDN|1|2", b"SDN", b"SDN|"]
    landing = admit(References(), SCREENING, fetched(SCREENING, values, keys))
    assert landing.raw["reason"].to_pylist() == [None, "key", None, "key", "key"]
    dead = landing.typed.to_pylist()[1]
    assert (dead["list"], dead["entry_id"], dead["version"]) == ("SDN", "1|2", None)


def test_files_have_no_keys_and_tombstones_are_lines() -> None:
    references = References()
    values: list[dict[str, Any] | bytes] = [
        {"site_id": "S", "version": 1, "valid_from": "1970-01-01T00:00:00Z"},
        {"site_id": "S", "tombstone_at": "1970-01-01T00:01:00Z"},
        {"site_id": "S", "tombstone_at": "soon"},
        {"site_id": "S", "tombstone_at": "1970-01-01T00:01:00Z", "more": 1},
        b"",
        {"site_id": "S", "version": 2, "valid_from": "1970-01-01T00:02:00Z"},
        b'{"tombstone\\u005fat": "1970-01-01T00:03:00Z", "site_id": "S"}',
    ]
    landing = admit(references, SITE, fetched(SITE, values, broker_time=None), keyed=False)
    assert landing.raw["reason"].to_pylist() == [
        *(None, None, "type:tombstone_at", "missing:version", "not_json", None, None)
    ]
    assert landing.typed["offset"].to_pylist() == [0, 1, 5, 6]
    times = [None, MINUTE, None, 3 * MINUTE]
    assert landing.typed["tombstone_at"].cast(pa.int64()).to_pylist() == times
    assert landing.typed["broker_time"].cast(pa.int64()).to_pylist() == times
    assert landing.raw["broker_time"].null_count == 7
    assert references.newest(SITE) == 3 * MINUTE


@pytest.mark.parametrize("record", [ACCESS, ALLOCATION, *REFERENCES.values()], ids=lambda record: record.name)
def test_batches_of_nothing_and_of_rejections(record: Record) -> None:
    for values in ([], [b"[]", b"x"]):
        batch = fetched(record, values)
        if record.is_event:
            landing = judge_events(decode_events(record, batch), References(), Judge([UNKNOWN, SERIAL]))
        else:
            landing = admit(References(), record, batch)
        assert landing.raw["reason"].to_pylist() == ["not_object", "not_json"][: len(values)]
        assert landing.typed.num_rows == landing.findings.num_rows == 0

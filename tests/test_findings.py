"""What is published when a finding first fires, and when its state changes."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

from schemas.tables import FINDING_EVENT
from sinks.findings import MOST_BYTES, history_messages, messages, smallest
from tests.landings import START, batch
from tests.settling import history, table

AT = datetime.fromisoformat("2026-03-01T10:00:00.5+09:00")
KNOWN = {("custody.site", 1): 3, ("custody.party", 0): 7}


def event(offset: int, finding_id: str = "f" * 32, **changes: Any) -> dict[str, Any]:
    return {
        "finding_id": finding_id,
        "rule_id": "gap.access.broker_unnamed",
        "rule_sha256": "ab",
        "severity": "medium",
        "subject": "party:P",
        "message": f"message {offset}",
        "party_id": "P",
        "allocation_id": None,
        "source": "s",
        "event_id": f"e{offset}",
        "topic": "custody.access",
        "partition": 0,
        "offset": offset,
        "occurred_at": START + timedelta(seconds=offset),
        "state": "provisional",
        **changes,
    }


def published(*events: dict[str, Any]) -> dict[str, Any]:
    found = messages(batch(events, FINDING_EVENT), KNOWN, AT)
    return {key.decode(): json.loads(value) for key, value in found}


def test_a_message_is_a_finding_history_row() -> None:
    (value,) = published(event(4), event(2)).values()
    assert value == {
        "finding_id": "f" * 32,
        "rule_id": "gap.access.broker_unnamed",
        "rule_sha256": "ab",
        "kind": "gap",
        "severity": "medium",
        "link": "access",
        "subject": "party:P",
        "party_id": "P",
        "allocation_id": None,
        "first_at": "2026-03-01T00:00:02.000000Z",
        "last_at": "2026-03-01T00:00:04.000000Z",
        "events": 2,
        "detected_at": "2026-03-01T01:00:00.500000Z",
        "revision": 0,
        "state": "provisional",
        "supersedes": None,
        "message": "message 4",
        "evidence": [
            {"topic": "custody.access", "partition": 0, "offset": 2, "event_id": "e2"},
            {"topic": "custody.access", "partition": 0, "offset": 4, "event_id": "e4"},
        ],
        "known": [
            {"topic": "custody.party", "partition": 0, "offset": 7},
            {"topic": "custody.site", "partition": 1, "offset": 3},
        ],
        "suppressed": False,
    }


def test_there_is_one_message_a_finding_keyed_by_its_id() -> None:
    found = messages(batch([event(1, "b"), event(2, "a"), event(3, "b")], FINDING_EVENT), {}, AT)
    assert [key for key, _ in found] == [b"a", b"b"]
    assert published(event(1, "b"), event(2, "a"), event(3, "b"))["b"]["events"] == 2


def test_no_finding_no_message() -> None:
    assert messages(batch([], FINDING_EVENT), KNOWN, AT) == []


def test_events_that_disagree_leave_party_and_allocation_open() -> None:
    (value,) = published(event(1), event(2, party_id="Q", allocation_id="A")).values()
    assert value["party_id"] is None
    assert value["allocation_id"] is None
    (value,) = published(event(1), event(2, party_id=None)).values()
    assert value["party_id"] is None


def test_evidence_is_the_first_hundred_by_coordinates_and_repeats_count_once() -> None:
    rows = [event(offset, partition=partition) for offset in range(60) for partition in (1, 0)]
    (value,) = published(*rows, *rows).values()
    assert value["events"] == 120
    places = [(item["partition"], item["offset"]) for item in value["evidence"]]
    assert places == [(0, offset) for offset in range(60)] + [(1, offset) for offset in range(40)]


def test_times_are_utc_whatever_the_zone_of_the_detection() -> None:
    (value,) = published(event(1)).values()
    assert datetime.fromisoformat(value["detected_at"]) == AT.astimezone(UTC)


def test_a_row_of_the_history_is_published_in_the_same_shape() -> None:
    first = history("b", 1, first_at=None, suppressed=True)
    second = history("a", 2, state="confirmed", known=None)
    found = history_messages(table("finding_history", [first, second]))
    assert [key for key, _ in found] == [b"b", b"a"]
    one, other = (json.loads(value) for _, value in found)
    (landed,) = published(event(1)).values()
    assert set(one) == set(other) == set(landed)
    assert one["suppressed"] is True
    assert (one["first_at"], one["last_at"]) == (None, "2026-03-01T00:00:00.000000Z")
    assert (other["state"], other["revision"], other["supersedes"]) == ("confirmed", 2, 1)
    assert one["evidence"] == [{"topic": "custody.access", "partition": 0, "offset": 0, "event_id": "e0"}]
    assert (one["known"], other["known"]) == (first["known"], None)


def test_rows_read_back_from_the_lake_are_published_alike() -> None:
    rows = table("finding_history", [history("f", 1)])
    stamped = rows.append_column("step", pa.array([1])).append_column("ingested_at", pa.array([AT]))
    assert history_messages(stamped) == history_messages(rows)


def test_a_value_that_would_be_too_large_has_its_texts_cut_and_keeps_its_shape() -> None:
    rows = [
        event(n, event_id=f"e{n}" + "y" * 20_000, subject="principal:" + "x" * 600_000) for n in range(100)
    ]
    ((key, value),) = messages(batch(rows, FINDING_EVENT), KNOWN, AT)
    found = json.loads(value)
    assert key == b"f" * 32 and len(value) <= MOST_BYTES
    assert found["subject"] == "principal:" + "x" * 490 + "… (cut; whole in the lake)"
    assert [place["offset"] for place in found["evidence"]] == list(range(100))
    assert found["evidence"][7]["event_id"] == "e7" + "y" * 498 + "… (cut; whole in the lake)"
    (plain,) = published(event(1)).values()
    assert (found["finding_id"], found["known"], found["events"]) == ("f" * 32, plain["known"], 100)
    assert set(found) == set(plain)


def test_a_row_of_the_history_is_bounded_alike_whatever_its_characters() -> None:
    evidence = [{"topic": "t", "partition": 0, "offset": n, "event_id": "\x01" * 9_000} for n in range(100)]
    row = history("f", 1, evidence=evidence, message="\x01" * 99_999)
    ((_, value),) = history_messages(table("finding_history", [row]))
    assert len(value) <= MOST_BYTES
    assert json.loads(value)["message"] == "\x01" * 500 + "… (cut; whole in the lake)"


def test_the_smallest_value_says_which_finding_it_is_and_no_more_than_fits_anywhere() -> None:
    ((_, value),) = messages(batch([event(1, message="m" * 999)], FINDING_EVENT), KNOWN, AT)
    found, small = json.loads(value), json.loads(smallest(value))
    assert small == found | {
        "message": "m" * 100 + "… (cut; whole in the lake)",
        "evidence": [],
        "known": None,
    }
    assert smallest(smallest(value)) == smallest(value)

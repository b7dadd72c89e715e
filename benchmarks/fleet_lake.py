"""A lake of any length, landed without Kafka: a fleet with many open allocations, among which jobs run.

Rows are made as columns, so that fifty million events are there in minutes; what they say is as plain as the
reconciler's work allows: half the accesses name only their allocation, one event in a hundred fires a rule.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.columns import Ints, before_landing, filled, lists, named, same
from rules.pipeline import Landing, finding_id
from schemas.events import ACCESS, ALLOCATION, PLACEMENT
from schemas.record import TIME, Record
from schemas.reference import AUTHORIZATION, PARTY, PRINCIPAL, REFERENCES, SITE, SOURCE
from schemas.tables import FINDING_EVENT, RAW, typed
from sinks.lake import Lake

BATCH = 100_000
PARTITIONS = 4
PARTIES = 100_000
JOBS = 3_000  # allocated in each batch, and as many released
LIFE = 18  # batches that a job lives
SERIALS = 4  # of a job
START = 1_772_323_200_000_000  # 2026-03-01T00:00:00Z, µs
PAPERS = START - 20 * 86_400_000_000


@dataclass
class Fleet:
    """`standing` allocations are opened first and stay open, then jobs run; `rate` is in events a second."""

    standing: int
    rate: int
    next_offset: dict[str, int]

    def batches(self, events: int) -> Iterator[list[Landing]]:
        """Landings of BATCH events each."""
        for first in range(0, events, BATCH):
            if first < self.standing * 2:
                yield self._standing(first)
            else:
                yield self._running(first)

    def _standing(self, first: int) -> list[Landing]:
        index = np.arange(first // 2, (first + BATCH) // 2)
        at = first + 2 * np.arange(BATCH // 2)
        released = np.zeros(BATCH // 2, bool)
        allocated = self._allocation(at, named("F", index), index % PARTIES, released, lists("FS", index, 1))
        return [allocated, self._placement(at + 1, named("F", index), index)]

    def _running(self, first: int) -> list[Landing]:
        batch = first // BATCH
        began = self.standing * 2 // BATCH
        old = batch - LIFE if batch - LIFE >= began else None
        choose = np.random.default_rng(batch)
        starts = np.arange(batch * JOBS, (batch + 1) * JOBS)
        ends = np.arange(old * JOBS, (old + 1) * JOBS) if old is not None else starts[:0]
        at = first + np.arange(JOBS) * 8
        allocated = self._allocation(
            np.concatenate([at, at[: len(ends)] + 4]),
            named("J", np.concatenate([starts, ends])),
            np.concatenate([starts, ends]) % PARTIES,
            np.arange(len(starts) + len(ends)) >= len(starts),
            lists("JS", np.concatenate([starts, ends]) % (JOBS * (LIFE + 2)), SERIALS),
        )
        placed = self._placement(at + 2, named("J", starts), starts)
        rest = BATCH - len(starts) * 2 - len(ends)
        living = np.arange(max(began, batch - LIFE + 1) * JOBS, (batch + 1) * JOBS)
        job = choose.random(rest) < 0.5
        index = np.where(
            job, living[choose.integers(0, len(living), rest)], choose.integers(0, self.standing, rest)
        )
        number = first + np.sort(choose.integers(JOBS * 8, BATCH, rest))
        return [allocated, placed, self._access(number, job, index)]

    def _allocation(
        self, number: Ints, names: pa.Array, party: Ints, released: np.ndarray, serials: pa.Array
    ) -> Landing:
        return self._landing(
            ALLOCATION,
            number,
            {
                "allocation_id": names,
                "action": pc.if_else(pa.array(released), "released", "allocated"),
                "principal": named("corp:u", party),
                "authorization_id": named("AUTH-", party // 10),
                "site_id": same("S-1", len(number)),
                "model": same("NVIDIA H100 SXM", len(number)),
                "accelerators": pc.list_value_length(serials).cast(pa.int64()),
                "serials": serials,
                "requested_by": named("u", party),
                "party_id": named("P-", party),
            },
        )

    def _placement(self, number: Ints, names: pa.Array, index: Ints) -> Landing:
        return self._landing(
            PLACEMENT,
            number,
            {
                "allocation_id": names,
                "workload_id": pc.binary_join_element_wise("W", names, ""),
                "action": same("started", len(number)),
                "principal": named("corp:u", index % PARTIES),
                "authorization_id": named("AUTH-", index % PARTIES // 10),
                "site_id": same("S-1", len(number)),
                "party_id": named("P-", index % PARTIES),
            },
        )

    def _access(self, number: Ints, job: np.ndarray, index: Ints) -> Landing:
        whose = pa.array(number % 2 == 0)
        party = index % PARTIES
        names = pc.if_else(pa.array(job), named("J", index), named("F", index))
        nothing = pa.scalar(None, pa.string())
        return self._landing(
            ACCESS,
            number,
            {
                "allocation_id": names,
                "action": pc.if_else(pa.array(number % 16 == 0), "opened", "call"),
                "session_id": named("ses", number // 16),
                "method": same("direct", len(number)),
                "source_country": same("JP", len(number)),
                "source_ip": same("192.0.2.7", len(number)),
                "operation": same("inference", len(number)),
                "principal": pc.if_else(whose, named("corp:u", party), nothing),
                "authorization_id": pc.if_else(whose, named("AUTH-", party // 10), nothing),
                "party_id": pc.if_else(whose, named("P-", party), nothing),
            },
        )

    def _landing(self, record: Record, number: Ints, fields: dict[str, pa.Array]) -> Landing:
        rows = len(number)
        t = pa.array(START + number * (1_000_000 // self.rate)).cast(TIME)
        places = self._places(record, rows)
        fields["event_id"] = named("e", places["count"])
        fields |= {
            "occurred_at": t,
            "source": same(f"{record.name}/1", rows),
            "source_seq": pa.array(places["count"]),
            "broker_time": pc.add(t, pa.scalar(50_000, pa.duration("us"))),
            "topic": same(record.topic, rows),
            "partition": pa.array(places["partition"]),
            "offset": pa.array(places["offset"]),
            "future": same(False, rows),
            "verdicts": same([], rows, pa.list_(pa.string())),
        }
        table = filled(fields, before_landing(typed(record)), rows)
        raw = {name: fields[name] for name in ("topic", "partition", "offset", "broker_time")}
        raw |= {"value": same(b"{}", rows), "disposition": same("accepted", rows)}
        return Landing(filled(raw, before_landing(RAW), rows), table, _firings(record, table), record)

    def _places(self, record: Record, rows: int) -> dict[str, Ints]:
        first = self.next_offset.get(record.topic, 0)
        self.next_offset[record.topic] = first + rows
        count = np.arange(first, first + rows)
        return {
            "count": count,
            "partition": (count % PARTITIONS).astype(np.int32),
            "offset": count // PARTITIONS,
        }


def land(path: Path, events: int, standing: int, rate: int = 10_000) -> None:
    """A new lake of `events` events in commits of BATCH, the papers first; `rate` is in event time."""
    lake = Lake.open(path)
    known = _land_references(lake)
    fleet = Fleet(standing, rate, {})
    for landings in fleet.batches(events):
        before = {
            landing.record.topic: fleet.next_offset[landing.record.topic] - landing.raw.num_rows
            for landing in landings
        }
        transaction = lake.begin(datetime.now(UTC))
        ranges = {}
        for landing in landings:
            transaction.append(landing)
            topic = landing.record.topic
            for partition in range(PARTITIONS):
                start, end = (
                    (count - partition + PARTITIONS - 1) // PARTITIONS
                    for count in (before[topic], fleet.next_offset[topic])
                )
                ranges[topic, partition] = (start, end)
        transaction.commit(ranges, known)


def papers() -> dict[Record, list[dict[str, object]]]:
    """The reference versions: PARTIES verified parties with an account each, and what they use."""
    always = {"version": 1, "valid_from": PAPERS}
    parties = [
        {"party_id": f"P-{n}", "status": "verified", "screened_at": PAPERS, "hq_country": "JP", **always}
        for n in range(PARTIES)
    ]
    return {
        PARTY: parties,
        PRINCIPAL: [
            {"binding_id": f"b{n}", "principal": f"corp:u{n}", "party_id": f"P-{n}", **always}
            for n in range(PARTIES)
        ],
        AUTHORIZATION: [
            {"authorization_id": f"AUTH-{n}", "kind": "license", **always}
            | ({"max_accelerators": 1_000_000} if n % 10 == 0 else {})
            for n in range(PARTIES // 10)
        ],
        SITE: [{"site_id": "S-1", "country": "JP", **always}],
        SOURCE: [{"source": f"{name}/1", **always} for name in ("allocation", "access", "placement")],
    }


def version_rows(record: Record, rows: list[dict[str, object]], first: int) -> pa.RecordBatch:
    """Typed rows of reference versions at offsets from `first` in partition 0."""
    schema = before_landing(typed(record))
    made = [
        {**row, "topic": record.topic, "partition": 0, "offset": first + number, "broker_time": PAPERS}
        | {"sha256": number.to_bytes(32, "big")}
        for number, row in enumerate(rows)
    ]
    return pa.RecordBatch.from_pylist(made, schema=schema)


def land_versions(lake: Lake, record: Record, rows: list[dict[str, object]], first: int) -> int:
    """Lands versions, and returns their topic's next offset."""
    table = version_rows(record, rows, first)
    raw = {name: table[name] for name in ("topic", "partition", "offset", "broker_time")}
    raw |= {"value": same(b"{}", table.num_rows), "disposition": same("accepted", table.num_rows)}
    nothing = before_landing(FINDING_EVENT).empty_table().to_batches() or [
        pa.RecordBatch.from_pylist([], before_landing(FINDING_EVENT))
    ]
    transaction = lake.begin(datetime.now(UTC))
    transaction.append(Landing(filled(raw, before_landing(RAW), table.num_rows), table, nothing[0], record))
    transaction.commit({(record.topic, 0): (first, first + table.num_rows)}, {})
    return first + table.num_rows


def _land_references(lake: Lake) -> dict[tuple[str, int], int]:
    known = {(topic, 0): 0 for topic in REFERENCES}
    for record, rows in papers().items():
        known[record.topic, 0] = land_versions(lake, record, rows, 0)
    return known


def _firings(record: Record, table: pa.RecordBatch) -> pa.RecordBatch:
    """One access in a hundred, as a worker would have written it."""
    at = np.arange(0, table.num_rows, 100) if record is ACCESS else np.arange(0)
    rows = table.take(pa.array(at))
    rule, subjects = "gap.access.method_missing", same("source:access/1", len(at))
    fields = {
        name: rows[name] for name in ("topic", "partition", "offset", "source", "event_id", "occurred_at")
    }
    fields |= {name: rows[name] for name in ("party_id", "allocation_id")}
    fields |= {
        "finding_id": same(finding_id(rule, "source:access/1"), len(at)),
        "rule_id": same(rule, len(at)),
        "rule_sha256": same("0" * 64, len(at)),
        "severity": same("low", len(at)),
        "subject": subjects,
        "message": same("made for a benchmark", len(at)),
        "state": same("provisional", len(at)),
    }
    return filled(fields, before_landing(FINDING_EVENT), len(at))

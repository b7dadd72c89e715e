"""Reference versions by the million, made as columns: parties with their accounts and papers.

Each party is screened PARTY_VERSIONS times, and has ACCOUNTS accounts, one authorization and ASSETS
accelerators: a GROUP of versions. All are in order at any time after NOW.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from benchmarks.columns import Ints, before_landing, filled, named, same
from rules.pipeline import Landing
from schemas.record import TIME, Record
from schemas.reference import ASSET, AUTHORIZATION, PARTY, PRINCIPAL, REFERENCES, SITE, SOURCE
from schemas.tables import FINDING_EVENT, RAW, typed
from sinks.lake import Lake

PARTY_VERSIONS, ACCOUNTS, ASSETS = 3, 4, 2
GROUP = PARTY_VERSIONS + ACCOUNTS + 1 + ASSETS
MODEL = "NVIDIA H100 SXM"
SITES = ("ishikari-1", "tomakomai-2")
SOURCES = tuple(f"{name}/{SITES[0]}" for name in ("slurm", "kube", "power", "iam", "apigw", "bastion"))
BROKER = "P-broker"
"""Every party may be reached through it."""
COUNTRIES = ["AU", "BR", "CA", "DE", "FR", "GB", "JP", "KR", "NL", "SG", "US"]
ACCOUNT, SERIAL = "iam-isk1:user", "1652401"
"""What the names of accounts and serials begin with; their numbers follow."""
NOW = 1_772_323_200_000_000  # 2026-03-01T00:00:00Z, µs
DAY = 86_400_000_000
ROWS = 65_536  # of a batch, as the lake's files are read

Fields = dict[str, pa.Array]


def parties(count: int) -> int:
    """How many parties there are among so many versions."""
    return count // GROUP


def batches(count: int) -> Iterator[tuple[Record, pa.RecordBatch]]:
    """About `count` versions in batches of at most ROWS, each `typed(record)` without `ingested_at`.

    Offsets count from 0 in partition 0 of each record's topic. Every party's second version comes after all
    first ones.
    """
    known = parties(count)
    makers: tuple[tuple[Record, int, Callable[[Ints], Fields]], ...] = (
        (SITE, len(SITES), lambda n: {"site_id": pa.array(SITES), "country": same("JP", len(n))}),
        (SOURCE, len(SOURCES), lambda n: {"source": pa.array(SOURCES)}),
        (PARTY, known * PARTY_VERSIONS, lambda n: _party(n % known, n // known)),
        (PRINCIPAL, known * ACCOUNTS, _account),
        (AUTHORIZATION, known, _authorization),
        (ASSET, known * ASSETS, _asset),
    )
    for record, rows, fields in makers:
        for first in range(0, rows, ROWS):
            number = np.arange(first, min(first + ROWS, rows))
            yield record, _rows(record, number, fields(number))


def land(lake: Lake, count: int, commit_rows: int = 1_000_000) -> dict[str, int]:
    """Lands about `count` versions in commits of about `commit_rows`; returns the next offset of each topic.

    Their raw values say nothing: what a worker starts from are the typed tables.
    """
    ends = dict.fromkeys(REFERENCES, 0)
    transaction, starts = lake.begin(datetime.now(UTC)), dict(ends)
    for record, table in batches(count):
        transaction.append(_landing(record, table))
        ends[record.topic] += table.num_rows
        if transaction.rows >= commit_rows:
            transaction.commit(_ranges(starts, ends), {})
            transaction, starts = lake.begin(datetime.now(UTC)), dict(ends)
    transaction.commit(_ranges(starts, ends), {})
    return ends


def _ranges(starts: dict[str, int], ends: dict[str, int]) -> dict[tuple[str, int], tuple[int, int]]:
    return {(topic, 0): (starts[topic], end) for topic, end in ends.items() if end > starts[topic]}


def _landing(record: Record, table: pa.RecordBatch) -> Landing:
    raw = {name: table[name] for name in ("topic", "partition", "offset", "broker_time")}
    raw |= {"value": same(b"{}", table.num_rows), "disposition": same("accepted", table.num_rows)}
    nothing = pa.RecordBatch.from_pylist([], before_landing(FINDING_EVENT))
    return Landing(filled(raw, before_landing(RAW), table.num_rows), table, nothing, record)


def _party(party: Ints, screening: Ints) -> Fields:
    begins = _time(NOW - DAY - (PARTY_VERSIONS - 1 - screening) * 60 * DAY)
    rows = len(party)
    return {
        "party_id": named("P-", party),
        "version": pa.array(screening + 1),
        "valid_from": begins,
        "status": same("verified", rows),
        "role": same("end_user", rows),
        "legal_name": named("Company ", party),
        "country": same("JP", rows),
        "hq_country": same("JP", rows),
        "brokers": same([BROKER], rows, pa.list_(pa.string())),
        "verified_at": begins,
        "review_due_at": same(NOW + 365 * DAY, rows),
        "screened_at": begins,
        "screening_list": same("csl", rows),
        "screening_disposition": same("clear", rows),
    }


def _account(number: Ints) -> Fields:
    return {
        "binding_id": named("b", number),
        "principal": named(ACCOUNT, number),
        "party_id": named("P-", number // ACCOUNTS),
        "kind": same("human", len(number)),
    }


def _authorization(party: Ints) -> Fields:
    """Each holds for its party, with a report that is not due yet."""
    rows = len(party)
    report = pa.StructArray.from_arrays(
        [same("annual-report", rows), same(NOW + 365 * DAY, rows).cast(TIME), pa.nulls(rows, TIME)],
        ["condition_id", "due_at", "met_at"],
    )
    return {
        "authorization_id": named("AUTH-", party),
        "kind": same("license", rows),
        "party_ids": _alone(named("P-", party)),
        "models": _alone(same(MODEL, rows)),
        "site_ids": same(list(SITES), rows, pa.list_(pa.string())),
        "methods": same(["direct", "brokered", "remote"], rows, pa.list_(pa.string())),
        "remote_countries": same(COUNTRIES, rows, pa.list_(pa.string())),
        "conditions": _alone(report),
    }


def _asset(number: Ints) -> Fields:
    rows = len(number)
    return {
        "serial": named(SERIAL, number),
        "model": same(MODEL, rows),
        "lot_id": named("LOT-", number // 100),
        "received_at": same(NOW - 200 * DAY, rows),
        "site_id": same(SITES[0], rows),
        "status": same("installed", rows),
    }


def _rows(record: Record, number: Ints, fields: Fields) -> pa.RecordBatch:
    """The rows with these numbers: what is said of them, and what every version bears."""
    rows = len(number)
    digests = pa.py_buffer(np.random.default_rng(number[0]).bytes(32 * rows))
    always = {
        "version": same(1, rows),
        "valid_from": same(NOW - 300 * DAY, rows),
        "topic": same(record.topic, rows),
        "partition": same(0, rows),
        "offset": pa.array(number),
        "broker_time": same(NOW - DAY, rows),
        "sha256": pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), rows, [None, digests]),
    }
    return filled(always | fields, before_landing(typed(record)), rows)


def _time(micros: Ints) -> pa.Array:
    return pa.array(micros).cast(TIME)


def _alone(items: pa.Array) -> pa.Array:
    """Each item in a list of its own."""
    return pa.ListArray.from_arrays(pa.array(np.arange(len(items) + 1, dtype=np.int32)), items)

"""Reference versions as plain lists, and contract sections 3.1 and 3.2 as a plain search over them.

What `rules.references` and `rules.join` answer from an index is compared with this.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from schemas.record import Record
from schemas.tables import typed


@dataclass(frozen=True)
class Version:
    """A version, or with `number` None a tombstone that takes effect at `end`. Times are µs."""

    id: str
    number: int | None
    start: int
    end: int | None
    partition: int
    offset: int
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> tuple[int, int]:
        return self.partition, self.offset


def in_force(versions: Iterable[Version], id: str | None, t: int) -> Version | None:
    """The version of the id in force at `t`."""
    mine = [version for version in versions if version.id == id]
    covering = [
        version
        for version in mine
        if version.number is not None and version.start <= t and all(t < end for end in _ends(version, mine))
    ]
    # should two bear one number, the one with the lowest coordinates
    return max(covering, key=lambda v: (v.number, -v.partition, -v.offset), default=None)


def _ends(version: Version, mine: list[Version]) -> list[int]:
    ends = [] if version.end is None else [version.end]
    for other in mine:
        if other.number is None and other.partition == version.partition and other.offset > version.offset:
            assert other.end is not None
            ends.append(other.end)
    return ends


def candidates(
    bindings: list[Version], parties: list[Version], principal: str | None, t: int
) -> list[Version]:
    """The versions in force of the distinct parties that the principal's bindings in force name."""
    named = set()
    for binding in {version.id for version in bindings}:
        version = in_force(bindings, binding, t)
        if version is not None and version.fields["principal"] == principal:
            named.add(version.fields["party_id"])
    found = [in_force(parties, party, t) for party in sorted(named)]
    return [version for version in found if version is not None]


def batch(record: Record, versions: Iterable[Version]) -> pa.RecordBatch:
    """As `typed(record)` without `ingested_at`."""
    schema = pa.schema([item for item in typed(record) if item.name != "ingested_at"])
    rows = []
    for version in versions:
        tombstone = version.number is None
        row = {
            record.key[0]: version.id,
            "version": version.number,
            "valid_from": None if tombstone else version.start,
            "valid_to": None if tombstone else version.end,
            "tombstone_at": version.end if tombstone else None,
            "sha256": hashlib.sha256(
                repr((version.id, version.number, version.start, version.end, version.fields)).encode()
            ).digest(),
            "topic": record.topic,
            "partition": version.partition,
            "offset": version.offset,
            "broker_time": 1_000 + version.offset,
        }
        rows.append(row | version.fields)
    return pa.RecordBatch.from_pylist(rows, schema)

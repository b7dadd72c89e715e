"""Reference versions: which are held, and which is in force when (contract sections 2, 3.1, 3.2)."""

from dataclasses import dataclass
from typing import Any

from tests.plain.tables import IDS, REFERENCES, Column
from tests.plain.values import NotJsonError, Pairs, Reason, decode, decode_object, parse

TOMBSTONE_AT = Column("tombstone_at", "time", required=True)


@dataclass
class Version:
    """One version of one reference thing, at its offset."""

    offset: int
    fields: dict[str, Any]

    @property
    def number(self) -> int:
        number = self.fields["version"]
        assert isinstance(number, int)
        return number


@dataclass(frozen=True)
class Tombstone:
    """A key that ends at a time."""

    offset: int
    key: tuple[str, ...]
    at: int


class Things:
    """All that is held of one kind of reference thing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.ids = IDS[kind]
        self.versions: dict[tuple[str, ...], list[Version]] = {}
        self.tombstones: dict[tuple[str, ...], list[Tombstone]] = {}
        self.by_principal: dict[str, set[tuple[str, ...]]] = {}

    def read(self, offset: int, payload: bytes) -> Version | Tombstone | Reason | None:
        """Take one line. None: an equal duplicate, accepted and not landed as a version."""
        tombstone = self._tombstone(offset, payload)
        if isinstance(tombstone, Tombstone):
            self.tombstones.setdefault(tombstone.key, []).append(tombstone)
        if tombstone is not None:
            return tombstone
        fields = decode(REFERENCES[self.kind], payload)
        if isinstance(fields, Reason):
            return fields
        key = tuple(fields[name] for name in self.ids)
        held = self.versions.setdefault(key, [])
        for version in held:
            if version.number == fields["version"]:
                return None if version.fields == fields else Reason("version_conflict")
        held.append(Version(offset, fields))
        if self.kind == "principal":
            self.by_principal.setdefault(fields["principal"], set()).add(key)
        return held[-1]

    def _tombstone(self, offset: int, payload: bytes) -> Tombstone | Reason | None:
        """A line with exactly the id and `tombstone_at`; None if it is not one."""
        if len(payload) > 1024 * 1024:
            return None
        try:
            value = parse(payload)
        except NotJsonError:
            return None
        if not isinstance(value, Pairs) or value.names() != {*self.ids, "tombstone_at"}:
            return None
        columns = REFERENCES[self.kind]
        by_name = {column.name: column for column in columns}
        fields = decode_object((*(by_name[name] for name in self.ids), TOMBSTONE_AT), value)
        if isinstance(fields, Reason):
            return fields
        return Tombstone(offset, tuple(fields[name] for name in self.ids), fields["tombstone_at"])

    def in_force(self, identifier: str | None, t: int) -> Version | None:
        """The version in force at `t` of an id of one part; the highest if several are."""
        if identifier is None:
            return None
        return self._in_force((identifier,), t)

    def _in_force(self, key: tuple[str, ...], t: int) -> Version | None:
        best = None
        for version in self.versions.get(key, []):
            began = version.fields["valid_from"] <= t
            ended = any(end <= t for end in self._ends(key, version))
            if began and not ended and (best is None or version.number > best.number):
                best = version
        return best

    def _ends(self, key: tuple[str, ...], version: Version) -> list[int]:
        """Its valid_to, and the tombstones above it."""
        ends = [stone.at for stone in self.tombstones.get(key, []) if version.offset < stone.offset]
        if version.fields["valid_to"] is not None:
            ends.append(version.fields["valid_to"])
        return ends

    def spans(self, identifier: str) -> list[tuple[int, int | None]]:
        """(start, end) of every version of an id of one part that is ever in force; no end: null."""
        spans = []
        for version in self.versions.get((identifier,), []):
            start, ends = version.fields["valid_from"], self._ends((identifier,), version)
            if not ends or min(ends) > start:
                spans.append((start, min(ends) if ends else None))
        return spans

    def bound_parties(self, principal: str, t: int) -> set[str]:
        """The parties that a principal's bindings in force at `t` name."""
        assert self.kind == "principal"
        parties = set()
        for key in self.by_principal.get(principal, ()):
            version = self._in_force(key, t)
            if version is not None and version.fields["principal"] == principal:
                parties.add(version.fields["party_id"])
        return parties

"""Reference versions in force at a time, in dictionaries of the process (contract sections 3.1 and 3.2)."""

import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.countries import country
from schemas.models import model_key
from sinks.views import connect

Fields = dict[str, Any]

_SPAN = "version, epoch_us(valid_from) AS starts, epoch_us(least(valid_to, ended_at)) AS ends"
_CONDITIONS = (
    "list_transform(conditions, lambda c: "
    "{condition_id: c.condition_id, due_at: epoch_us(c.due_at), met_at: epoch_us(c.met_at)}) AS conditions"
)
_COLUMNS = {
    "party": "party_id AS id, status, hq_country, parent_hq_country, screening_disposition, brokers, "
    "epoch_us(review_due_at) AS review_due_at, epoch_us(screened_at) AS screened_at",
    "principal": "binding_id AS id, principal, party_id",
    "authorization": "authorization_id AS id, party_ids, models, site_ids, methods, remote_countries, "
    + _CONDITIONS,
    "site": "site_id AS id",
    "asset": "serial AS id, model, site_id, status",
}
"""What the row rules ask of each kind of reference thing."""


class Versions:
    """The versions of one kind of thing, by id; each id's time is cut into spans of one version each."""

    def __init__(self, rows: Iterable[Fields]) -> None:
        """`rows` have `id`, `version`, and `starts` and `ends` in µs (no end: None)."""
        by_id: dict[str, list[Fields]] = {}
        for row in rows:
            by_id.setdefault(row["id"], []).append(row)
        self._spans = {identifier: _spans(versions) for identifier, versions in by_id.items()}

    def in_force(self, identifier: str | None, t: int) -> Fields | None:
        """The version in force at `t` (µs): the highest, if several are."""
        found = self._spans.get(identifier)  # type: ignore[arg-type]  # None is no id
        if found is None:
            return None
        starts, versions = found
        at = bisect_right(starts, t)
        return versions[at - 1] if at else None


def _spans(versions: Sequence[Fields]) -> tuple[list[int], list[Fields | None]]:
    """The starts of an id's spans, rising, and the version in force in each."""
    edges = sorted({v["starts"] for v in versions} | {v["ends"] for v in versions if v["ends"] is not None})
    best = []
    for edge in edges:
        active = [v for v in versions if v["starts"] <= edge and (v["ends"] is None or edge < v["ends"])]
        best.append(max(active, key=lambda v: int(v["version"]), default=None))
    return edges, best


@dataclass(frozen=True)
class References:
    """All reference things. `bindings` are the ids of the bindings that ever named a principal."""

    parties: Versions
    principals: Versions
    authorizations: Versions
    sites: Versions
    assets: Versions
    bindings: dict[str, list[str]]

    def parties_of(self, event: Fields, t: int) -> list[str]:
        """The parties in force at `t` that an event's party_id, else its principal, leads to."""
        named = event.get("party_id")
        if named is not None:
            return [named] if self.parties.in_force(named, t) is not None else []
        principal, found = event.get("principal"), []
        for binding in self.bindings.get(principal, ()):  # type: ignore[arg-type]  # None is no principal
            bound = self.principals.in_force(binding, t)
            if bound is not None and bound["principal"] == principal and bound["party_id"] not in found:
                found.append(bound["party_id"])
        return [party for party in found if self.parties.in_force(party, t) is not None]


def load(lake: Path) -> References:
    """Every version in the lake's reference tables, with models and countries in the form they compare in."""
    rows = {name: _rows(lake, name) for name in _COLUMNS}
    for row in rows["authorization"]:
        row["models"] = _each(model_key, row["models"])
        row["remote_countries"] = _each(country, row["remote_countries"])
    bindings: dict[str, list[str]] = {}
    for row in rows["principal"]:
        ids = bindings.setdefault(row["principal"], [])
        if row["id"] not in ids:
            ids.append(row["id"])
    return References(
        Versions(rows["party"]),
        Versions(rows["principal"]),
        Versions(rows["authorization"]),
        Versions(rows["site"]),
        Versions(rows["asset"]),
        bindings,
    )


def _rows(lake: Path, name: str) -> list[Fields]:
    query = f'SELECT {_SPAN}, {_COLUMNS[name]} FROM "{name}" WHERE version IS NOT NULL'
    with contextlib.closing(connect(lake)) as connection:
        found: Any = connection.sql(query).to_arrow_table()
    rows: list[Fields] = found.to_pylist()
    return rows


def _each(change: Any, values: list[str] | None) -> list[str] | None:
    return None if values is None else [change(value) for value in values]

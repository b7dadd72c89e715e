"""Coverage as plain loops over plain events, and a way to drive the engine with such events.

An event is a dict with `stream`, `t` (µs) and what coverage reads of its stream; a world is a list of
versions per reference record. Nothing here is shared with `rules.reconciler`.
"""

from collections import defaultdict
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow as pa

from rules.reconciler import coverage
from rules.references import References
from schemas.models import is_controlled, model_key
from schemas.reference import AUTHORIZATION, PARTY, PRINCIPAL, SITE
from tests.versions_model import Version, batch, candidates, in_force

Event = dict[str, Any]
Row = dict[str, Any]
World = dict[str, list[Version]]

RECORDS = {record.name: record for record in (PARTY, PRINCIPAL, AUTHORIZATION, SITE)}

_COMMON = [
    *((name, pa.string()) for name in ("allocation_id", "action", "source", "event_id")),
    ("t", pa.timestamp("us")),
    ("partition", pa.int32()),
    ("offset", pa.int64()),
]
_TEXTS = ("party_id_sent", "principal", "authorization_id", "model", "requested_by")
TABLES = {
    "allocation": pa.schema(
        [
            *_COMMON,
            *((name, pa.string()) for name in _TEXTS),
            ("accelerators", pa.int64()),
            ("serials", pa.list_(pa.string())),
        ]
    ),
    "recent_access": pa.schema([*_COMMON, ("method", pa.string())]),
    "placement": pa.schema([*_COMMON, ("workload_id", pa.string()), ("site_id", pa.string())]),
}
STREAMS = dict(zip(("allocation", "access", "placement"), TABLES, strict=True))
_NARROW = pa.schema([("stream", pa.string()), ("t", pa.timestamp("us")), ("allocation_id", pa.string())])
_REACH = pa.schema([("allocation_id", pa.string()), ("from_t", pa.timestamp("us"))])


def order(event: Event) -> tuple[Any, ...]:
    return (event["t"], event["source"], event["event_id"], event["partition"], event["offset"])


def pieces(events: list[Event], world: World, now: int) -> list[Row]:
    """What coverage is, of these events and versions, at the watermark `now`."""
    found = []
    for id in sorted({event["allocation_id"] for event in events if event["allocation_id"] is not None}):
        mine = [event for event in events if event["allocation_id"] == id and event["t"] <= now]
        cuts = sorted({event["t"] for event in mine})
        for start, end in pairwise([*cuts, now]):
            chain = _open_by(mine, start)
            if chain is not None and start < end:
                found.append(_piece(mine, chain, world, start, end))
    return found


def _open_by(mine: list[Event], at: int) -> Event | None:
    """The allocated event in effect, if the allocation is open."""
    allocated = [
        e for e in mine if e["stream"] == "allocation" and e["action"] == "allocated" and e["t"] <= at
    ]
    if not allocated:
        return None
    chain = max(allocated, key=order)
    released = (e for e in mine if e["stream"] == "allocation" and e["action"] == "released")
    return None if any(chain["t"] <= e["t"] <= at for e in released) else chain


def _piece(mine: list[Event], chain: Event, world: World, start: int, end: int) -> Row:
    if chain["party_id_sent"] is not None:
        version = in_force(world["party"], chain["party_id_sent"], start)
        parties = [version] if version else []
    else:
        parties = candidates(world["principal"], world["party"], chain["principal"], start)
    party = parties[0] if len(parties) == 1 else None
    how = chain["requested_by"] is not None or any(
        e["stream"] == "access"
        and e["action"] in ("opened", "call")
        and e["method"] is not None
        and chain["t"] <= e["t"] <= end
        for e in mine
    )
    in_effect = []
    placements = [e for e in mine if e["stream"] == "placement" and e["t"] <= start]
    for workload in {e["workload_id"] for e in placements}:
        latest = max((e for e in placements if e["workload_id"] == workload), key=order)
        if latest["action"] != "stopped":
            in_effect.append(latest)
    placed = [e for e in in_effect if in_force(world["site"], e["site_id"], start)]
    site = max(placed, key=order)["site_id"] if placed else None
    links = {
        "who": party is not None and party.fields["status"] == "verified",
        "how": how,
        "where": bool(placed),
        "under_what": not is_controlled(chain["model"])
        or _covers(
            in_force(world["authorization"], chain["authorization_id"], start), party, chain, in_effect
        ),
    }
    accelerators = chain["accelerators"]
    if accelerators is None:
        accelerators = len(chain["serials"] or []) or 1
    return {
        "allocation_id": chain["allocation_id"],
        "party_id": party and party.id,
        "site_id": site,
        "model": chain["model"],
        "accelerators": accelerators,
        "from_at": start,
        "to_at": end,
        **links,
        "reasons": [name for name, there in links.items() if not there],
    }


def _covers(version: Version | None, party: Version | None, chain: Event, in_effect: list[Event]) -> bool:
    if version is None:
        return False
    parties, models, sites = (version.fields[name] for name in ("party_ids", "models", "site_ids"))
    return (
        (parties is None or (party is not None and party.id in parties))
        and (
            models is None
            or (chain["model"] is not None and model_key(chain["model"]) in [model_key(m) for m in models])
        )
        and (sites is None or all(e["site_id"] in sites for e in in_effect))
    )


def by_site(pieces: list[Row]) -> dict[str, float]:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for piece in pieces:
        used = piece["accelerators"] * (piece["to_at"] - piece["from_at"])
        sums[piece["site_id"] or "unknown"][0] += used
        sums[piece["site_id"] or "unknown"][1] += 0 if piece["reasons"] else used
    return {site: covered / used for site, (used, covered) in sums.items() if used}


class Engine:
    """The engine on events handed in step by step, and what a reader of the lake would then see."""

    def __init__(self) -> None:
        self.con = duckdb.connect(":memory:")
        coverage.create(self.con)
        self.coverage = coverage.Coverage(self.con)
        self.references = References(coverage.COLUMNS)
        self.events: list[Event] = []
        self.world: World = {name: [] for name in RECORDS}
        self.now: int | None = None
        self.step_number = 0
        self.rows: list[Row] = []

    def step(
        self,
        events: list[Event],
        now: int | None,
        versions: World | None = None,
        gone: list[Event] | None = None,
        noted: bool = False,
        rolled_back: bool = False,
    ) -> list[Row]:
        """One step; returns the rows it wrote. `noted`: a step whose rows nobody would write;
        `rolled_back`: the update is made twice, the first time for nothing."""
        versions, gone = versions or {}, gone or []
        self.events = [event for event in [*self.events, *events] if event not in gone]
        for name, added in versions.items():
            self.world[name] += added
            self.references.add(RECORDS[name], batch(RECORDS[name], added))
        self._fill(events, gone)
        self._reach([version for added in versions.values() for version in added])
        self.coverage.note()
        if noted:
            return []
        self.step_number += 1
        if rolled_back:
            self.con.execute("BEGIN")
            self.coverage.update(self.references, now, self.step_number, self._events_of)
            self.con.execute("ROLLBACK")
            self.coverage.forget()
        table = self.coverage.update(self.references, now, self.step_number, self._events_of)
        assert table.schema == coverage.SCHEMA
        self.now = now
        times = ("from_at", "to_at", "replaces_from")
        for name in times:
            table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(pa.int64()))
        rows = table.to_pylist()
        self.rows += rows
        return rows

    def seen(self) -> list[Row]:
        """The pieces as the lake's view gives them."""
        now = self.now
        pieces = []
        for row in self.rows:
            later = [
                other
                for other in self.rows
                if other["allocation_id"] == row["allocation_id"] and other["step"] > row["step"]
            ]
            void = row["from_at"] is None or any(
                other["replaces_from"] is not None and other["replaces_from"] <= row["from_at"]
                for other in later
            )
            if not void:
                piece = {name: value for name, value in row.items() if name not in ("replaces_from", "step")}
                if piece.pop("open"):
                    starts = [other["from_at"] for other in later if other["from_at"] is not None]
                    piece["to_at"] = min(starts, default=now)
                pieces.append(piece)
        return sorted(pieces, key=lambda piece: (piece["allocation_id"], piece["from_at"]))

    def _fill(self, events: list[Event], gone: list[Event]) -> None:
        """The tables that the engine reads: of accesses and placements only what is after the watermark."""
        for stream, table in STREAMS.items():
            held = [e for e in self.events if e["stream"] == stream]
            if stream != "allocation" and self.now is not None:
                held = [e for e in held if e["t"] > self.now]
            self._put(table, TABLES[table], held)
        self._put("new_event", _NARROW, events)
        self._put("gone_event", _NARROW, gone)

    def _put(self, table: str, schema: pa.Schema, rows: list[Row]) -> None:
        self.con.register("rows", pa.Table.from_pylist(rows, schema))
        self.con.execute(f"CREATE OR REPLACE TABLE {table} AS FROM rows")
        self.con.unregister("rows")

    def _reach(self, versions: list[Version]) -> None:
        """Every version reaches every allocation."""
        starts = [version.end if version.number is None else version.start for version in versions]
        ids = {event["allocation_id"] for event in self.events} - {None}
        rows = [{"allocation_id": id, "from_t": start} for id in ids for start in starts]
        self._put("reach_allocation", _REACH, rows)

    def _events_of(self, stream: str, table: str, column: str) -> str:
        asked = {id for (id,) in self.con.execute(f"SELECT {column} FROM {table}").fetchall()}
        held = [e for e in self.events if e["stream"] == stream and e["allocation_id"] in asked]
        self._put(f"every_{stream}", TABLES[STREAMS[stream]], held)
        return f"every_{stream}"

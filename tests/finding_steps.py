"""Steps of the reconciler as far as findings see them: what was found, what was judged, where time stands.

All events are of the topic `t`, partition 0; a time is a number of minutes.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from rules.pipeline import finding_id
from rules.reconciler import findings
from rules.rule import Kind, Rule, Status, load
from rules.suppressions import Suppression
from schemas.tables import COORDINATES, FINDING_EVENT
from tests.rule_files import RULE, write

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE = 60_000_000  # µs

ROW, CHAIN, TRIAL = "flag.access.row", "gap.access.chain", "gap.access.trial"
SILENT, HOLE = "gap.source.silent", "gap.source.sequence_hole"
CONFLICT, REJECTED = "gap.source.id_conflict", "gap.source.rejected"

_DESIRED = pa.schema(
    [
        *((name, pa.string()) for name in ("rule_id", "subject")),
        *COORDINATES,
        *((name, pa.string()) for name in ("source", "event_id")),
        *((name, pa.timestamp("us")) for name in ("t", "due")),
        *((name, pa.string()) for name in ("party_id", "allocation_id")),
        ("confirmed", pa.bool_()),
    ]
)
_SUBJECT = pa.schema([("rule_id", pa.string()), ("subject", pa.string())])
_ID = pa.schema([("source", pa.string()), ("event_id", pa.string())])


def rules(folder: Path) -> list[Rule]:
    """A rule of each sort that is judged in its own way, and an experimental one."""
    base = replace(load(write(folder, RULE)), message="{subject} over {limit}")
    kinds = {ROW: Kind.ROW, CHAIN: Kind.DEADLINE, TRIAL: Kind.ROW, SILENT: Kind.DEADLINE, HOLE: Kind.DEADLINE}
    kinds |= {CONFLICT: Kind.SWEEP, REJECTED: Kind.SWEEP}
    return [
        replace(base, id=name, kind=kind, status=Status.EXPERIMENTAL if name == TRIAL else Status.STABLE)
        for name, kind in kinds.items()
    ]


def minute(at: float | None) -> datetime | None:
    """A time as a number of minutes."""
    return None if at is None else EPOCH + timedelta(minutes=at)


@dataclass(frozen=True)
class Firing:
    """One row of `desired`. An `offset` of None: there is no event."""

    rule: str
    subject: str
    offset: int | None
    t: float | None = None
    due: float | None = None
    party: str | None = None
    allocation: str | None = None
    source: str = "s"
    at_once: bool = False

    @property
    def row(self) -> dict[str, object]:
        here = self.offset is not None
        naive = [None if at is None else at.replace(tzinfo=None) for at in (minute(self.t), minute(self.due))]
        return {
            "rule_id": self.rule,
            "subject": self.subject,
            "topic": "t" if here else None,
            "partition": 0 if here else None,
            "offset": self.offset,
            "source": self.source,
            "event_id": f"e{self.offset}" if here else None,
            "t": naive[0],
            "due": naive[1],
            "party_id": self.party,
            "allocation_id": self.allocation,
            "confirmed": self.at_once,
        }

    @property
    def worker_row(self) -> dict[str, object]:
        return {
            **{name: self.row[name] for name in ("rule_id", "subject", "party_id", "allocation_id")},
            **{name: self.row[name] for name in ("source", "event_id", "topic", "partition", "offset")},
            "finding_id": finding_id(self.rule, self.subject),
            "rule_sha256": "other",
            "severity": "low",
            "message": "other words",
            "occurred_at": minute(self.t),
            "state": "provisional",
        }


@dataclass(frozen=True)
class Step:
    """What one step found and judged; offsets stand for events."""

    found: Iterable[Firing] = ()
    workers: Collection[Firing] = ()
    new: Collection[int] = ()
    row: Collection[int] = ()
    chain: Collection[int] = ()
    subject: Collection[tuple[str, str]] = ()
    ids: Collection[tuple[str, str]] = ()
    gone: Collection[int] = ()
    party: Mapping[int, str | None] = field(default_factory=dict)


class Engine:
    """The findings of one reconciler, and a lake that takes what it puts out."""

    def __init__(self, every: list[Rule], suppressions: tuple[Suppression, ...] = ()) -> None:
        self.con = duckdb.connect(config={"threads": "1"})
        self.con.execute("SET TimeZone = 'UTC'")
        self.suppressions = suppressions
        findings.create(self.con, every)

    def take(self, step: Step) -> None:
        """One step without settling."""
        tables = {
            "desired": pa.Table.from_pylist([firing.row for firing in step.found], _DESIRED),
            "judged_subject": pa.table([*_columns(step.subject, 2)], _SUBJECT),
            "judged_id": pa.table([*_columns(step.ids, 2)], _ID),
            "judged_party": _places(step.party)
            .append_column("party_id", pa.array(list(step.party.values()), pa.string()))
            .append_column("allocation_id", pa.nulls(len(step.party), pa.string())),
            "judged_row": _places(step.row),
            "judged_chain": _places(step.chain),
            "gone_event": _places(step.gone),
            "older_event": _places([offset for offset in step.party if offset not in step.new]),
        }
        for name, table in tables.items():
            self.con.register("given", table)
            self.con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM given")
            self.con.unregister("given")
        rows = [firing.worker_row for firing in step.workers]
        offsets = {firing.offset for firing in step.workers if firing.offset is not None}
        duplicates = _places(offsets - {*step.new})
        findings.absorb_workers(self.con, pa.Table.from_pylist(rows, FINDING_EVENT), duplicates)
        findings.replace(self.con)

    def settle(self, watermark: float | None, at: float, final: bool = False) -> findings.Emission:
        now = None if watermark is None else round(watermark * MINUTE)
        return findings.settle(
            self.con, now, round(at * MINUTE), final, {("custody.party", 0): 7}, self.suppressions
        )


def _places(offsets: Collection[int]) -> pa.Table:
    count = len(offsets)
    return pa.table([["t"] * count, [0] * count, list(offsets)], COORDINATES)


def _columns(rows: Collection[tuple[str, ...]], count: int) -> list[list[str]]:
    return [[row[number] for row in rows] for number in range(count)]


def event_lines(emission: findings.Emission) -> list[str]:
    """`subject offset state` of each row of finding_event."""
    return [f"{r['subject']} {r['offset']} {r['state']}" for r in emission.events.to_pylist()]


def history_lines(emission: findings.Emission) -> list[str]:
    """`subject revision state events` of each row of finding_history."""
    return [
        f"{r['subject']} {r['revision']} {r['state']} {r['events']}" for r in emission.history.to_pylist()
    ]

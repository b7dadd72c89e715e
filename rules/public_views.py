"""The views that deadline and sweep rules may read, as SQL over what the reconciler works out for a step.

Two sorts: a *judged* view has one row for each event (or hole, silence, …) that has to be judged now, and a
*context* view what may be held against it. Which events are judged at a step is the engine's affair, so a
rule reads exactly one judged view and meets the context by allocation; then what it finds of one event
depends on nothing but the records. docs/writing-a-deadline-rule.md describes every column.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.events import ACCESS, ALLOCATION, EVENTS, PLACEMENT

_PLACE = {"topic": "VARCHAR", "partition": "INTEGER", "offset": "BIGINT"}
_AT = {**_PLACE, "source": "VARCHAR", "event_id": "VARCHAR", "t": "TIMESTAMP"}
_JUDGED = {**_AT, "party_id": "VARCHAR", "allocation_id": "VARCHAR"}

TABLES: Mapping[str, Mapping[str, str]] = {
    "chain_scope_allocated": {
        **_JUDGED,
        "authorization_id": "VARCHAR",
        "model": "VARCHAR",
        "accelerators": "HUGEINT",
        "serials": "VARCHAR[]",
        "max_accelerators": "BIGINT",
        "others_open": "HUGEINT",
    },
    "chain_serial": {**_JUDGED, "serial": "VARCHAR", "held_by": "BIGINT"},
    "chain_scope_access": {
        **_JUDGED,
        "action": "VARCHAR",
        "own_party_id": "VARCHAR",
        "own_brokers": "VARCHAR[]",
        "allocated_at": "TIMESTAMP",
        "allocation_party_id": "VARCHAR",
        "allocation_brokers": "VARCHAR[]",
        "last_action": "VARCHAR",
    },
    "chain_scope_placement": {
        **_JUDGED,
        "action": "VARCHAR",
        "workload_id": "VARCHAR",
        "serials": "VARCHAR[]",
        "allocated_at": "TIMESTAMP",
        "allocation_serials": "VARCHAR[]",
    },
    "context_placed": {"allocation_id": "VARCHAR", "t": "TIMESTAMP", "action": "VARCHAR"},
    "context_released": {"allocation_id": "VARCHAR", "t": "TIMESTAMP"},
    "scope_sequence_gap": {
        **_AT,
        "first": "BIGINT",
        "last": "BIGINT",
        "next_at": "TIMESTAMP",
        "sequenced": "BOOLEAN",
    },
    "scope_silence": {
        **_AT,
        "since": "TIMESTAMP",
        "from_at": "TIMESTAMP",
        "to_at": "TIMESTAMP",
        "limit_s": "BIGINT",
    },
    "scope_same_id": {**_JUDGED, "apart_us": "BIGINT"},
    "scope_rejected": {**_PLACE, "reason": "VARCHAR"},
}
"""The step's temp tables that the views stand on: name → column → DuckDB type."""


@dataclass(frozen=True)
class View:
    """One public view: the table it stands on, its columns as SQL over that table, and which rows it leaves.

    `streams` are those whose events it holds. A context view has no `event`.
    """

    table: str
    columns: Mapping[str, str]
    streams: tuple[str, ...]
    where: str = ""
    context: bool = False

    @property
    def sql(self) -> str:
        """The view as one SELECT."""
        listed = ", ".join(f'{sql} AS "{name}"' for name, sql in self.columns.items())
        return f'SELECT {listed} FROM "{self.table}"{self.where and f" WHERE {self.where}"}'  # noqa: S608


def _event(table: str) -> str:
    """The struct of a table's row; null where the row points at no event. What the table lacks is null."""
    has = TABLES[table]
    fields = ", ".join(
        f'"{name}" := ' + (f'"{name}"' if name in has else f"CAST(NULL AS {kind})")
        for name, kind in _JUDGED.items()
    )
    return f"CASE WHEN topic IS NOT NULL THEN struct_pack({fields}) END"


def _plain(table: str, *without: str) -> dict[str, str]:
    """`event`, and the table's other columns as they are."""
    hidden = {*_PLACE, "source", "event_id", *without}
    return {"event": _event(table), **{name: f'"{name}"' for name in TABLES[table] if name not in hidden}}


def _lists(table: str, *names: str) -> dict[str, str]:
    """List columns of which null means that there is nothing: such a null is an empty list."""
    return {**_plain(table), **{name: f'coalesce("{name}", [])' for name in names}}


_ALL = tuple(record.name for record in EVENTS.values())
_ACCESSED = _lists("chain_scope_access", "own_brokers", "allocation_brokers")
_LONGEST_S = 10**12  # of a silence; longer than all time there is, and its µs still fit

VIEWS: Mapping[str, View] = {
    "allocated": View(
        "chain_scope_allocated", _lists("chain_scope_allocated", "serials"), (ALLOCATION.name,)
    ),
    "allocated_serial": View("chain_serial", _plain("chain_serial"), (ALLOCATION.name,)),
    "accessed": View("chain_scope_access", _ACCESSED, (ACCESS.name,)),
    "opened": View("chain_scope_access", _ACCESSED, (ACCESS.name,), where="action = 'opened'"),
    "placement": View(
        "chain_scope_placement",
        _lists("chain_scope_placement", "serials", "allocation_serials"),
        (PLACEMENT.name,),
    ),
    "placed": View(
        "context_placed",
        {name: name for name in TABLES["context_placed"]},
        (PLACEMENT.name,),
        where="action IN ('started', 'moved')",
        context=True,
    ),
    "released": View(
        "context_released",
        {name: name for name in TABLES["context_released"]},
        (ALLOCATION.name,),
        context=True,
    ),
    "sequence_gap": View(
        "scope_sequence_gap", {**_plain("scope_sequence_gap", "t"), "source": "source"}, _ALL
    ),
    "silence": View(
        "scope_silence",
        {
            **_plain("scope_silence", "t", "limit_s"),
            "source": "source",
            "silence_limit": "CASE WHEN limit_s IS NOT NULL THEN to_microseconds("
            f"greatest(least(limit_s, {_LONGEST_S}), 0) * 1000000) END",
        },
        _ALL,
    ),
    "same_id": View(
        "scope_same_id",
        {
            **_plain("scope_same_id", "apart_us"),
            "source": "source",
            "event_id": "event_id",
            "apart": "to_microseconds(apart_us)",
        },
        _ALL,
    ),
    "rejected": View("scope_rejected", {**_plain("scope_rejected"), "topic": "topic"}, _ALL),
}

SILENT, HOLE = "gap.source.silent", "gap.source.sequence_hole"
CONFLICT, REJECTED = "gap.source.id_conflict", "gap.source.rejected"

CORE: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "sequence_gap": (HOLE, ("source", "first")),
    "silence": (SILENT, ("source", "since")),
    "same_id": (CONFLICT, ("source", "event")),
    "rejected": (REJECTED, ("topic", "reason")),
}
"""View → id and subject of the one rule over it: what was judged again is known by these (`firings`), so that
another rule's findings would never be withdrawn."""

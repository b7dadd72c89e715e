"""Incidents that take the reconciler, timed so that what decides them happens at chosen moments of a run.

Times are µs since the run's start. Event times are real time, so the watermark runs the lateness behind: what
it shall reach at a moment lies before the start, and is shipped when the run begins.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paced import Extra
from stream.simulation.clock import MINUTE, SECOND
from stream.simulation.columns import ARRIVAL, AT
from stream.simulation.stage import Stage
from stream.simulation.world import IAM, IAM_REALM, Fields, World

LATENESS = 10 * MINUTE
SILENCE_S = 30
REASONS: tuple[tuple[str, Fields], ...] = (
    ("enum:method", {"method": "telnet"}),
    ("enum:action", {"action": "taken"}),
    ("type:mfa", {"mfa": "yes"}),
    ("type:bytes_out", {"bytes_out": -1}),
    ("type:source_seq", {"source_seq": "next"}),
)
"""A finding of rejected records is one of a topic and a reason."""


@dataclass(frozen=True)
class Incident:
    """`subject` without a `since`. `kind` says what decides it, and `at` when:

    `sweep`: when the last record that it takes is shipped; `through`: when the allocation `through` is;
    `deadline`: the event time that the watermark must reach; `silence`: the broker time at which a source has
    been silent for long enough.
    """

    kind: str
    rule_id: str
    subject: str
    at: int
    through: str = ""


@dataclass(frozen=True)
class Planted:
    incidents: Sequence[Incident]
    extras: Sequence[Extra]


Builder = Callable[[World, int], tuple[Incident, list[Extra]]]


def plant(world: World, moments: Sequence[float], until: float) -> Planted:
    """One incident of each sort for each moment (seconds), which lie apart; the run ends at `until`."""
    incidents, extras = [], []
    for builder, moment in _spread(moments):
        incident, records = builder(world, int(moment * SECOND))
        incidents.append(incident)
        extras += [record for record in records if record.send <= until * SECOND]
    for number, moment in enumerate(moments):
        incident, records = _hole(world, int(moment * SECOND), number, int(until))
        incidents.append(incident)
        extras += records
    extras.extend(_rejected(world, moments, incidents))
    return Planted(incidents, extras)


def _spread(moments: Sequence[float]) -> Iterator[tuple[Builder, float]]:
    """The sorts one after the other within a moment, so that they are not decided by one step."""
    for moment in moments:
        for number, builder in enumerate(_BUILDERS):
            yield builder, moment + number / len(_BUILDERS) * 10


def _extra(row: tuple[str, dict[str, Any]], send: int | None = None) -> Extra:
    stream, fields = row
    at = int(fields[AT])
    kept = {name: value for name, value in fields.items() if name not in (AT, ARRIVAL)}
    key = kept.get("allocation_id") or kept.get("principal") or kept["source"]
    return Extra(f"custody.{stream}", key, kept, at, max(0, at) if send is None else send)


def _rows(stage: Stage, *names: str) -> list[Extra]:
    return [_extra(stage.rows[name]) for name in names]


# --- what the watermark must reach ---


def _never_placed(world: World, moment: int) -> tuple[Incident, list[Extra]]:
    due = moment - LATENESS
    stage = Stage(world, due - 15 * MINUTE, due + 60 * MINUTE)
    incident = Incident("deadline", "gap.location.no_placement", f"allocation:{stage.allocation_id}", due)
    return incident, _rows(stage, "allocated")


def _after_release(world: World, moment: int) -> tuple[Incident, list[Extra]]:
    due = moment - LATENESS
    stage = Stage(world, due - 20 * MINUTE, due - 2 * MINUTE)
    stage.add("late-call", "call", due, {})
    incident = Incident("deadline", "flag.access.after_release", f"allocation:{stage.allocation_id}", due)
    return incident, _rows(stage, *stage.rows)


def _no_allocation(world: World, moment: int) -> tuple[Incident, list[Extra]]:
    due = moment - LATENESS
    stage = Stage(world, due - 20 * MINUTE, due + 60 * MINUTE)
    nothing = {"allocation_id": f"{stage.allocation_id}-none", "authorization_id": None}
    opened = stage.add("stray", "opened", due, nothing)
    subject = f"event:{IAM}/{opened['event_id']}"
    return Incident("deadline", "gap.access.no_allocation", subject, due), _rows(stage, "stray")


def _phantom(world: World, moment: int) -> tuple[Incident, list[Extra]]:
    due = moment - LATENESS
    stage = Stage(world, due - 20 * MINUTE, due + 60 * MINUTE)
    phantom = f"{stage.allocation_id}-phantom"
    stage.add("phantom", "call", due, {"principal": None, "allocation_id": phantom, "authorization_id": None})
    incident = Incident("deadline", "gap.identity.unknown", f"allocation:{phantom}", due)
    return incident, _rows(stage, "phantom")


def _hole(world: World, moment: int, number: int, until: int) -> tuple[Incident, list[Extra]]:
    """Its source goes on all the time: one that stops would hold the watermark back."""
    due = moment - LATENESS
    stage = Stage(world, due - 20 * MINUTE, due + 60 * MINUTE)
    source = stage.new_source(f"audit{number}", ["access"])
    refused = {"action": "denied", "source": source, "allocation_id": None, "authorization_id": None}
    times = [due - MINUTE, due, *range(0, until * SECOND, SECOND)]
    for beat, at in enumerate(times):
        stage.add(f"beat{beat}", "opened", at, refused | {"source_seq": beat + 1 + (beat > 0)})
    incident = Incident("deadline", "gap.source.sequence_hole", f"source:{source}|first:2", due)
    return incident, _rows(stage, *(f"beat{beat}" for beat in range(len(times))))


# --- what broker time must reach ---


def _silent(world: World, moment: int) -> tuple[Incident, list[Extra]]:
    """Registered from a time within the run on, and never heard of."""
    source = f"bmc-{world.number()}/ishikari-1"
    record = {"source": source, "version": 1, "streams": ["access"], "silence_limit_s": SILENCE_S}
    registered = Extra("custody.source", source, record, moment - SILENCE_S * SECOND, 0, "valid_from")
    return Incident("silence", "gap.source.silent", f"source:{source}", moment), [registered]


# --- what a last record completes ---


def _serials_differ(world: World, moment: int) -> tuple[Incident, list[Extra]]:
    stage = Stage(world, moment - 5 * MINUTE, moment + 60 * MINUTE)
    spare, _ = stage.new_node()
    stage.change("started", serials=[*stage.node.serials[:-1], spare.serials[0]], **{AT: moment})
    incident = Incident("sweep", "gap.location.serials_differ", f"allocation:{stage.allocation_id}", moment)
    return incident, _rows(stage, "allocated", "started")


def _other_party(world: World, moment: int) -> tuple[Incident, list[Extra]]:
    stage = Stage(world, moment - 5 * MINUTE, moment + 60 * MINUTE)
    visitor = stage.bind(IAM_REALM, stage.new_party()[0]["party_id"])
    stage.authorization["party_ids"] = None
    stage.change("call", principal=visitor, **{AT: moment})
    subject = f"allocation:{stage.allocation_id}"
    incident = Incident("sweep", "flag.identity.access_party_mismatch", subject, moment)
    return incident, _rows(stage, "allocated", "started", "call")


def _too_many(world: World, moment: int) -> tuple[Incident, list[Extra]]:
    stage = Stage(world, moment - 5 * MINUTE, moment + 60 * MINUTE)
    stage.authorization["max_accelerators"] = 8
    node, _ = stage.new_node()
    stage.rows |= stage.allocation(
        f"{stage.allocation_id}-b", list(node.serials), moment, moment + 60 * MINUTE, ":b"
    )
    subject = f"authorization:{stage.authorization_id}"
    incident = Incident("sweep", "flag.authorization.quantity_exceeded", subject, moment)
    return incident, _rows(stage, "allocated", "started", "allocated:b", "started:b")


def _twice(world: World, moment: int) -> tuple[Incident, list[Extra]]:
    stage = Stage(world, moment - 5 * MINUTE, moment + 60 * MINUTE)
    serial = stage.node.serials[3]
    stage.rows |= stage.allocation(f"{stage.allocation_id}-b", [serial], moment, moment + 60 * MINUTE, ":b")
    incident = Incident("sweep", "flag.procurement.serial_double_allocated", f"serial:{serial}", moment)
    return incident, _rows(stage, "allocated", "started", "allocated:b", "started:b")


def _conflict(world: World, moment: int) -> tuple[Incident, list[Extra]]:
    stage = Stage(world, moment - 5 * MINUTE, moment + 60 * MINUTE)
    stage.change("call", **{AT: moment - MINUTE})
    event_id = stage.row("call")["event_id"]
    again = stage.add("again", "call", moment - MINUTE, {"event_id": event_id, "bytes_out": 1})
    assert again["event_id"] == event_id
    incident = Incident("sweep", "gap.source.id_conflict", f"source:{IAM}|event:{event_id}", moment)
    return incident, [*_rows(stage, "allocated", "started", "call"), _extra(stage.rows["again"], moment)]


def _through(world: World, moment: int) -> tuple[Incident, list[Extra]]:
    """A call that names only its allocation comes twenty seconds before what that is allocated to whom."""
    stage = Stage(world, moment - MINUTE, moment + 60 * MINUTE)
    stage.authorization["remote_countries"] = ["JP", "KR"]
    stage.change("call", principal=None, authorization_id=None, source_country="SG")
    stage.change("call", **{AT: moment - 20 * SECOND})
    subject = f"authorization:{stage.authorization_id}|country:SG"
    rule = "flag.access.country_outside_authorization"
    incident = Incident("through", rule, subject, moment, stage.allocation_id)
    return incident, [_extra(stage.rows["allocated"], moment), *_rows(stage, "call")]


def _rejected(world: World, moments: Sequence[float], incidents: list[Incident]) -> Iterator[Extra]:
    for moment, (reason, wrong) in zip(moments, REASONS, strict=False):
        at = int(moment * SECOND)
        stage = Stage(world, at - 5 * MINUTE, at + 60 * MINUTE)
        stage.change("call", **{AT: at}, **wrong)
        subject = f"topic:custody.access|reason:{reason}"
        incidents.append(Incident("sweep", "gap.source.rejected", subject, at))
        yield _extra(stage.rows["call"])


_BUILDERS: tuple[Builder, ...] = (
    _never_placed,
    _after_release,
    _no_allocation,
    _phantom,
    _silent,
    _serials_differ,
    _other_party,
    _too_many,
    _twice,
    _conflict,
    _through,
)

"""Incidents that take more than one record, or an absence: no row rule may fire on them."""

from stream.simulation.clock import MINUTE, SECOND, iso, subject_time
from stream.simulation.columns import AT
from stream.simulation.incident import RECONCILER, Found, incident
from stream.simulation.stage import Stage
from stream.simulation.world import IAM, IAM_REALM, Fields


@incident("gap.location.no_placement", RECONCILER)
def _never_placed(s: Stage) -> Found:
    del s.rows["started"], s.rows["stopped"]
    return (
        f"allocation:{s.allocation_id}",
        f"{s.name} holds eight accelerators and nothing says what runs on them.",
    )


@incident("flag.access.after_release", RECONCILER)
def _after_release(s: Stage) -> Found:
    s.add("late-call", "call", s.end + 2 * MINUTE, {"bytes_out": 12_884_901_888})
    sentence = f"{s.name} still moved 12 GB two minutes after its accelerators were released."
    return f"allocation:{s.allocation_id}", sentence


@incident("gap.access.no_allocation", RECONCILER)
def _no_allocation(s: Stage) -> Found:
    nothing: Fields = {"allocation_id": None, "authorization_id": None, "session_id": f"{s.allocation_id}-s2"}
    opened = s.add("stray-opened", "opened", s.start + 8 * MINUTE, nothing)
    s.add("stray-closed", "closed", s.start + 11 * MINUTE, nothing)
    return f"event:{IAM}/{opened['event_id']}", f"A session of {s.name} was opened for no allocation."


@incident("gap.location.serials_differ", RECONCILER)
def _serials_differ(s: Stage) -> Found:
    spare, _ = s.new_node()
    s.change("started", serials=[*s.node.serials[:-1], spare.serials[0]])
    sentence = f"{s.name}'s workload runs on {spare.serials[0]}, which it was not given."
    return f"allocation:{s.allocation_id}", sentence


@incident("flag.identity.access_party_mismatch", RECONCILER)
def _other_party(s: Stage) -> Found:
    other = s.new_party()[0]
    visitor = s.bind(IAM_REALM, other["party_id"])
    s.authorization["party_ids"] = None
    s.change("opened", "call", "closed", principal=visitor)
    sentence = f"{other['legal_name']} worked on what was allocated to {s.name}."
    return f"allocation:{s.allocation_id}", sentence


@incident("flag.authorization.quantity_exceeded", RECONCILER)
def _too_many(s: Stage) -> Found:
    s.authorization["max_accelerators"] = 8
    node, _ = s.new_node()
    second = f"{s.allocation_id}-b"
    s.rows |= s.allocation(second, list(node.serials), s.start + 5 * MINUTE, s.end + MINUTE, ":b")
    return f"authorization:{s.authorization_id}", f"{s.name} may hold 8 accelerators and held 16."


@incident("flag.procurement.serial_double_allocated", RECONCILER)
def _twice(s: Stage) -> Found:
    serial = s.node.serials[3]
    second = f"{s.allocation_id}-b"
    s.rows |= s.allocation(second, [serial], s.start + 5 * MINUTE, s.end - MINUTE, ":b")
    return f"serial:{serial}", f"Accelerator {serial} was in two allocations of {s.name} at once."


@incident("gap.source.silent", RECONCILER)
def _silent(s: Stage) -> Found:
    source = s.new_source("bmc", ["access"])
    s.world.references["source"][-1]["silence_limit_s"] = 900
    last = int(s.beats(source, s.world.start, s.start + 5 * MINUTE)[-1][AT])
    return f"source:{source}|since:{subject_time(last)}", f"{source} has said nothing since {iso(last)}."


@incident("gap.source.sequence_hole", RECONCILER)
def _hole(s: Stage) -> Found:
    source = s.new_source("audit", ["access"])
    beats = s.beats(source, s.world.start, s.world.end)
    for number, fields in enumerate(beats, 1):
        fields["source_seq"] = number if number <= 5 else number + 3
    return f"source:{source}|first:6", f"Three records of {source}, 6 to 8, never arrived."


@incident("gap.source.id_conflict", RECONCILER)
def _conflict(s: Stage) -> Found:
    again = s.add("call-again", "call", s.row("call")[AT], {"bytes_out": 1, "source_seq": None})
    again["event_id"] = s.row("call")["event_id"]
    sentence = f"Two records of {IAM} claim to be event {again['event_id']} and disagree."
    return f"source:{IAM}|event:{again['event_id']}", sentence


@incident("gap.source.rejected", RECONCILER)
def _rejected(s: Stage) -> Found:
    s.add("odd", "call", s.row("call")[AT] + SECOND, {"method": "telnet", "source_seq": None})
    return "topic:custody.access|reason:enum:method", f"{IAM} sent a method that there is not: telnet."


@incident("gap.identity.unknown", RECONCILER)
def _phantom(s: Stage) -> Found:
    phantom = f"isk1-z{s.number}"
    lost: Fields = {"principal": None, "allocation_id": phantom, "authorization_id": None}
    s.add("phantom", "call", s.row("call")[AT] + MINUTE, lost)
    return f"allocation:{phantom}", f"A call names only the allocation {phantom}, which there never was."

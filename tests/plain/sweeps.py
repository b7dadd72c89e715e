"""Sweep rules: those that need more than one record (contract section 4)."""

from collections import defaultdict

from tests.plain.chain import Chains, accelerators
from tests.plain.deadlines import Fires
from tests.plain.judge import DAY, resolve
from tests.plain.landed import Landed
from tests.plain.references import Things


def party_mismatch(event: Landed, chains: Chains, things: dict[str, Things]) -> Fires:
    """An access by a party that is not the allocation's, and neither names the other a broker."""
    own = event.judged.party_id
    if event.stream != "access" or event.action == "denied" or own is None:
        return
    allocated = chains.in_effect(event.allocation_id, event.t)
    if allocated is None:
        return
    its = resolve(allocated.fields, event.t, things)
    if its is None or its == own:
        return
    if own not in brokers(its, event.t, things) and its not in brokers(own, event.t, things):
        subject = f"allocation:{event.allocation_id}"
        yield "flag.identity.access_party_mismatch", subject, event, None


def brokers(party: str, t: int, things: dict[str, Things]) -> list[str]:
    version = things["party"].in_force(party, t)
    return [] if version is None else version.fields["brokers"] or []


def serials_differ(event: Landed, chains: Chains) -> Fires:
    """A placement that names a serial which its allocation does not, where both give serials."""
    if event.stream != "placement" or event.action == "stopped":
        return
    allocated = chains.in_effect(event.allocation_id, event.t)
    if allocated is None or not allocated.serials or not event.serials:
        return
    if set(event.serials) - set(allocated.serials):
        yield "gap.location.serials_differ", f"allocation:{event.allocation_id}", event, None


def quantity_exceeded(event: Landed, chains: Chains, things: dict[str, Things]) -> Fires:
    """More accelerators open under one authorization than its cap, the event's own always counted."""
    if not event.allocated:
        return
    version = things["authorization"].in_force(event.authorization_id, event.t)
    if version is None or version.fields["max_accelerators"] is None:
        return
    total = accelerators(event)
    for allocation_id in chains.allocated:
        other = chains.open_at(allocation_id, event.t) if allocation_id != event.allocation_id else None
        if other is not None and other.authorization_id == event.authorization_id:
            total += accelerators(other)
    if total > version.fields["max_accelerators"]:
        subject = f"authorization:{event.authorization_id}"
        yield "flag.authorization.quantity_exceeded", subject, event, None


class Serials:
    """Which allocations ever list a serial."""

    def __init__(self, chains: Chains) -> None:
        self.chains = chains
        self.listed: dict[str, set[str]] = defaultdict(set)
        for allocation_id, events in chains.allocated.items():
            for event in events:
                for serial in event.serials or []:
                    self.listed[serial].add(allocation_id)

    def double_allocated(self, event: Landed) -> Fires:
        """A serial that another allocation lists and has open."""
        if not event.allocated:
            return
        for serial in sorted(set(event.serials or [])):
            for allocation_id in self.listed[serial] - {event.allocation_id}:
                other = self.chains.open_at(allocation_id, event.t)
                if other is not None and serial in (other.serials or []):
                    yield "flag.procurement.serial_double_allocated", f"serial:{serial}", event, None
                    break


def id_conflicts(events: list[Landed]) -> Fires:
    """Events with one source and event_id whose times are within 7 days, which are no duplicates."""
    same: dict[tuple[str, str], list[Landed]] = defaultdict(list)
    for event in events:
        same[event.source, event.event_id].append(event)
    for (source, event_id), group in same.items():
        for event in group:
            if any(other is not event and abs(other.t - event.t) <= 7 * DAY for other in group):
                yield "gap.source.id_conflict", f"source:{source}|event:{event_id}", event, None

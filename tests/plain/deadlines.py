"""Deadline rules on what allocations lack (contract section 4); those on sources are in `sources`."""

from collections.abc import Iterator

from tests.plain.chain import Chains
from tests.plain.judge import MINUTE
from tests.plain.landed import Landed

QUARTER = 15 * MINUTE

Fires = Iterator[tuple[str, str, Landed, int | None]]
"""Rule id, subject, event, and when it is decided (null: at once)."""


def no_placement(event: Landed, chains: Chains) -> Fires:
    """No placement `started` or `moved` within 15 minutes of an `allocated`, nor a release soon after it."""
    if not event.allocated:
        return
    placed = any(
        placement.action in ("started", "moved") and abs(placement.t - event.t) <= QUARTER
        for placement in chains.placement.get(event.allocation_id, [])
    )
    release = chains.first_release(event.allocation_id, event.t)
    released = release is not None and release <= event.t + QUARTER
    if not placed and not released:
        yield (
            "gap.location.no_placement",
            f"allocation:{event.allocation_id}",
            event,
            event.t + QUARTER,
        )


def after_release(event: Landed, chains: Chains) -> Fires:
    """An access whose allocation's latest event is `released`, which comes last of several at one time."""
    if event.stream != "access" or event.action in ("closed", "denied") or event.allocation_id is None:
        return
    released = [other.t for other in chains.released.get(event.allocation_id, []) if other.t <= event.t]
    allocated = chains.in_effect(event.allocation_id, event.t)
    if released and (allocated is None or allocated.t <= released[-1]):
        yield "flag.access.after_release", f"allocation:{event.allocation_id}", event, event.t


def no_allocation(event: Landed, chains: Chains) -> Fires:
    """An access `opened` that names no allocation, or one that was never allocated by then."""
    if event.stream != "access" or event.action != "opened":
        return
    subject = f"event:{event.source}/{event.event_id}"
    if event.allocation_id is None:
        yield "gap.access.no_allocation", subject, event, None
    elif chains.in_effect(event.allocation_id, event.t) is None:
        yield "gap.access.no_allocation", subject, event, event.t

"""What the tenants do: the events of all allocations of a window, as columns per stream."""

from collections.abc import Iterable

import numpy as np

from schemas.events import ACCESS, ALLOCATION, PLACEMENT
from stream.simulation.access import accesses
from stream.simulation.clock import SECOND
from stream.simulation.columns import ARRIVAL, AT, Columns, collect
from stream.simulation.fleet import SISTER, SITE
from stream.simulation.plan import Allocation, plan
from stream.simulation.world import KUBE, POWER, SLURM, Fields, World

PER_ALLOCATION = 30
"""Events that one allocation stands for, accesses included."""
_RELEASE = ("completed", "completed", "completed", "cancelled", "failed", "timeout")


def generate(
    world: World, rng: np.random.Generator, start: int, end: int, events: int, first: int, drain: bool
) -> dict[str, Columns]:
    """`events` events between start and end, in no particular order.

    With `drain` every allocation that starts also ends within the window; else some go on after it, only
    what happens before `end` is there, and a few events are missing.
    """
    planned = plan(world, rng, start, end, max(1, events // PER_ALLOCATION), first, drain)
    allocations = collect(ALLOCATION.name, (row for a in planned for row in _allocation(a)))
    placements = collect(
        PLACEMENT.name, (row for a, chance in _chances(rng, planned) for row in _placement(a, chance))
    )
    left = events - len(allocations[AT]) - len(placements[AT])
    columns = {
        ALLOCATION.name: allocations,
        ACCESS.name: accesses(world, rng, planned, max(left, 0), start, end),
        PLACEMENT.name: placements,
    }
    for name, stream in columns.items():
        lag = np.clip(rng.lognormal(6.5, 0.9, len(stream[AT])), 20, 20_000).astype(np.int64) * 1000
        stream[ARRIVAL] = (np.array(stream[AT], np.int64) + lag).tolist()
        if not drain:
            columns[name] = _before(stream, end)
    return columns


def _before(columns: Columns, end: int) -> Columns:
    keep = [index for index, at in enumerate(columns[AT]) if at < end]
    if len(keep) == len(columns[AT]):
        return columns
    return {name: [column[index] for index in keep] for name, column in columns.items()}


def _allocation(a: Allocation) -> Iterable[Fields]:
    common: Fields = {
        "source": SLURM,
        "principal": a.account,
        "allocation_id": a.allocation_id,
        "authorization_id": a.permit.authorization_id,
        "site_id": SITE,
        "node": a.nodes[0].name,
        "model": a.model,
        "broker_id": a.tenant.broker_id,
        "cluster": "isk1",
    }
    yield common | {
        AT: a.start,
        "event_id": f"{a.number}.allocated",
        "action": "allocated",
        "accelerators": len(a.serials),
        "serials": list(a.serials),
        "requested_by": a.account,
        "approved_by": f"{a.tenant.party_id}:quota" if a.number % 3 else None,
        "state": "RUNNING",
    }
    yield common | {
        AT: a.end,
        "event_id": f"{a.number}.released",
        "action": "released",
        "state": _RELEASE[a.number % len(_RELEASE)],
    }


def _chances(rng: np.random.Generator, planned: list[Allocation]) -> Iterable[tuple[Allocation, list[float]]]:
    return zip(planned, rng.random((len(planned), 4)).tolist(), strict=True)


def _placement(a: Allocation, chance: list[float]) -> Iterable[Fields]:
    """Started, often moved within the site, seldom to the sister site (checked again there), stopped."""
    common: Fields = {
        "source": KUBE,
        "party_id": a.tenant.party_id,
        "allocation_id": a.allocation_id,
        "authorization_id": a.permit.authorization_id,
        "site_id": SITE,
        "workload_id": a.workload_id,
    }
    begun = a.start + 5 * SECOND + int(chance[0] * 80_000) * 1000
    ended = a.end - 2 * SECOND - int(chance[1] * 20_000) * 1000
    name = f"{a.workload_id}.started"
    started = {
        AT: begun,
        "event_id": name,
        "action": "started",
        "node": a.nodes[0].name,
        "reason": "scheduler",
    }
    yield common | started | {"serials": list(a.serials)}
    site = SITE
    if chance[2] < 0.35:
        moved = int(begun + (0.2 + 0.5 * chance[3]) * (ended - begun)) // 1000 * 1000
        row = common | {
            AT: moved,
            "event_id": f"{a.workload_id}.moved",
            "action": "moved",
            "from_site_id": SITE,
        }
        if chance[2] < 0.04 and a.permit.sister:
            site = SISTER
            yield row | {"site_id": SISTER, "reason": "capacity", "reverification_id": f"RV-{a.number}"}
        elif chance[2] < 0.2:  # the power manager knows the allocation and nothing of its tenant
            power = {"source": POWER, "party_id": None, "authorization_id": None}
            yield row | power | {"node": a.nodes[-1].name, "reason": "power"}
        else:
            yield row | {"node": a.nodes[-1].name, "reason": "maintenance"}
    yield common | {AT: ended, "event_id": f"{a.workload_id}.stopped", "action": "stopped", "site_id": site}

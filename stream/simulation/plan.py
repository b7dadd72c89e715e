"""Which allocations there are: when, for whom, on which nodes. A small scheduler without a queue."""

import heapq
from collections import deque
from dataclasses import dataclass

import numpy as np

from stream.simulation.clock import MINUTE, SECOND
from stream.simulation.fleet import NODE_SIZE, Node
from stream.simulation.world import Authorization, Tenant, World

SHORTEST = 12 * MINUTE
_NODES = np.array([1] * 12 + [2] * 4 + [4] * 2 + [8, 16])
_PARTIAL = (1, 2, 4)


@dataclass(frozen=True)
class Allocation:
    """One allocation. `end` may lie after the window; times are µs."""

    number: int
    start: int
    end: int
    tenant: Tenant
    permit: Authorization
    model: str
    nodes: tuple[Node, ...]
    serials: tuple[str, ...]
    account: str

    @property
    def allocation_id(self) -> str:
        return f"isk1-{self.number}"

    @property
    def workload_id(self) -> str:
        return f"wl-{self.number:x}-{self.start // SECOND % 65536:04x}"


def zipf(rng: np.random.Generator, population: int, count: int, exponent: float = 1.05) -> np.ndarray:
    """`count` ranks in [0, population), low ones far more often."""
    weights = 1.0 / np.arange(5, population + 5) ** exponent
    cumulated = np.cumsum(weights)
    return np.searchsorted(cumulated, rng.random(count) * cumulated[-1], side="right")


def plan(
    world: World, rng: np.random.Generator, start: int, end: int, count: int, first: int, drain: bool
) -> list[Allocation]:
    """At most `count` allocations between start and end, numbered from `first`.

    No serial is in two at once and no authorization goes over its cap. With `drain` all end before `end`.
    """
    span = end - start
    arrivals = np.sort(start + (rng.random(count) * 0.92 * span).astype(np.int64)) // 1000 * 1000
    typical = min(25 * MINUTE, span / 5)
    lengths = np.clip(rng.lognormal(np.log(typical), 0.8, count), SHORTEST, 0.6 * span).astype(np.int64)
    wanted, partial = rng.choice(_NODES, count), rng.choice(_PARTIAL, count)
    ranks = zipf(rng, len(world.tenants), 4 * count).tolist()
    picks = rng.integers(0, 1 << 30, count).tolist()
    running: list[tuple[int, int]] = []
    planned: list[Allocation] = []
    for index in range(count):
        now = int(arrivals[index])
        _release(world, running, planned, first, now)
        choice = _choose(world, ranks[4 * index : 4 * index + 4], picks[index])
        if choice is None:
            continue
        tenant, permit, model = choice
        free = world.fleet.free[model]
        if not free:  # nobody waits: the job goes elsewhere
            continue
        finish = now + int(lengths[index]) // 1000 * 1000
        if drain:
            finish = min(finish, end - 2 * SECOND)
        if finish - now < SHORTEST:
            break
        nodes, serials = _take(permit, free, int(wanted[index]), int(partial[index]))
        if not serials:
            continue
        account = tenant.schedulers[picks[index] % len(tenant.schedulers)]
        number = first + len(planned)
        planned.append(
            Allocation(number, now, finish, tenant, permit, model, tuple(nodes), tuple(serials), account)
        )
        heapq.heappush(running, (finish, number))
    if drain:
        _release(world, running, planned, first, end)
    return planned


def _release(
    world: World, running: list[tuple[int, int]], planned: list[Allocation], first: int, now: int
) -> None:
    """Frees what ended before `now`. Released at exactly now is not open at now, yet its start would tie."""
    while running and running[0][0] <= now:
        allocation = planned[heapq.heappop(running)[1] - first]
        allocation.permit.open -= len(allocation.serials)
        world.fleet.free[allocation.model].extend(allocation.nodes)


def _choose(world: World, ranks: list[int], pick: int) -> tuple[Tenant, Authorization, str] | None:
    """The first of a few tenants that may still take something."""
    for rank in ranks:
        tenant = world.tenants[rank]
        permit = tenant.authorizations[pick % len(tenant.authorizations)]
        if permit.cap is None or permit.open < permit.cap:
            return tenant, permit, permit.models[pick // 7 % len(permit.models)]
    return None


def _take(
    permit: Authorization, free: deque[Node], wanted: int, partial: int
) -> tuple[list[Node], list[str]]:
    """Whole nodes, or a part of one node that then belongs to this allocation alone."""
    room = 1 << 30 if permit.cap is None else permit.cap - permit.open
    count = min(wanted, len(free), max(1, room // NODE_SIZE))
    nodes = [free.popleft() for _ in range(count)]
    serials = [serial for node in nodes for serial in node.serials]
    if wanted == 1 and partial < 4:
        serials = serials[:partial]
    serials = serials[:room]
    permit.open += len(serials)
    return nodes, serials

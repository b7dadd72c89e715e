"""Which `allocated` event an allocation id stands for at a time, and whether it is open (3.2, section 4)."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable

from tests.plain.landed import Landed


def _time(event: Landed) -> int:
    return event.t


class Chains:
    """The events that name an allocation, by its id, each list in the order of section 3.2."""

    def __init__(self, events: Iterable[Landed]) -> None:
        self.allocated: dict[str, list[Landed]] = defaultdict(list)
        self.released: dict[str, list[Landed]] = defaultdict(list)
        self.access: dict[str, list[Landed]] = defaultdict(list)
        self.placement: dict[str, list[Landed]] = defaultdict(list)
        for event in sorted(events, key=lambda event: event.rank):
            if event.allocation_id is None:
                continue
            if event.stream == "allocation":
                kind = self.allocated if event.allocated else self.released
            else:
                kind = self.access if event.stream == "access" else self.placement
            kind[event.allocation_id].append(event)

    def in_effect(self, allocation_id: str | None, t: int) -> Landed | None:
        """The allocation's `allocated` event with the greatest time up to `t`, also after a release."""
        if allocation_id is None:
            return None
        events = self.allocated.get(allocation_id, [])
        upto = bisect_right(events, t, key=_time)
        return events[upto - 1] if upto else None

    def open_at(self, allocation_id: str, t: int) -> Landed | None:
        """The `allocated` event in effect at `t`, if no release came between it and `t`, both included."""
        allocated = self.in_effect(allocation_id, t)
        if allocated is None:
            return None
        release = self.first_release(allocation_id, allocated.t)
        return allocated if release is None or t < release else None

    def first_release(self, allocation_id: str, t: int) -> int | None:
        """When the allocation is first released at or after `t`."""
        events = self.released.get(allocation_id, [])
        after = bisect_left(events, t, key=_time)
        return events[after].t if after < len(events) else None


def accelerators(allocated: Landed) -> int:
    """How many an `allocated` event stands for."""
    if allocated.accelerators is not None:
        return int(allocated.accelerators)
    return len(allocated.serials or []) or 1

"""Coverage: every allocation's time in pieces, and which links each piece has (contract section 4)."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.plain.chain import Chains, accelerators
from tests.plain.judge import controlled, resolve, sku
from tests.plain.landed import Landed
from tests.plain.references import Things

LINKS = ("who", "how", "where", "under_what")


@dataclass(frozen=True)
class Piece:
    """One piece of one allocation."""

    allocation_id: str
    from_at: int
    to_at: int
    party_id: str | None
    site_id: str | None
    model: str | None
    accelerators: int
    who: bool
    how: bool
    where: bool
    under_what: bool

    @property
    def reasons(self) -> list[str]:
        """The links that are missing."""
        return [link for link in LINKS if not getattr(self, link)]


def pieces(chains: Chains, things: dict[str, Things], watermark: int | None) -> Iterator[Piece]:
    """All pieces up to the watermark."""
    if watermark is None:
        return
    for allocation_id in sorted(chains.allocated):
        for start, end in spans(allocation_id, chains, watermark):
            yield piece(allocation_id, start, end, chains, things)


def spans(allocation_id: str, chains: Chains, watermark: int) -> list[tuple[int, int]]:
    """When the allocation is open, cut at every event that names it."""
    streams = (chains.allocated, chains.released, chains.access, chains.placement)
    cuts = {event.t for stream in streams for event in stream.get(allocation_id, [])}
    times = sorted({t for t in cuts if t < watermark} | {watermark})
    # Between two cuts nothing happens to the allocation: it is open throughout if it is at the first.
    return [
        (start, end) for start, end in pairwise(times) if chains.open_at(allocation_id, start) is not None
    ]


def piece(allocation_id: str, start: int, end: int, chains: Chains, things: dict[str, Things]) -> Piece:
    allocated = chains.in_effect(allocation_id, start)
    assert allocated is not None
    party = resolve(allocated.fields, start, things)
    p = things["party"].in_force(party, start)
    used = any(
        access.action in ("opened", "call") and access.method is not None and allocated.t <= access.t <= end
        for access in chains.access.get(allocation_id, [])
    )
    placed = in_effect(allocation_id, start, chains)
    known = [placement for placement in placed if things["site"].in_force(placement.site_id, start)]
    return Piece(
        allocation_id=allocation_id,
        from_at=start,
        to_at=end,
        party_id=party,
        site_id=max(known, key=lambda placement: placement.rank).site_id if known else None,
        model=allocated.model,
        accelerators=accelerators(allocated),
        who=p is not None and p.fields["status"] == "verified",
        how=used or allocated.requested_by is not None,
        where=bool(known),
        under_what=not controlled(allocated.model) or covered(allocated, party, placed, start, things),
    )


def in_effect(allocation_id: str, t: int, chains: Chains) -> list[Landed]:
    """The latest placement of each workload at `t`, where it is `started` or `moved`."""
    latest = {}
    for placement in chains.placement.get(allocation_id, []):  # in the order of section 3.2
        if placement.t <= t:
            latest[placement.workload_id] = placement
    return [placement for placement in latest.values() if placement.action in ("started", "moved")]


def covered(
    allocated: Landed, party: str | None, placed: list[Landed], t: int, things: dict[str, Things]
) -> bool:
    """An authorization is in force that covers the party, the model and every site."""
    a = things["authorization"].in_force(allocated.authorization_id, t)
    if a is None:
        return False
    parties, models, sites = (a.fields[name] for name in ("party_ids", "models", "site_ids"))
    model = None if allocated.model is None else sku(allocated.model)
    return (
        (parties is None or party in parties)
        and (models is None or model in [sku(one) for one in models])
        and (sites is None or all(placement.site_id in sites for placement in placed))
    )


def covered_share(all_pieces: list[Piece]) -> float | None:
    """Accelerator-seconds with all four links over all; null where there are none."""
    whole = sum(one.accelerators * (one.to_at - one.from_at) for one in all_pieces)
    held = sum(one.accelerators * (one.to_at - one.from_at) for one in all_pieces if not one.reasons)
    return held / whole if whole else None

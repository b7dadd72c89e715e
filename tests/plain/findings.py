"""Firings, and the findings that they make: undecided, provisional or confirmed (3.7, section 4)."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tests.plain.landed import At


@dataclass(frozen=True)
class Firing:
    """A rule that fires on one event, or on none."""

    rule_id: str
    subject: str
    at: At | None
    """null: a silence of a source that never spoke"""
    t: int | None
    """the event's time; null: confirmed at once"""
    due: int | None = None
    """decided when the watermark reaches it; null: at once"""
    party_id: str | None = None
    allocation_id: str | None = None

    def state(self, watermark: int | None) -> str | None:
        """Null while it is not decided."""
        if self.due is not None and (watermark is None or watermark < self.due):
            return None
        if self.t is None or (watermark is not None and watermark >= self.t):
            return "confirmed"
        return "provisional"


@dataclass
class Finding:
    """All that fired of a rule with one subject."""

    state: str
    events: dict[At, str]
    """coordinates to the state of the event in it"""
    first_at: int | None
    last_at: int | None
    party_id: str | None
    allocation_id: str | None


def findings(firings: Iterable[Firing], watermark: int | None) -> dict[tuple[str, str], Finding]:
    """Findings by rule id and subject."""
    decided: dict[tuple[str, str], list[Firing]] = defaultdict(list)
    for firing in firings:
        if firing.state(watermark) is not None:
            decided[firing.rule_id, firing.subject].append(firing)
    return {key: _finding(group, watermark) for key, group in decided.items()}


def _finding(firings: list[Firing], watermark: int | None) -> Finding:
    states = [firing.state(watermark) for firing in firings]
    times = [firing.t for firing in firings if firing.t is not None]
    parties = {firing.party_id for firing in firings}
    allocations = {firing.allocation_id for firing in firings}
    return Finding(
        state="confirmed" if "confirmed" in states else "provisional",
        events={f.at: f.state(watermark) or "" for f in firings if f.at is not None},
        first_at=min(times, default=None),
        last_at=max(times, default=None),
        party_id=parties.pop() if len(parties) == 1 else None,
        allocation_id=allocations.pop() if len(allocations) == 1 else None,
    )

"""Accepted events that are no duplicates (contract section 1), in the orders that the rules use."""

from dataclasses import dataclass
from typing import Any

from tests.plain.judge import Judged
from tests.plain.scan import Scanned

At = tuple[str, int]
"""Topic and offset; in a scan the partition is 0."""


@dataclass(frozen=True, eq=False)
class Landed:
    """One event, with what was judged of it at landing."""

    at: At
    stream: str
    fields: dict[str, Any]
    broker_time: int
    judged: Judged

    def __getattr__(self, name: str) -> Any:
        """A field of the event; null where its stream has none of that name."""
        if name == "fields":
            raise AttributeError(name)
        return self.fields.get(name)

    @property
    def t(self) -> int:
        t = self.fields["occurred_at"]
        assert isinstance(t, int)
        return t

    @property
    def allocated(self) -> bool:
        return self.stream == "allocation" and self.action == "allocated"

    @property
    def released(self) -> bool:
        return self.stream == "allocation" and self.action == "released"

    @property
    def rank(self) -> tuple[int, str, str, int]:
        """The order of section 3.2 among events of one stream: the last of several is in effect."""
        return (self.t, self.source, self.event_id, self.at[1])

    @property
    def place(self) -> tuple[int, str, int]:
        """The order that chooses the event before a silence or a hole."""
        return (self.t, *self.at)


def duplicates(scanned: Scanned) -> dict[At, At]:
    """Each duplicate and its original: the lowest offset of an equal record of the stream."""
    originals: dict[tuple[Any, ...], At] = {}
    found = {}
    for at in sorted(scanned.events):
        fields, _ = scanned.events[at]
        key = (at[0], *(_comparable(value) for value in fields.values()))
        original = originals.setdefault(key, at)
        if original != at:
            found[at] = original
    return found


def _comparable(value: Any) -> Any:
    """Null and an empty list are the same; the order of a list counts."""
    if isinstance(value, list):
        return tuple(value) or None
    return value


def landed(scanned: Scanned, without: dict[At, At]) -> list[Landed]:
    """The accepted events but for the duplicates, by coordinates."""
    return [
        Landed(at, at[0].removeprefix("custody."), fields, scanned.broker_times[at], judged)
        for at, (fields, judged) in sorted(scanned.events.items(), key=lambda item: item[0])
        if at not in without
    ]

"""Draws, and records written in one of many spellings, for `tests.chains`."""

from collections.abc import Sequence
from typing import Any, TypeVar

from tests.broken import PAYLOADS, lacking, not_json, odd_enum, quoted, written
from tests.generate import DAY, MINUTE, SECOND, Maker
from tests.plain.tables import Column

HOUR = 60 * MINUTE
Record = dict[str, Any]
"""Named fields; times in µs since 1970; what is not in it is null."""

T = TypeVar("T")

__all__ = ["DAY", "HOUR", "MINUTE", "SECOND", "Record", "Writer"]


class Writer:
    """Randomness of one seed, and the spelling of records."""

    def __init__(self, seed: int) -> None:
        self.maker = Maker(seed)
        self.rng = self.maker.rng

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, values: Sequence[T]) -> T:
        return self.rng.choice(values)

    def near(self, at: int) -> int:
        """Mostly exactly there, else a microsecond beside it."""
        return at + self.pick([0] * 8 + [1, -1])

    def minutes(self, low: int, high: int) -> int:
        return self.rng.randint(low, high) * MINUTE

    def line(self, columns: Sequence[Column], record: Record, event: bool) -> bytes:
        """One spelling of a record."""
        pairs = []
        for column in columns:
            value = record.get(column.name)
            if event and column.kind == "strings" and not value and self.chance(0.3):
                pairs.append((quoted(column.name), "[]"))
            elif value is not None:
                pairs.append((quoted(self._name(column.name)), self._json(column, value)))
            elif self.chance(0.15):
                pairs.append((quoted(column.name), self.pick(["null", '""'])))
        if self.chance(0.03):
            pairs.append((quoted(self.pick(["tenant", "t", "Event_id"])), self.maker.wild()))
        return written(self.rng, pairs)

    def _name(self, name: str) -> str:
        return name.replace("o", "\\u006f", 1) if self.chance(0.02) else name

    def _json(self, column: Column, value: Any) -> str:
        if column.kind == "time":
            return quoted(self.maker.spelled(value))
        if column.kind == "objects":
            return f"[{','.join(self._object(column, item) for item in value)}]"
        return self.maker.text(value)

    def _object(self, column: Column, item: Record) -> str:
        pairs = [(inner, item[inner.name]) for inner in column.inner if item.get(inner.name) is not None]
        return (
            "{" + ",".join(f"{quoted(inner.name)}:{self._json(inner, value)}" for inner, value in pairs) + "}"
        )

    def rejected(self, columns: tuple[Column, ...], record: Record) -> bytes:
        """The record with a fault."""
        if self.chance(0.2):
            return self.pick(PAYLOADS)
        pairs = [
            (quoted(column.name), self._json(column, record[column.name]))
            for column in columns
            if record.get(column.name) is not None
        ]
        if self.chance(0.2):  # of the wrong type
            return written(self.rng, [*pairs, (quoted(columns[0].name), quoted("again"))])
        if self.chance(0.02):
            return written(self.rng, [*pairs, (quoted("padding"), quoted("x" * (1 << 20)))])
        return written(self.rng, self.pick([lacking, odd_enum, not_json])(self.rng, pairs, columns))

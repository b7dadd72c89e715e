"""Small scans written by hand: one call a record, and answers told by event_id instead of by offset."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.plain.history import History, judge_all
from tests.plain.values import time

Row = dict[str, Any]


def at(text: str) -> int:
    """µs since 1970 of `[day] hh[:mm…]`; without a day it is 2026-03-01."""
    day, _, rest = text.rpartition(" ")
    return time(f"{day or '2026-03-01'}T{rest}Z")


class Written:
    """The files of one scan. Times are written as for `at`; names of versions are as in the contract."""

    def __init__(self) -> None:
        self.lines: dict[str, list[str]] = defaultdict(list)
        self.ids: dict[tuple[str, int], str] = {}

    def line(self, file: str, text: str) -> None:
        """Any line at all."""
        self.lines[file].append(text)

    def version(self, kind: str, **fields: Any) -> None:
        """A version in force from 2026-01-01, number 1, unless said."""
        record: Row = {"version": 1, "valid_from": "2026-01-01 00", **fields}
        for name in ("valid_from", "valid_to", "tombstone_at", "review_due_at", "screened_at"):
            if isinstance(record.get(name), str):
                record[name] = self._spelled(record[name])
        self.line(kind, json.dumps(record))

    def tombstone(self, kind: str, when: str, **key: str) -> None:
        self.line(kind, json.dumps({**key, "tombstone_at": self._spelled(when)}))

    def party(self, party_id: str, **fields: Any) -> None:
        """A party without a fault."""
        usual = {"status": "verified", "hq_country": "JP", "screened_at": "2026-02-25 00"}
        self.version("party", party_id=party_id, **{**usual, **fields})

    def event(self, stream: str, event_id: str, when: str, /, **fields: Any) -> None:
        """An event of source `s` unless said."""
        self.ids[f"custody.{stream}", len(self.lines[stream])] = event_id
        record = {"event_id": event_id, "occurred_at": self._spelled(when), "source": "s", **fields}
        self.line(stream, json.dumps(record))

    def allocated(self, event_id: str, when: str, allocation_id: str = "X", /, **fields: Any) -> None:
        self.event("allocation", event_id, when, allocation_id=allocation_id, action="allocated", **fields)

    def released(self, event_id: str, when: str, allocation_id: str = "X", /, **fields: Any) -> None:
        self.event("allocation", event_id, when, allocation_id=allocation_id, action="released", **fields)

    def access(self, event_id: str, when: str, action: str = "opened", /, **fields: Any) -> None:
        """An access event that names allocation X and a method unless said."""
        usual = {"allocation_id": "X", "method": "direct"}
        self.event("access", event_id, when, action=action, **{**usual, **fields})

    def placed(self, event_id: str, when: str, action: str = "started", /, **fields: Any) -> None:
        """A placement of workload w of allocation X on site S unless said."""
        usual = {"allocation_id": "X", "workload_id": "w", "site_id": "S"}
        self.event("placement", event_id, when, action=action, **{**usual, **fields})

    def reached(self, when: str) -> None:
        """An event that says no more than that the time has come."""
        self.event("access", f"at {when}", when, action="closed", source="clock", principal="x")

    def judge(self, directory: Path, until: str | None = None) -> "Answer":
        for file, lines in self.lines.items():
            (directory / f"{file}.ndjson").write_text("\n".join(lines) + "\n")
        return Answer(self, judge_all(directory, None if until is None else at(until)))

    @staticmethod
    def _spelled(when: str) -> str:
        day, _, rest = when.rpartition(" ")
        return f"{day or '2026-03-01'}T{rest}Z"


class Answer:
    """What the plain implementation says of it."""

    def __init__(self, written: Written, history: History) -> None:
        self.written = written
        self.history = history

    def rule(self, rule_id: str) -> dict[str, list[str]]:
        """Subjects of a rule with the ids of their events, in their order in the files."""
        return {
            subject: [self.written.ids.get(place, f"{place[0]}/{place[1]}") for place in sorted(found.events)]
            for (rule, subject), found in self.history.findings.items()
            if rule == rule_id
        }

    def states(self, rule_id: str) -> dict[str, str]:
        return {
            subject: found.state
            for (rule, subject), found in self.history.findings.items()
            if rule == rule_id
        }

    def duplicates(self) -> set[tuple[str, str]]:
        """(duplicate, original), each `stream/offset`."""
        return {
            (f"{one[0].removeprefix('custody.')}/{one[1]}", f"{of[0].removeprefix('custody.')}/{of[1]}")
            for one, of in self.history.duplicates.items()
        }

    def pieces(self) -> list[tuple[Any, ...]]:
        """(from, to, missing links), times as `hh:mm` of 2026-03-01."""
        return [
            (self.clock(piece.from_at), self.clock(piece.to_at), " ".join(piece.reasons))
            for piece in self.history.pieces
        ]

    @staticmethod
    def clock(t: int | None) -> str | None:
        if t is None:
            return None
        minutes, rest = divmod(t - at("00"), 60_000_000)
        return f"{minutes // 60:02}:{minutes % 60:02}" + (f"+{rest}" if rest else "")

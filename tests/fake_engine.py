"""An engine that finds one thing in each step: how many events it has taken in so far.

Its state is one file, replaced when a step is kept, as DuckDB's would be.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from rules.reconciler.given import Clock, StepInput, StepOutput, before_landing
from rules.references import References
from schemas.tables import DUPLICATE, FINDING_HISTORY

RULE = "gap.source.rejected"


class FakeEngine:
    """Counts events; says the count as a revision of one finding. `given` are the steps it was handed, and
    whether they were settled."""

    def __init__(self, folder: Path | None = None) -> None:
        self.references = References()
        self.given: list[tuple[StepInput, bool]] = []
        self.absorbed: list[tuple[int, Clock, int]] = []
        self.closed = False
        self._file = None if folder is None else folder / "state.json"
        self._kept: dict[str, Any] = {"position": 0, "step": 0, "events": 0}
        if self._file is not None and self._file.exists():
            self._kept = json.loads(self._file.read_text())
        self._open: dict[str, Any] | None = None

    @property
    def position(self) -> int:
        return int((self._open or self._kept)["position"])

    @property
    def settled_step(self) -> int:
        return int((self._open or self._kept)["step"])

    @property
    def events(self) -> int:
        return int(self._kept["events"])

    def take(self, given: StepInput) -> pa.Table:
        assert self._open is None
        self.given.append((given, False))
        events = self._kept["events"] + sum(table.num_rows for table in given.events.values())
        self._open = {**self._kept, "position": given.raw_version, "events": events}
        duplicate = {"topic": "custody.access", "partition": 0, "offset": given.raw_version}
        return pa.Table.from_pylist([duplicate], before_landing(DUPLICATE))

    def settle(self, at: datetime, final: bool = False) -> StepOutput:
        assert self._open is not None
        given, _ = self.given[-1]
        self.given[-1] = given, True
        events = self._open["events"]
        row = {"finding_id": "f", "rule_id": RULE, "events": events, "revision": events, "suppressed": False}
        history = pa.Table.from_pylist([row], before_landing(FINDING_HISTORY))
        clock = given.clock or Clock(given.tick, given.broker_last)
        return StepOutput(
            history=history,
            published=pa.array([True]),
            watermark=clock.watermark,
            latest_broker_time=clock.latest_broker_time,
        )

    def commit(self, settled_step: int | None = None) -> None:
        assert self._open is not None
        self._kept, self._open = self._open, None
        if settled_step is not None:
            self._kept["step"] = settled_step
        self._write()

    def rollback(self) -> None:
        assert self._open is not None
        self._open = None

    def absorb(self, events: pa.Table, history: pa.Table, step: int, clock: Clock) -> None:
        assert self._open is None
        self.absorbed.append((step, clock, history.num_rows))
        self._kept["step"] = step
        self._write()

    def checkpoint(self) -> None:
        self._write()

    def close(self) -> None:
        self.closed = True

    def _write(self) -> None:
        if self._file is not None:
            self._file.write_text(json.dumps(self._kept))

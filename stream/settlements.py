"""What the reconciler has settled so far, read back from the lake to make its state anew."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rules.reconciler.given import Clock
from schemas.errors import SekishoError
from schemas.tables import FINDING_EVENT, FINDING_HISTORY
from sinks.lake import Lake, Settled

MOST_ROWS = 500_000  # at once
_EVENT = ("finding_id", "topic", "partition", "offset")


@dataclass(frozen=True)
class Findings:
    """What some consecutive steps have said of findings: the latest row of each event and of each finding.

    `step` is the last of the steps, `clock` what it had come to.
    """

    events: pa.Table
    history: pa.Table
    step: int
    clock: Clock


def absorbed(lake: Lake, after: int, until: int) -> Iterator[Findings]:
    """What the steps after `after` up to `until` have said, in order, some half million rows at once."""
    events: list[pa.Table] = []
    history: list[pa.Table] = []
    rows = 0
    settled = None
    for settlement in takewhile(lambda step: step.settled.step <= until, lake.settlements(after)):
        settled = settlement.settled
        events += _read(settlement.files.get("finding_event", ()), FINDING_EVENT)
        history += _read(settlement.files.get("finding_history", ()), FINDING_HISTORY)
        rows = sum(table.num_rows for table in (*events, *history))
        if rows >= MOST_ROWS:
            yield _findings(events, history, settled)
            events, history, settled = [], [], None
    if settled is not None:
        yield _findings(events, history, settled)


def history(lake: Lake, step: int) -> pa.Table:
    """The rows of finding_history that one of the lake's last steps wrote; step 0 is before the first."""
    tables = [
        table
        for settlement in lake.settlements(max(0, step - 1))
        if settlement.settled.step == step
        for table in _read(settlement.files.get("finding_history", ()), FINDING_HISTORY)
    ]
    return pa.concat_tables([FINDING_HISTORY.empty_table(), *tables])


def _findings(events: Sequence[pa.Table], history: Sequence[pa.Table], settled: Settled) -> Findings:
    return Findings(
        _latest(events, FINDING_EVENT, _EVENT),
        _latest(history, FINDING_HISTORY, _EVENT[:1]),
        settled.step,
        Clock(settled.watermark, settled.latest_broker_time),
    )


def _latest(tables: Sequence[pa.Table], schema: pa.Schema, key: Sequence[str]) -> pa.Table:
    """The last row of each key."""
    rows = pa.concat_tables([schema.empty_table(), *tables])
    place = pa.array(np.arange(rows.num_rows))
    last = rows.select(key).append_column("place", place).group_by(list(key)).aggregate([("place", "max")])
    return rows.take(last["place_max"])


def _read(files: Sequence[Path], schema: pa.Schema) -> list[pa.Table]:
    tables = []
    for file in files:
        try:
            with pq.ParquetFile(file) as parquet:
                tables.append(parquet.read(columns=schema.names).select(schema.names).cast(schema))
        except (OSError, pa.ArrowException) as error:
            raise SekishoError(f"cannot read {file}: restore it from a copy ({error})") from error
    return tables

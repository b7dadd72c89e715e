"""How long records waited: their broker times against when somebody outside had what came of them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.watching import Seen
from schemas.events import EVENTS
from schemas.tables import COORDINATES

_ROW = [*COORDINATES.names, "broker_time"]


def rows(commits: Sequence[Seen]) -> pa.Table:
    """The events in these commits of `raw`: coordinates, when each was `appended` and `seen` (Unix time)."""
    tables = [_rows(commit) for commit in commits]
    return pa.concat_tables(tables)


def _rows(commit: Seen) -> pa.Table:
    table = pa.concat_tables([pq.read_table(file, columns=_ROW, partitioning=None) for file in commit.files])
    table = table.filter(pc.is_in(table["topic"], pa.array(list(EVENTS))))
    appended = pc.divide(table["broker_time"].cast(pa.int64()).cast(pa.float64()), 1e6)
    seen = pa.array(np.full(table.num_rows, commit.at))
    return table.drop("broker_time").append_column("appended", appended).append_column("seen", seen)


def row_waits(landed: pa.Table) -> np.ndarray:
    """Seconds from each record's append to the commit that shows it."""
    return np.asarray(pc.subtract(landed["seen"], landed["appended"]))


def finding_waits(landed: pa.Table, messages: Iterable[tuple[float, dict[str, Any]]]) -> np.ndarray:
    """Seconds from the append of each record named by a first message of a finding to that message."""
    named = [
        {name: each[name] for name in COORDINATES.names} | {"had": had}
        for had, finding in messages
        if finding["revision"] == 0
        for each in finding["evidence"]
    ]
    schema = pa.schema([*COORDINATES, ("had", pa.float64())])
    evidence = pa.Table.from_pylist(named, schema=schema)
    together = evidence.join(landed, COORDINATES.names, join_type="inner")
    return np.asarray(pc.subtract(together["had"], together["appended"]))

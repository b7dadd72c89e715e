"""How long the reconciler took, worked out from its lake and from when commits were seen."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.planted import Incident
from benchmarks.waits import rows
from benchmarks.watching import Seen
from rules.rule import load_all
from schemas.tables import COORDINATES
from sinks.views import connect

_EVENTS = """
CREATE TABLE event AS
SELECT source, topic, "partition", "offset", epoch_us(broker_time) / 1e6 AS appended,
  epoch_us(occurred_at) / 1e6 AS happened
FROM (SELECT source, topic, "partition", "offset", occurred_at, broker_time FROM allocation
  UNION ALL SELECT source, topic, "partition", "offset", occurred_at, broker_time FROM access
  UNION ALL SELECT source, topic, "partition", "offset", occurred_at, broker_time FROM placement)
"""
_FOUND = """
WITH opening AS (
  SELECT finding_id, rule_id, topic, "partition", "offset", min(found) AS found,
    bool_or(step IS NULL) AS at_landing, any_value(allocation_id) AS allocation_id
  FROM firing f
  ANTI JOIN planted p ON p.rule_id = f.rule_id AND p.subject = split_part(f.subject, '|since:', 1)
  GROUP BY finding_id, rule_id, topic, "partition", "offset"),
allocated AS (
  SELECT allocation_id, min(landed.appended) AS appended, min(landed.seen) AS seen
  FROM allocation JOIN landed USING (topic, "partition", "offset")
  WHERE action = 'allocated' GROUP BY allocation_id)
SELECT found - greatest(event.appended, allocated.appended) AS since_append,
  found - greatest(event.seen, allocated.seen) AS since_landing
FROM opening JOIN rule ON rule.id = opening.rule_id
JOIN landed AS event USING (topic, "partition", "offset")
JOIN allocated USING (allocation_id)
WHERE NOT at_landing AND rule.kind = $kind
"""
_REACHED = """
SELECT max(reached) FROM (
  SELECT min(appended) FILTER (happened - $lateness >= $due) AS reached FROM event GROUP BY source)
"""


_FIRINGS = ["finding_id", "rule_id", "subject", "allocation_id", *COORDINATES.names, "step"]


_LANDED = """
SELECT max(seen) FROM allocation JOIN landed USING (topic, "partition", "offset") WHERE allocation_id = $id
"""


class Delays:
    """A lake after a run. Times are Unix times in seconds."""

    def __init__(
        self, lake: Path, landed: Sequence[Seen], found: Sequence[Seen], planted: Iterable[Incident]
    ) -> None:
        """`landed` are all commits of `raw`, `found` those of `finding_event`, as they were seen."""
        self._connection = connect(lake)
        self._connection.register("landed", rows(landed))
        self._connection.register("firing", pa.concat_tables(_firings(commit) for commit in found))
        kinds = [{"id": rule.id, "kind": str(rule.kind)} for rule in load_all()]
        pairs = [{"rule_id": incident.rule_id, "subject": incident.subject} for incident in planted]
        self._connection.register("planted", pa.Table.from_pylist(pairs))
        self._connection.register("rule", pa.Table.from_pylist(kinds))
        self._connection.execute(_EVENTS)

    def close(self) -> None:
        self._connection.close()

    def reached(self, due: float, lateness: float) -> float:
        """When the brokers had what brings the watermark to `due`: every source lives all the time."""
        return float(self._value(_REACHED, {"due": due, "lateness": lateness}))

    def landed(self, allocation_id: str) -> float:
        """When the allocation's last event could be read."""
        return float(self._value(_LANDED, {"id": allocation_id}))

    def found(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Seconds from append and from landing, of the later of an event and its allocation, to the commit
        with the reconciler's first word on it, planted incidents left out: they wait for records that come
        later. `kind` is of the rule: `row` is what was judged through the allocation, `sweep` what took a
        sweep.
        """
        waits = self._connection.execute(_FOUND, {"kind": kind}).fetchnumpy()
        return np.asarray(waits["since_append"]), np.asarray(waits["since_landing"])

    def _value(self, query: str, parameters: Mapping[str, object]) -> Any:
        row = self._connection.execute(query, parameters).fetchone()
        assert row is not None
        return row[0]


def _firings(commit: Seen) -> pa.Table:
    table = pa.concat_tables(
        [pq.read_table(file, columns=_FIRINGS, partitioning=None) for file in commit.files]
    )
    return table.append_column("found", pa.array(np.full(table.num_rows, commit.at)))


def told(settled: Sequence[Seen], due: float) -> float:
    """When the table `watermark` first said that the watermark has reached `due`."""
    for commit in settled:
        for file in commit.files:
            watermark = pq.read_table(file, columns=["watermark"], partitioning=None)["watermark"]
            times = watermark.drop_null().cast(pa.int64()).to_pylist()
            if times and max(times) / 1e6 >= due:
                return commit.at
    return math.inf

"""Whether a peer found what Sekisho found, event by event."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import duckdb

from schemas.events import EVENTS
from sinks.views import connect


@dataclass(frozen=True)
class Findings:
    """Firings (rule, subject, record) among the records that a peer took."""

    found: int
    sekisho: int
    differing: int


def compare(folder: Path, lake: Path) -> Findings:
    """Compares the peer's Parquet files in `folder` with what Sekisho landed of the same records in `lake`.

    Raises RuntimeError where the peer has not written each record once.
    """
    with contextlib.closing(connect(lake)) as connection:
        own = connection.sql(
            'SELECT rule_id, subject, topic, partition, "offset" FROM finding_event'
        ).to_arrow_table()
    with contextlib.closing(duckdb.connect()) as peer:
        peer.register("own", own)
        peer.execute(f"CREATE VIEW found AS SELECT * FROM read_parquet('{folder}/finding_event/part-*')")
        rows = [_ROWS.format(folder=folder, stream=record.name) for record in EVENTS.values()]
        peer.execute(f"CREATE VIEW rows AS {' UNION ALL '.join(rows)}")
        counts = peer.execute(_COUNTS).fetchone()
    assert counts is not None
    if counts[3] != counts[4]:
        raise RuntimeError(f"{counts[3]:,} rows of {counts[4]:,} records were written")
    return Findings(*counts[:3])


def count(lake: Path) -> Findings:
    """What Sekisho itself found of everything in `lake`."""
    with contextlib.closing(connect(lake)) as connection:
        row = connection.execute("SELECT count(*) FROM finding_event").fetchone()
    assert row is not None
    return Findings(row[0], row[0], 0)


_ROWS = (
    "SELECT 'custody.{stream}' AS topic, partition, \"offset\" FROM read_parquet('{folder}/{stream}/part-*')"
)
_COUNTS = """
WITH theirs AS (SELECT rule_id, subject, topic, partition, "offset" FROM found),
    ours AS (SELECT own.* FROM own SEMI JOIN rows USING (topic, partition, "offset"))
SELECT (SELECT count(*) FROM theirs), (SELECT count(*) FROM ours),
    (SELECT count(*) FROM ((FROM theirs EXCEPT ALL FROM ours) UNION ALL (FROM ours EXCEPT ALL FROM theirs))),
    (SELECT count(*) FROM rows), (SELECT count(*) FROM (SELECT DISTINCT * FROM rows))
"""

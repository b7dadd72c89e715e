"""The life of the sources: which of their numbers are missing, and when they were silent too long.

`absences.py` keeps the gaps; here are the versions of `custody.source` that say what is allowed, and what has
to be judged in a step: gaps that the step made, changed or filled, all gaps of a source with new versions,
and open ends that the latest broker time has made too long. Times are µs, limits are in seconds.
"""

from collections.abc import Iterable

import duckdb
import numpy as np
import pyarrow as pa

from rules.asof import FOREVER
from rules.reconciler import absences
from rules.reconciler.absences import DEFAULT_SILENCE_S
from rules.reconciler.state import has_rows
from rules.versions import Versions
from schemas.reference import SOURCE

_LONGEST_S = 10**12  # a longer limit is as good as none; keeps sums of times within 64 bits

LIMIT_US = f"least(coalesce(limit_s, {DEFAULT_SILENCE_S}), {_LONGEST_S}) * 1000000"
"""SQL: the limit in µs of a row with `limit_s`."""

_VERSION = (
    *("source", "version", "valid_from", "valid_to", "silence_limit_s", "sequenced"),
    *("partition", "offset", "tombstone_at"),
)

_TABLES = """
CREATE TABLE IF NOT EXISTS source_version (
  source VARCHAR, version BIGINT, valid_from TIMESTAMP, valid_to TIMESTAMP, silence_limit_s BIGINT,
  sequenced BOOLEAN, "partition" INTEGER, "offset" BIGINT, tombstone_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS source_interval (
  source VARCHAR, start BIGINT, stop BIGINT, limit_s BIGINT, sequenced BOOLEAN);
CREATE TABLE IF NOT EXISTS source_first (first BIGINT);
CREATE TEMP TABLE IF NOT EXISTS source_renewed (source VARCHAR);
CREATE TEMP TABLE IF NOT EXISTS scope_sequence_gap (
  topic VARCHAR, "partition" INTEGER, "offset" BIGINT, source VARCHAR, event_id VARCHAR, t TIMESTAMP,
  first BIGINT, last BIGINT, next_at TIMESTAMP, sequenced BOOLEAN);
CREATE TEMP TABLE IF NOT EXISTS scope_silence (
  topic VARCHAR, "partition" INTEGER, "offset" BIGINT, source VARCHAR, event_id VARCHAR, t TIMESTAMP,
  since TIMESTAMP, from_at TIMESTAMP, to_at TIMESTAMP, limit_s BIGINT)
"""
# source_interval: disjoint, each with what the version in force says; source_first: the earliest broker time
# that silences before first events were reckoned with; source_renewed: which have new versions in this step.

_RENEW = f"""
CREATE OR REPLACE TEMP TABLE source_old_bound AS FROM source_bound WHERE source IN (FROM source_renewed);
DELETE FROM source_interval WHERE source IN (FROM source_renewed);
DELETE FROM source_bound WHERE source IN (FROM source_renewed);
INSERT INTO source_interval FROM renewed_interval;
INSERT INTO source_bound
SELECT source, min(start), nullif(max(stop), {FOREVER}),
  least(min({LIMIT_US}), {DEFAULT_SILENCE_S * 1_000_000})
FROM renewed_interval GROUP BY source;
INSERT INTO gap_region
SELECT true, source, NULL, NULL FROM source_bound n LEFT JOIN source_old_bound o USING (source)
WHERE source IN (FROM source_renewed)
  AND n.least_us < coalesce(o.least_us, {DEFAULT_SILENCE_S * 1_000_000});
INSERT INTO source_end BY NAME
SELECT DISTINCT true AS beat, source, false AS fired
FROM source_renewed ANTI JOIN (FROM source_end WHERE beat) USING (source);
UPDATE source_end SET stale = true WHERE source IN (FROM source_renewed)
"""

_REFRESH = """
CREATE OR REPLACE TEMP TABLE end_stale AS
SELECT e.source, e.before, coalesce(e.before, b.earliest) AS since, b.latest AS until,
  CASE WHEN e.before IS NOT NULL THEN e.before
    WHEN b.earliest IS NOT NULL AND $first::BIGINT IS NOT NULL THEN greatest(b.earliest, $first)
  END AS from_at
FROM source_end e LEFT JOIN source_bound b ON e.source = b.source
WHERE e.beat AND e.stale AND (e.before IS NULL) = $heads;
INSERT INTO end_cut
SELECT source, since FROM source_end WHERE beat AND stale AND fired AND (before IS NULL) = $heads;
UPDATE source_end e SET since = n.since, from_at = n.from_at, until = n.until, limit_s = n.limit_s,
  fired = false, stale = false
FROM (
  SELECT s.*, CASE WHEN s.from_at < i.stop THEN i.limit_s END AS limit_s
  FROM end_stale s ASOF LEFT JOIN source_interval i ON s.source = i.source AND s.from_at >= i.start) n
WHERE e.beat AND e.source = n.source AND e.before IS NOT DISTINCT FROM n.before
"""

_FLIP = f"""
CREATE OR REPLACE TEMP TABLE end_flip AS
SELECT * REPLACE (NOT fired AS fired) FROM source_end
WHERE beat AND fired <> coalesce(
  coalesce(after, $latest::BIGINT) IS NOT NULL
  AND from_at + {LIMIT_US} < least(coalesce(after, $latest::BIGINT), until), false);
UPDATE source_end e SET fired = f.fired FROM end_flip f
WHERE e.beat AND e.source = f.source AND e.before IS NOT DISTINCT FROM f.before
"""

_ALL_GAPS = """
DELETE FROM gap_new WHERE source IN (FROM source_renewed);
INSERT INTO gap_new FROM source_gap WHERE source IN (FROM source_renewed)
"""

_SCOPE = """
INSERT INTO scope_sequence_gap
SELECT topic, "partition", "offset", g.source, event_id, make_timestamp(t) AS t,
  before + 1 AS first, after - 1 AS last, make_timestamp(next_t) AS next_at,
  CASE WHEN next_t < i.stop THEN i.sequenced END AS sequenced
FROM gap_new g ASOF LEFT JOIN source_interval i ON g.source = i.source AND g.next_t >= i.start
WHERE NOT beat;
INSERT INTO scope_silence
SELECT topic, "partition", "offset", g.source, event_id, make_timestamp(t) AS t,
  make_timestamp(before) AS since, make_timestamp(before) AS from_at,
  make_timestamp(least(after, b.latest)) AS to_at,
  CASE WHEN before < i.stop THEN i.limit_s END AS limit_s
FROM gap_new g
  ASOF LEFT JOIN source_interval i ON g.source = i.source AND g.before >= i.start
  LEFT JOIN source_bound b ON g.source = b.source
WHERE beat
UNION ALL
SELECT topic, "partition", "offset", source, event_id, make_timestamp(t),
  make_timestamp(since), make_timestamp(from_at),
  make_timestamp(least(coalesce(after, $latest::BIGINT), until)), limit_s
FROM end_flip WHERE fired;
INSERT INTO judged_subject
SELECT DISTINCT 'gap.source.sequence_hole', 'source:' || source || '|first:' || (before + 1)
FROM (SELECT beat, source, before FROM gap_cut UNION ALL SELECT beat, source, before FROM gap_new)
WHERE NOT beat
UNION ALL
SELECT DISTINCT 'gap.source.silent',
  'source:' || source || '|since:' || strftime(make_timestamp(since), '%Y-%m-%dT%H:%M:%S.%fZ')
FROM (
  SELECT source, before AS since FROM gap_cut WHERE beat
  UNION ALL SELECT source, before FROM gap_new WHERE beat
  UNION ALL SELECT source, since FROM end_cut
  UNION ALL SELECT source, since FROM end_flip)
"""

_DONE = """
DELETE FROM gap_new; DELETE FROM gap_cut; DELETE FROM end_cut; DELETE FROM gap_region;
DELETE FROM source_renewed
"""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes what is missing of the tables."""
    absences.create(con)
    con.execute(_TABLES)


def add_versions(con: duckdb.DuckDBPyConnection, versions: pa.RecordBatch) -> None:
    """Takes in versions of sources and tombstones (`typed(SOURCE)` without `ingested_at`), before `add`."""
    if versions.num_rows == 0:
        return
    rows = pa.table({name: _naive(versions[name]) for name in _VERSION})
    con.register("renewed_versions", rows)
    con.execute("INSERT INTO source_version BY NAME FROM renewed_versions")
    con.execute("INSERT INTO source_renewed SELECT DISTINCT source FROM renewed_versions")
    con.unregister("renewed_versions")
    held = con.sql("FROM source_version WHERE source IN (FROM source_renewed)").to_arrow_table()
    con.register("renewed_interval", _intervals(held))
    con.execute(_RENEW)
    con.unregister("renewed_interval")


def add(con: duckdb.DuckDBPyConnection, new: Iterable[pa.Table] | None = None) -> None:
    """Takes in the events of `new_event`, and takes out those of `gone_event`.

    `new`: the tables that `new_event` is a view of (`store.kept`), which are read faster than the view.
    """
    absences.add(con, new)
    _refresh(con, None, heads=False)


def judge(con: duckdb.DuckDBPyConnection, first: int | None, latest: int | None) -> None:
    """Makes `scope_sequence_gap` and `scope_silence` and fills `judged_subject`; once a step, after `add`.

    Args:
        con: needs the temp table `judged_subject`.
        first: the earliest broker time of any record so far.
        latest: the latest.
    """
    if con.execute("SELECT first FROM source_first").fetchall() != [(first,)]:
        con.execute("DELETE FROM source_first")
        con.execute("INSERT INTO source_first VALUES (?)", [first])
        con.execute("UPDATE source_end SET stale = true WHERE beat AND before IS NULL")
    _refresh(con, first, heads=True)
    con.execute("DELETE FROM scope_sequence_gap; DELETE FROM scope_silence")
    _run(con, _FLIP, latest=latest)
    if has_rows(con, "source_renewed"):
        con.execute(_ALL_GAPS)
    if any(has_rows(con, table) for table in ("gap_new", "gap_cut", "end_cut", "end_flip")):
        _run(con, _SCOPE, latest=latest)
    con.execute(_DONE)


def _refresh(con: duckdb.DuckDBPyConnection, first: int | None, heads: bool) -> None:
    """Says of ends that changed when their silence began and what its limits are.

    Heads are the ends before first events, which depend on the earliest broker time.
    """
    if has_rows(con, f"source_end WHERE beat AND stale AND (before IS NULL) = {heads}"):
        _run(con, _REFRESH, first=first, heads=heads)


def _run(con: duckdb.DuckDBPyConnection, statements: str, **values: int | None) -> None:
    """Runs statements one by one, each with those of the values that it names."""
    for statement in statements.split(";"):
        con.execute(statement, {name: value for name, value in values.items() if f"${name}" in statement})


def _intervals(versions: pa.Table) -> pa.Table:
    """What is in force when, of all versions and tombstones of some sources: rows of source_interval."""
    digests = pa.array([bytes(32)] * len(versions), pa.binary(32))  # equal versions are not told apart here
    (batch,) = versions.append_column("sha256", digests).combine_chunks().to_batches()
    held = Versions(SOURCE)
    _, fresh = held.add(batch)
    segments = held.intervals.of(np.arange(len(held.keys)))
    said = batch.filter(pa.array(fresh)).take(pa.array(segments.values))
    return pa.table(
        {
            "source": said["source"],
            "start": segments.starts,
            "stop": segments.ends,
            "limit_s": said["silence_limit_s"],
            "sequenced": said["sequenced"],
        }
    )


def _naive(column: pa.Array) -> pa.Array:
    return column.cast(pa.timestamp("us")) if pa.types.is_timestamp(column.type) else column

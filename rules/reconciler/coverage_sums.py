"""Accelerator-time by site as running sums, so that the ratio is at hand at every step.

Pieces that have ended are summed: per site, and per allocation, so that they can be taken out again when an
allocation is cut anew. Those of open allocations lie apart from those of the many that are not.
"""

import duckdb
import pyarrow as pa

UNKNOWN = "unknown"
"""What the metric calls a piece without a site."""

_MOST = 1 << 40
"""Accelerators of an allocation from which on a number is nonsense, and would make the sums overflow."""

_TIME = f"least(accelerators, {_MOST})::HUGEINT * micros"

_CREATE = """
CREATE TABLE IF NOT EXISTS coverage_sum (
  allocation_id VARCHAR, site_id VARCHAR, used HUGEINT, covered HUGEINT);
CREATE TABLE IF NOT EXISTS coverage_done (
  allocation_id VARCHAR, site_id VARCHAR, used HUGEINT, covered HUGEINT);
CREATE TABLE IF NOT EXISTS coverage_site (site_id VARCHAR, used HUGEINT, covered HUGEINT);
"""

ENDED = pa.schema(
    [
        ("number", pa.int64()),
        ("site_id", pa.string()),
        ("accelerators", pa.int64()),
        ("micros", pa.int64()),
        ("is_covered", pa.bool_()),
    ]
)
"""Pieces that have ended, with the number of their allocation in `coverage_scope`."""

_FRESH = f"""
CREATE OR REPLACE TEMP TABLE coverage_fresh AS
SELECT allocation_id, site_id, used, covered FROM (
  SELECT number, site_id, sum({_TIME}) AS used, coalesce(sum({_TIME}) FILTER (is_covered), 0) AS covered
  FROM coverage_ended GROUP BY ALL) JOIN coverage_scope USING (number)
"""

# What is replaced counts with the opposite sign.
_UPDATE = (
    """
CREATE OR REPLACE TEMP TABLE coverage_before AS
SELECT s.*, c.late FROM coverage_sum s JOIN coverage_scope c USING (allocation_id)
UNION ALL
SELECT d.*, true FROM coverage_done d SEMI JOIN coverage_again USING (allocation_id)
""",
    "DELETE FROM coverage_done WHERE allocation_id IN (SELECT allocation_id FROM coverage_again)",
    """
CREATE OR REPLACE TEMP TABLE coverage_by_site AS
SELECT site_id, sum(used) AS used, sum(covered) AS covered FROM (
  SELECT site_id, used, covered FROM coverage_site
  UNION ALL SELECT site_id, used, covered FROM coverage_fresh
  UNION ALL SELECT site_id, -used, -covered FROM coverage_before WHERE late)
GROUP BY site_id
""",
    "DELETE FROM coverage_site",
    "INSERT INTO coverage_site SELECT * FROM coverage_by_site",
    "DELETE FROM coverage_sum WHERE allocation_id IN (SELECT allocation_id FROM coverage_scope)",
    """
CREATE OR REPLACE TEMP TABLE coverage_after AS
SELECT allocation_id, site_id, sum(used) AS used, sum(covered) AS covered FROM (
  SELECT allocation_id, site_id, used, covered FROM coverage_fresh
  UNION ALL SELECT allocation_id, site_id, used, covered FROM coverage_before WHERE NOT late)
GROUP BY ALL
""",
    "INSERT INTO coverage_sum FROM coverage_after SEMI JOIN coverage_open USING (allocation_id)",
    "INSERT INTO coverage_done FROM coverage_after ANTI JOIN coverage_open USING (allocation_id)",
)

_RATIOS = f"""
SELECT coalesce(site_id, '{UNKNOWN}'), sum(covered)::DOUBLE / sum(used)::DOUBLE FROM (
  SELECT site_id, used, covered FROM coverage_site
  UNION ALL
  SELECT site_id, time, CASE WHEN covered THEN time ELSE 0 END FROM (
    SELECT site_id, covered, {_TIME} AS time FROM (
      SELECT site_id, covered, accelerators, epoch_us(t) - epoch_us(from_at) AS micros
      FROM coverage_open, coverage_clock)))
GROUP BY 1 HAVING sum(used) > 0
"""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    con.execute(_CREATE)


def record(con: duckdb.DuckDBPyConnection, ended: pa.Table) -> None:
    """Adds the ended pieces (ENDED) of `coverage_scope`: all of those that are late, the further ones of
    others. `coverage_open` must be up to date."""
    con.register("coverage_ended", ended)
    con.execute(_FRESH)
    con.unregister("coverage_ended")
    for statement in _UPDATE:
        con.execute(statement)


def ratios(con: duckdb.DuckDBPyConnection) -> dict[str, float]:
    """Covered over all allocated accelerator-time for each site that has any, up to the last update."""
    return dict(con.execute(_RATIOS).fetchall())

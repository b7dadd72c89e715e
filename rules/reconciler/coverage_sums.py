"""Accelerator-time by site as running sums, so that the ratio is at hand at every step.

Pieces that have ended are summed: per site, and per allocation, so that they can be taken out again when an
allocation is cut anew. While an open allocation stays at its site, its time is summed where it is carried.
"""

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rules.reconciler.coverage_links import ALL
from rules.reconciler.coverage_open import Open
from rules.reconciler.state import has_rows

UNKNOWN = "unknown"
"""What the metric calls a piece without a site."""

_MOST = 1 << 40
"""Accelerators of an allocation from which on a number is nonsense, and would make the sums overflow."""

_SUMMED = ("is_open", "accelerators", "site_id", "from_at", "links", "micros", "covered_micros")

_SLOTS = 1 << 14
"""Slots that are summed at once."""

Times = npt.NDArray[np.float64]

_DONE = f"""
SELECT coalesce(site_id, '{UNKNOWN}'), sum(used)::DOUBLE, sum(covered)::DOUBLE FROM coverage_site GROUP BY 1
"""
_TIME = f"least(accelerators, {_MOST})::HUGEINT * micros"

_CREATE = """
CREATE TABLE IF NOT EXISTS coverage_done (
  allocation_id VARCHAR, site_id VARCHAR, used HUGEINT, covered HUGEINT);
CREATE TABLE IF NOT EXISTS coverage_site (site_id VARCHAR, used HUGEINT, covered HUGEINT);
"""

ENDED = pa.schema(
    [
        ("allocation_id", pa.string()),
        ("site_id", pa.string()),
        ("accelerators", pa.int64()),
        ("micros", pa.int64()),
        ("is_covered", pa.bool_()),
    ]
)
"""Time of pieces that have ended."""

_FRESH = f"""
CREATE OR REPLACE TEMP TABLE coverage_fresh AS
SELECT allocation_id, site_id, sum({_TIME}) AS used, coalesce(sum({_TIME}) FILTER (is_covered), 0) AS covered
FROM coverage_ended GROUP BY ALL
"""

_REPLACED = "FROM coverage_done WHERE allocation_id IN (SELECT allocation_id FROM coverage_again)"

_BY_SITE = """
CREATE OR REPLACE TEMP TABLE coverage_by_site AS
SELECT site_id, sum(used) AS used, sum(covered) AS covered FROM (
  SELECT site_id, used, covered FROM coverage_site
  UNION ALL SELECT site_id, used, covered FROM coverage_fresh {minus})
GROUP BY site_id
"""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    con.execute(_CREATE)


def record(con: duckdb.DuckDBPyConnection, ended: pa.Table) -> None:
    """Adds ended pieces (ENDED). What was added of the allocations in `coverage_again` is taken out."""
    con.register("coverage_ended", ended)
    con.execute(_FRESH)
    con.unregister("coverage_ended")
    # All that has ever ended is gone through only where some of it is replaced.
    again = has_rows(con, "coverage_again")
    con.execute(
        _BY_SITE.format(minus=f"UNION ALL SELECT site_id, -used, -covered {_REPLACED}" if again else "")
    )
    con.execute("DELETE FROM coverage_site")
    con.execute("INSERT INTO coverage_site SELECT * FROM coverage_by_site")
    if again:
        con.execute(f"DELETE {_REPLACED}")
    con.execute("INSERT INTO coverage_done SELECT * FROM coverage_fresh")


def ratios(con: duckdb.DuckDBPyConnection, held: Open, now: int) -> dict[str, float]:
    """Covered over all allocated accelerator-time for each site that has any, up to `now` (µs)."""
    sums: dict[str, tuple[float, float]] = {
        site: (used, covered) for site, used, covered in con.execute(_DONE).fetchall()
    }
    used, covered = _running(held, now)
    found = np.flatnonzero(used)
    names = held.texts.take(found - 1).to_pylist()
    for name, code in zip(names, found.tolist(), strict=True):
        before = sums.get(name or UNKNOWN, (0.0, 0.0))
        sums[name or UNKNOWN] = (before[0] + used[code], before[1] + covered[code])
    return {name: float(covered / used) for name, (used, covered) in sums.items() if used > 0}


def _running(held: Open, now: int) -> tuple[Times, Times]:
    """(used, covered): the accelerator-time of open allocations by the number of their site, from -1 on.

    Some slots at a time, so that what is in between stays in the processor's cache: half the time.
    """
    used = np.zeros(len(held.texts) + 1)
    covered = np.zeros(len(held.texts) + 1)
    columns = [held[name] for name in _SUMMED]
    for low in range(0, len(columns[0]), _SLOTS):
        is_open, accelerators, site, from_at, links, micros, covered_micros = (
            column[low : low + _SLOTS] for column in columns
        )
        weight = np.where(is_open, np.minimum(accelerators, _MOST), 0).astype(np.float64)
        running = now - from_at
        for sums, times in (
            (used, micros + running),
            (covered, covered_micros + running * (links == ALL)),
        ):
            found = np.bincount(site + 1, weight * times)
            sums[: len(found)] += found
    return used, covered

"""When allocations were open (contract section 4, "Open at t"), and how much was open beside an event.

`open_allocation` has one row per effective `allocated` event: `allocation_id`, `authorization_id`, `from_t`,
`to_t` (null while it is open), `accelerators`. `held` has one row per distinct serial of it, and one that
ends where it begins for each `allocated` event, so that every event that lists a serial is found by it.
"""

import duckdb

ACCELERATORS = "coalesce(accelerators, nullif(len(serials), 0), 1)"
"""What an allocation counts as: what it says, else the serials listed, else one."""

LATEST = 'source DESC, event_id DESC, "partition" DESC, "offset" DESC'
"""Of several events at one time the first in this order counts (contract 3.2)."""

_CREATE = """
CREATE TABLE IF NOT EXISTS open_allocation (
  allocation_id VARCHAR, authorization_id VARCHAR, from_t TIMESTAMP, to_t TIMESTAMP, accelerators BIGINT);
CREATE TABLE IF NOT EXISTS held (serial VARCHAR, allocation_id VARCHAR, from_t TIMESTAMP, to_t TIMESTAMP);
"""

_CHANGED = f"""
DELETE FROM open_allocation USING changed_allocation c WHERE open_allocation.allocation_id = c.allocation_id;
DELETE FROM held USING changed_allocation c WHERE held.allocation_id = c.allocation_id;

CREATE OR REPLACE TEMP TABLE changed_chain AS
SELECT a.* FROM allocation a SEMI JOIN changed_allocation USING (allocation_id);

CREATE OR REPLACE TEMP TABLE changed_interval AS
WITH winner AS (
  SELECT *, lead(t) OVER (PARTITION BY allocation_id ORDER BY t) AS next_t
  FROM (
    FROM changed_chain WHERE action = 'allocated'
    QUALIFY row_number() OVER (PARTITION BY allocation_id, t ORDER BY {LATEST}) = 1)
), release AS (
  SELECT DISTINCT allocation_id, t FROM changed_chain WHERE action = 'released'
)
SELECT w.allocation_id, w.authorization_id, w.t AS from_t, least(w.next_t, r.t) AS to_t,
  {ACCELERATORS} AS accelerators, w.serials
FROM winner w ASOF LEFT JOIN release r ON w.allocation_id = r.allocation_id AND w.t <= r.t;

INSERT INTO open_allocation BY NAME SELECT * EXCLUDE (serials) FROM changed_interval
WHERE to_t IS NULL OR from_t < to_t;
INSERT INTO held BY NAME
SELECT DISTINCT unnest(serials) AS serial, allocation_id, from_t, to_t FROM (
  SELECT serials, allocation_id, from_t, to_t FROM changed_interval
  UNION ALL SELECT serials, allocation_id, t, t FROM changed_chain WHERE action = 'allocated');
"""

_BESIDE = """
WITH least_t AS (SELECT min(t) AS t FROM {asked}),
interval AS (
  SELECT i.key, i.allocation_id, i.from_t, i.to_t, i.amount, greatest(i.from_t, m.t) AS begin_t
  FROM (SELECT {key} AS key, allocation_id, from_t, to_t, {amount} AS amount FROM {table}) i, least_t m
  WHERE (i.to_t IS NULL OR i.to_t > m.t) AND i.key IN (SELECT key FROM {asked})
), running AS (
  SELECT key, t, sum(sum(amount)) OVER (PARTITION BY key ORDER BY t) AS amount
  FROM (
    SELECT key, begin_t AS t, amount FROM interval
    UNION ALL
    SELECT key, to_t, -amount FROM interval WHERE to_t IS NOT NULL)
  GROUP BY key, t
)
SELECT a.* EXCLUDE (key), (coalesce(r.amount, 0) - coalesce(own.amount, 0))::HUGEINT AS beside
FROM {asked} a
ASOF LEFT JOIN running r ON a.key = r.key AND a.t >= r.t
LEFT JOIN interval own ON own.key = a.key AND own.allocation_id = a.allocation_id AND own.from_t = a.t
  AND (own.to_t IS NULL OR own.from_t < own.to_t)
"""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    con.execute(_CREATE)


def follow(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the intervals of the ids in `changed_allocation` anew from `allocation`."""
    con.execute(_CHANGED)


def beside_authorization(asked: str) -> str:
    """A query: the rows of `asked` (`key` the authorization, `t`, `allocation_id`, …) with `beside`, the
    accelerators that other allocations had open under it at `t`."""
    return _BESIDE.format(asked=asked, table="open_allocation", key="authorization_id", amount="accelerators")


def beside_serial(asked: str) -> str:
    """The same with `key` a serial: how many other allocations that were open at `t` list it."""
    return _BESIDE.format(asked=asked, table="held", key="serial", amount="1")

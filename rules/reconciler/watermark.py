"""How far the sources' time has come: the watermark, and who is live (contract sections 3.6 and 4).

The watermark is the lowest, over the live sources, of the greatest event time less the lateness; partitions
with unread records hold it back likewise. Time comes from the records and from ticks only. All times are µs
since the epoch (UTC).
"""

from collections.abc import Collection
from dataclasses import dataclass

import duckdb

from rules.reconciler.absences import DEFAULT_SILENCE_S
from rules.reconciler.given import Clock, Partition

LATENESS_US = 10 * 60 * 1_000_000
"""How much later than its source's latest an event may come without being late."""

_TABLES = """
CREATE TABLE IF NOT EXISTS source_clock (source VARCHAR, t BIGINT, broker_time BIGINT);
CREATE TABLE IF NOT EXISTS partition_clock (topic VARCHAR, "partition" INTEGER, t BIGINT);
CREATE TABLE IF NOT EXISTS clock (first BIGINT, latest BIGINT, tick BIGINT, watermark BIGINT);
"""
# source_clock: the greatest time of events that are not `future`, and the last sign of life

_FOLLOW = """
CREATE OR REPLACE TEMP TABLE clock_new AS
SELECT source, topic, "partition", max(epoch_us(t)) FILTER (NOT future) AS t,
  max(epoch_us(broker_time)) AS broker_time
FROM new_event GROUP BY ALL;

CREATE OR REPLACE TEMP TABLE clock_gone AS
SELECT source, max(t) FILTER (NOT future) AS t, max(broker_time) AS broker_time
FROM source_event WHERE source IN (SELECT source FROM gone_event) GROUP BY source;

CREATE OR REPLACE TABLE source_clock AS
SELECT source, max(t) AS t, max(broker_time) AS broker_time FROM (
  SELECT source, t, broker_time FROM source_clock ANTI JOIN clock_gone USING (source)
  UNION ALL SELECT source, t, broker_time FROM clock_gone
  UNION ALL SELECT source, t, broker_time FROM clock_new ANTI JOIN clock_gone USING (source))
GROUP BY source;

CREATE OR REPLACE TABLE partition_clock AS
SELECT topic, "partition", max(t) AS t FROM (
  FROM partition_clock UNION ALL SELECT topic, "partition", t FROM clock_new)
GROUP BY ALL;
"""

_LIFE = f"""
SELECT c.source, c.t, $latest::BIGINT - c.broker_time <= 1000000 * coalesce(
  CASE WHEN c.broker_time < i.stop THEN i.limit_s END, {DEFAULT_SILENCE_S})::HUGEINT AS live
FROM source_clock c ASOF LEFT JOIN source_interval i ON c.source = i.source AND c.broker_time >= i.start
"""


@dataclass(frozen=True)
class Mark:
    """`first` and `latest`: the earliest and latest broker time of any record so far; `watermark`; `late`: how
    many of the step's events were behind the watermark before it. None: there is none yet."""

    first: int | None
    latest: int | None
    watermark: int | None
    late: int


@dataclass(frozen=True)
class Lively:
    """The sources that have spoken, sorted."""

    live: list[str]
    silent: list[str]


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    con.execute(_TABLES)
    if not con.execute("SELECT 1 FROM clock").fetchall():
        con.execute("INSERT INTO clock VALUES (NULL, NULL, NULL, NULL)")


def advance(
    con: duckdb.DuckDBPyConnection,
    broker_first: int | None,
    broker_last: int | None,
    tick: int | None,
    unread: Collection[Partition] = (),
    clock: Clock | None = None,
) -> Mark:
    """Takes in the step's times; once a step, after `sources.add` and before `sources.judge`.

    Args:
        con: has `new_event` and `gone_event`.
        broker_first: the earliest broker time of the step's records.
        broker_last: the latest; a tick counts with what it says.
        tick: the latest tick.
        unread: partitions that hold records which nobody has read.
        clock: the watermark and the latest broker time, where somebody else says them.
    """
    first, latest, ticked, before = con.execute("FROM clock").fetchall()[0]
    late = 0
    if before is not None:
        late = con.execute("SELECT count(*) FROM new_event WHERE epoch_us(t) < ?", [before]).fetchall()[0][0]
    con.execute(_FOLLOW)
    first, latest, ticked = _least(first, broker_first), _most(latest, broker_last), _most(ticked, tick)
    watermark = before
    if clock is None:
        watermark = _most(before, _bound(con, latest, ticked, unread))
    elif clock.watermark is not None:
        watermark = _most(before, clock.watermark)
    clocks = [first, latest, ticked, watermark]
    con.execute("UPDATE clock SET first = ?, latest = ?, tick = ?, watermark = ?", clocks)
    if clock is None:
        return Mark(first, latest, watermark, late)
    return Mark(first, clock.latest_broker_time, watermark, late)


def set_back(con: duckdb.DuckDBPyConnection, watermark: int) -> None:
    """Takes over the watermark that the lake has seen."""
    con.execute("UPDATE clock SET watermark = greatest(watermark, ?)", [watermark])


def lively(con: duckdb.DuckDBPyConnection, latest: int | None) -> Lively:
    """Which sources are live and which silent at the latest broker time."""
    if latest is None:
        return Lively([], [])
    rows = con.execute(f"SELECT source, live FROM ({_LIFE}) ORDER BY source", {"latest": latest}).fetchall()
    return Lively([source for source, live in rows if live], [source for source, live in rows if not live])


def _bound(
    con: duckdb.DuckDBPyConnection, latest: int | None, tick: int | None, unread: Collection[Partition]
) -> int | None:
    """Where the watermark would be by what is known now, None for nowhere yet."""
    if latest is None:
        return None
    (least,) = con.execute(f"SELECT min(t) FROM ({_LIFE}) WHERE live", {"latest": latest}).fetchall()[0]
    reached = least if least is not None else tick
    read = {(topic, number): t for topic, number, t in con.execute("FROM partition_clock").fetchall()}
    for partition in unread:
        bound = read.get(partition)
        if bound is None:
            return None
        reached = _least(reached, bound)
    return None if reached is None else reached - LATENESS_US


def _least(one: int | None, other: int | None) -> int | None:
    return min((value for value in (one, other) if value is not None), default=None)


def _most(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)

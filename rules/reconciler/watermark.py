"""The clocks: earliest and latest broker time of any record, and how far event time is settled (contract
3.6).

The watermark is the lowest, over the live sources, of the greatest event time less the lateness; partitions
that still have unread records hold it back too. It never goes back. Times are µs.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from rules.reconciler.absences import show_events
from rules.reconciler.given import Clock, Partition
from rules.reconciler.sources import LIMIT_US
from rules.reconciler.state import has_rows

LATENESS_US = 600 * 1_000_000
"""How far an event may come behind those of later event time and still count as in time."""

_TABLES = """
CREATE TABLE IF NOT EXISTS clock (
  first BIGINT, latest BIGINT, tick BIGINT, watermark BIGINT, reached BIGINT);
CREATE TABLE IF NOT EXISTS source_clock (source VARCHAR, newest BIGINT);
CREATE TABLE IF NOT EXISTS partition_clock (topic VARCHAR, "partition" INTEGER, newest BIGINT)
"""
# newest: the greatest event time of events that are not `future`; reached: see Mark.latest.

_FOLLOW = """
SELECT 'custody.' || stream AS topic, "partition", epoch_us(max(t) FILTER (NOT future)) AS newest,
  count(*) FILTER (epoch_us(t) < $watermark::BIGINT) AS late
FROM new_event GROUP BY stream, "partition"
"""

_FUTURE_NOW = """
CREATE OR REPLACE TEMP TABLE clock_back AS
SELECT DISTINCT source FROM gone_event g JOIN source_clock c USING (source)
  ANTI JOIN (FROM new_event WHERE NOT future) USING (source, event_id, t)
WHERE NOT g.future AND epoch_us(g.t) = c.newest
"""
_BACK = """
UPDATE source_clock c SET newest = n.newest
FROM (
  SELECT source, epoch_us(max(t) FILTER (NOT future)) AS newest FROM source_event
  WHERE source IN (FROM clock_back) GROUP BY source) n
WHERE c.source = n.source
"""
# clock_back: sources whose newest event gave way to a copy of itself that is `future`

_LIVE = f"coalesce($latest::BIGINT - e.before <= {LIMIT_US}, false)"
_HEARD = """
FROM source_end e LEFT JOIN source_clock c USING (source)
WHERE e.beat AND e.after IS NULL AND e.before IS NOT NULL
"""


@dataclass(frozen=True)
class Mark:
    """Where the clocks stand after a step.

    Attributes:
        first: earliest broker time of any record, None before there is one.
        latest: latest such time, by which silence is judged. While partitions have unread records it goes no
            further than what was read of them: a source whose records wait there is not silent.
        watermark: None where nothing is settled.
        late: how many of the step's events were behind the watermark before it.
    """

    first: int | None
    latest: int | None
    watermark: int | None
    late: int


@dataclass(frozen=True)
class Lively:
    """The sources that have spoken: those that are live, and those silent for longer than their limit."""

    live: list[str]
    silent: list[str]


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes what is missing of the tables."""
    con.execute(_TABLES)
    if not con.execute("FROM clock").fetchall():
        con.execute("INSERT INTO clock VALUES (NULL, NULL, NULL, NULL, NULL)")


def advance(
    con: duckdb.DuckDBPyConnection,
    broker_first: int | None,
    broker_last: int | None,
    tick: int | None,
    unread: Collection[Partition] = (),
    clock: Clock | None = None,
) -> Mark:
    """Moves the clocks by the step's records; once a step, after `sources.add`.

    Args:
        con: has the temp tables `new_event` and `gone_event`, and `source_newest` of `sources.add`.
        broker_first: earliest broker time of the step's records, ticks by their `at`.
        broker_last: latest such time.
        tick: the latest tick's `at`.
        unread: partitions that hold records not read yet.
        clock: the watermark and the latest broker time, where somebody else says them.
    """
    ((first, latest, last_tick, before, past),) = con.execute("FROM clock").fetchall()
    first = _least(first, broker_first)
    latest = _most(latest, _most(broker_last, tick))
    last_tick = _most(last_tick, tick)
    late = _follow(con, before)
    read = _read(con, unread)
    if clock is None:
        watermark = _most(before, _reached(con, latest, last_tick, read))
        past = _most(
            past,
            None
            if None in read
            else _least(latest, min((time for time in read if time is not None), default=None)),
        )
    else:
        watermark = _most(before, clock.watermark)
    con.execute(
        "UPDATE clock SET first = ?, latest = ?, tick = ?, watermark = ?, reached = ?",
        [first, latest, last_tick, watermark, past],
    )
    return Mark(first, past if clock is None else clock.latest_broker_time, watermark, late)


def set_back(con: duckdb.DuckDBPyConnection, clock: Clock) -> None:
    """Takes over the watermark and the latest broker time that were put out before."""
    con.execute(
        "UPDATE clock SET watermark = greatest(watermark, ?::BIGINT), reached = greatest(reached, ?::BIGINT)",
        [clock.watermark, clock.latest_broker_time],
    )


def _follow(con: duckdb.DuckDBPyConnection, watermark: int | None) -> int:
    """Notes the step's event times; how many are behind the watermark."""
    partitions = con.sql(_FOLLOW, params={"watermark": watermark}).to_arrow_table()
    if partitions.num_rows:
        _raise(con, "source_clock", con.sql("FROM source_newest").to_arrow_table())
        _raise(
            con, "partition_clock", partitions.drop_columns(["late"]).filter(pc.field("newest").is_valid())
        )
    if has_rows(con, "gone_event"):
        con.execute(_FUTURE_NOW)
        if has_rows(con, "clock_back"):
            show_events(con)
            con.execute(_BACK)
    return pc.sum(partitions["late"]).as_py() or 0


def _raise(con: duckdb.DuckDBPyConnection, clock: str, heard: pa.Table) -> None:
    """Moves a table of `newest` times on to what was heard, where that is later. It is short: written anew it
    costs less than joins would."""
    before = con.sql(f"FROM {clock}").to_arrow_table().cast(heard.schema)
    keys = [name for name in heard.column_names if name != "newest"]
    after = pa.concat_tables([before, heard]).group_by(keys).aggregate([("newest", "max")])
    con.register("clock_now", after.rename_columns([*keys, "newest"]))
    con.execute(f"DELETE FROM {clock}")
    con.execute(f"INSERT INTO {clock} BY NAME FROM clock_now")
    con.unregister("clock_now")


def _read(con: duckdb.DuckDBPyConnection, unread: Collection[Partition]) -> list[int | None]:
    """How far the partitions with unread records were read; None for one of which nothing was."""
    if not unread:
        return []
    rows = con.execute('SELECT topic, "partition", newest FROM partition_clock').fetchall()
    at = {(topic, partition): time for topic, partition, time in rows}
    return [at.get(partition) for partition in unread]


def _reached(
    con: duckdb.DuckDBPyConnection, latest: int | None, tick: int | None, read: Sequence[int | None]
) -> int | None:
    """Where the records so far would put the watermark; None for where it is."""
    ((newest,),) = con.execute(f"SELECT min(c.newest) {_HEARD} AND {_LIVE}", {"latest": latest}).fetchall()
    bounds = [tick if newest is None else newest, *read]
    reached = [bound - LATENESS_US for bound in bounds if bound is not None]
    return min(reached) if len(reached) == len(bounds) else None


def _least(one: int | None, other: int | None) -> int | None:
    return min((time for time in (one, other) if time is not None), default=None)


def _most(one: int | None, other: int | None) -> int | None:
    return max((time for time in (one, other) if time is not None), default=None)


def lively(con: duckdb.DuckDBPyConnection, latest: int | None) -> Lively:
    """Which sources are live and which silent at the latest broker time."""
    rows = con.execute(f"SELECT source, {_LIVE} {_HEARD} ORDER BY source", {"latest": latest}).fetchall()
    return Lively([name for name, live in rows if live], [name for name, live in rows if not live])

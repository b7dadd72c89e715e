"""What is missing from each source: numbers between those that came, and time without a sign of life.

Both are gaps in a set of integers, a source's `source_seq` or the broker times (µs) of its events, and are
kept alike (`beat` tells them apart): the gaps between neighbours further apart than a threshold, and an open
end on either side (`before` or `after` null; both for a source that never spoke). A new value only touches
the gap it falls into, so what a step costs does not depend on the history. Values that leave again and lower
thresholds are rare: then a region is computed anew from `source_event`, all events kept and new.

Of several events with one value the greatest by (t, topic, partition, offset) stands before a gap, and
`next_t` is the least event time at the value after it. All times are µs in BIGINT.
"""

from collections.abc import Iterable

import duckdb
import pyarrow as pa

from rules.reconciler import spans
from rules.reconciler.state import has_rows
from rules.reconciler.store import relation
from schemas.events import EVENTS

DEFAULT_SILENCE_S = 3600
"""How long a source may be silent where no version says (contract 3.6)."""

_STRUCT = "{'t': t, 'topic': topic, 'partition': \"partition\", 'offset': \"offset\", 'event_id': event_id}"
_COLUMNS = (
    "beat BOOLEAN, source VARCHAR, before BIGINT, after BIGINT, "
    't BIGINT, topic VARCHAR, "partition" INTEGER, "offset" BIGINT, event_id VARCHAR, next_t BIGINT'
)
_TABLES = f"""
CREATE TABLE IF NOT EXISTS source_gap ({_COLUMNS});
CREATE TABLE IF NOT EXISTS source_end (
  {_COLUMNS}, since BIGINT, from_at BIGINT, limit_s BIGINT, until BIGINT, fired BOOLEAN, stale BOOLEAN);
CREATE TABLE IF NOT EXISTS source_bound (source VARCHAR, earliest BIGINT, latest BIGINT, least_us BIGINT);
CREATE TEMP TABLE IF NOT EXISTS gap_new ({_COLUMNS});
CREATE TEMP TABLE IF NOT EXISTS gap_cut ({_COLUMNS});
CREATE TEMP TABLE IF NOT EXISTS end_cut (source VARCHAR, since BIGINT);
CREATE TEMP TABLE IF NOT EXISTS gap_region (beat BOOLEAN, source VARCHAR, low BIGINT, high BIGINT)
"""
_EVER = "true"
_NEAR = "broker_time BETWEEN make_timestamp($low::BIGINT) AND make_timestamp($high::BIGINT)"
# source_end: `since` and `from_at` say when the silence at this end began, `limit_s` (null: the default) and
# `until` (null: none) bound it; `fired`: it was found too long; `stale`: these five are to be set.
# gap_new, gap_cut, end_cut: gaps added, gaps taken away and fired ends taken away in this step.

_MARGINS_US = (1_000_000, 60_000_000, DEFAULT_SILENCE_S * 1_000_000)
"""How far around a region its neighbours are looked for, until there are some; no threshold is higher."""

_LEAST_US = f"coalesce(b.least_us, {DEFAULT_SILENCE_S * 1_000_000})"

_ALL = 'source, source_seq, broker_time, future, t, topic, "partition", "offset", event_id'

_SPAN = """
CREATE OR REPLACE TEMP TABLE gap_island AS FROM step_island;
CREATE OR REPLACE TEMP TABLE gap_span AS
SELECT beat, source, min(low) AS low, max(high) AS high, count(*) = 1 AS whole FROM gap_island GROUP BY ALL;
CREATE OR REPLACE TEMP TABLE gap_edge AS FROM step_edge;
CREATE OR REPLACE TEMP TABLE source_newest AS FROM step_newest
"""
# gap_island: the step's values, as stretches whose values lie no further apart than the threshold; gap_span:
# from where to where they reach; gap_edge: the events with the first or the last value of a stretch;
# source_newest: what `watermark.py` asks

_LENGTHEN = f"""
CREATE OR REPLACE TEMP TABLE gap_longer AS
SELECT s.beat, s.source, s.high, s.high > e.before AS beyond
FROM gap_span s JOIN source_end e ON s.beat = e.beat AND s.source = e.source
  LEFT JOIN source_bound b ON s.source = b.source
  LEFT JOIN (
    SELECT beat, source, max(after) AS solid FROM (
      SELECT beat, source, after FROM source_gap UNION ALL
      SELECT beat, source, after FROM source_end WHERE before IS NULL)
    GROUP BY ALL) g ON s.beat = g.beat AND s.source = g.source
WHERE e.after IS NULL AND NOT e.fired AND s.whole AND s.high <> e.before AND s.low > g.solid
  AND s.low::HUGEINT - e.before <= CASE WHEN s.beat THEN {_LEAST_US} ELSE 1 END;
UPDATE source_end e SET before = n.before, t = n.event.t, topic = n.event.topic,
  "partition" = n.event."partition", "offset" = n.event."offset", event_id = n.event.event_id, stale = true
FROM (
  SELECT beat, source, high AS before, max({_STRUCT}) AS event
  FROM gap_edge d JOIN gap_longer USING (beat, source) WHERE beyond AND d."value" = high GROUP BY ALL) n
WHERE e.beat = n.beat AND e.source = n.source AND e.after IS NULL;
DELETE FROM gap_span s USING gap_longer l WHERE s.beat = l.beat AND s.source = l.source;
DELETE FROM gap_island s USING gap_longer l WHERE s.beat = l.beat AND s.source = l.source
"""
# gap_longer: the sources whose values reach on where the last ones ended, or lie where nothing was missing

_FRESH = f"""
CREATE OR REPLACE TEMP TABLE gap_fresh AS
SELECT v.beat, v.source, v."value", any_value(i.high) AS solid_to, false AS old,
  max({_STRUCT}) AS event, min(t) AS next_t
FROM gap_edge v SEMI JOIN gap_span USING (beat, source)
  LEFT JOIN gap_island i ON v.beat = i.beat AND v.source = i.source AND v."value" = i.low
GROUP BY ALL;
INSERT INTO source_end BY NAME
SELECT DISTINCT beat, source, false AS fired, true AS stale
FROM gap_span ANTI JOIN source_end USING (beat, source);
CREATE OR REPLACE TEMP TABLE end_hit AS FROM source_end SEMI JOIN gap_span USING (beat, source);
CREATE OR REPLACE TEMP TABLE gap_hull AS
SELECT beat, source, max(after) AS low, max(before) AS high FROM end_hit GROUP BY ALL;
CREATE OR REPLACE TEMP TABLE gap_over AS
SELECT i.* FROM gap_island i JOIN gap_hull h USING (beat, source) WHERE i.low <= h.high AND i.high >= h.low
"""
# gap_fresh: the first and last values of stretches; end_hit: the ends of their sources; gap_hull: the lowest
# and highest values so far; gap_over: the stretches that do more than lengthen an end.

_HIT = """
CREATE OR REPLACE TEMP TABLE gap_late AS
SELECT f.beat, f.source, f."value", f."value" IN (low, high) AS outermost
FROM gap_fresh f JOIN gap_hull USING (beat, source) WHERE f."value" BETWEEN low AND high;
CREATE OR REPLACE TEMP TABLE gap_near AS FROM source_gap SEMI JOIN gap_over USING (beat, source);
CREATE OR REPLACE TEMP TABLE gap_pair AS
SELECT g.*, l."value" FROM gap_late l ASOF JOIN gap_near g
  ON l.beat = g.beat AND l.source = g.source AND l."value" >= g.before
WHERE l."value" <= g.after
UNION
SELECT g.*, l."value" FROM gap_late l JOIN gap_near g
  ON l.beat = g.beat AND l.source = g.source AND l."value" = g.after;
CREATE OR REPLACE TEMP TABLE gap_hit AS
SELECT * EXCLUDE ("value") FROM gap_pair
UNION
SELECT g.* FROM gap_near g ASOF JOIN gap_over o
  ON g.beat = o.beat AND g.source = o.source AND g.before >= o.low
WHERE g.after <= o.high;
UPDATE gap_fresh f SET old = true
FROM (FROM gap_late ANTI JOIN gap_pair USING (beat, source, "value") WHERE NOT outermost) i
WHERE f.beat = i.beat AND f.source = i.source AND f."value" = i."value"
"""
# gap_hit: the gaps that a stretch ends in, borders on or fills; where there was no gap nothing is new.

_NO_HIT = f"CREATE OR REPLACE TEMP TABLE gap_hit ({_COLUMNS})"

_POINTS = f"""
CREATE OR REPLACE TEMP TABLE gap_point AS
SELECT beat, source, "value", bool_or(old) AS old, max(gap_to) AS gap_to, max(solid_to) AS solid_to,
  max(event) AS event, min(next_t) AS next_t
FROM (
  SELECT beat, source, "value", old, NULL::BIGINT AS gap_to, solid_to, event, next_t FROM gap_fresh
  UNION ALL
  SELECT beat, source, before, true, after, NULL, {_STRUCT}, NULL FROM gap_hit
  UNION ALL
  SELECT beat, source, after, true, NULL, NULL, NULL, next_t FROM gap_hit
  UNION ALL
  SELECT beat, source, before, true, NULL, NULL, {_STRUCT}, NULL FROM end_hit WHERE before IS NOT NULL
  UNION ALL
  SELECT beat, source, after, true, NULL, NULL, NULL, next_t FROM end_hit WHERE after IS NOT NULL)
GROUP BY ALL
"""

_LEAVE = """
INSERT INTO gap_region
SELECT false, g.source, min(source_seq), max(source_seq)
FROM gone_event g SEMI JOIN (
    SELECT source, before, topic, "partition", "offset" FROM source_gap WHERE NOT beat
    UNION ALL SELECT source, before, topic, "partition", "offset" FROM source_end WHERE NOT beat) b
  ON g.source = b.source AND g.source_seq = b.before AND g.topic = b.topic
    AND g."partition" = b."partition" AND g."offset" = b."offset"
GROUP BY g.source
UNION ALL
SELECT true, source, epoch_us(min(broker_time)), epoch_us(max(broker_time))
FROM gone_event WHERE broker_time IS NOT NULL GROUP BY source
"""
# What takes an event's place has its number, which matters only where the event stood before a gap.


def _anew(beat: bool, near: str) -> str:
    """SQL that works out the points of `gap_region` anew, from the events that are `near` (a condition).

    gap_anchor: of each region the nearest values outside, and the threshold as `width`. They lie within it,
    or else across a gap; null where there are none. `lacks`: nothing near was found on one side.
    gap_stretch: from where to where values lie no further apart than the threshold. They are put in order by
    cells as wide as that, of which there are far fewer than events.
    """
    width = _LEAST_US if beat else "1"
    value = "epoch_us(broker_time)" if beat else "source_seq"
    event = _STRUCT.replace("'t': t", "'t': epoch_us(t)")
    return f"""
CREATE OR REPLACE TEMP TABLE gap_anchor AS
WITH region AS (
  SELECT source, CASE WHEN count(low) = count(*) THEN min(low) END AS low,
    CASE WHEN count(high) = count(*) THEN max(high) END AS high
  FROM gap_region WHERE beat = {beat} GROUP BY source),
near AS (
  SELECT r.source, max({value}) FILTER ({value} < r.low) AS below,
    min({value}) FILTER ({value} > r.high) AS above
  FROM region r JOIN source_event e ON r.source = e.source
  WHERE {near} GROUP BY r.source)
SELECT {beat} AS beat, r.source, coalesce(n.below, l.before) AS low, coalesce(n.above, h.after) AS high,
  {width} AS width, n.below IS NULL OR n.above IS NULL AS lacks
FROM region r LEFT JOIN near n ON r.source = n.source LEFT JOIN source_bound b ON r.source = b.source
  LEFT JOIN source_gap l ON l.beat = {beat} AND l.source = r.source AND l.after = r.low
  LEFT JOIN source_gap h ON h.beat = {beat} AND h.source = r.source AND h.before = r.high;
CREATE OR REPLACE TEMP TABLE gap_hit AS
SELECT g.* FROM source_gap g JOIN gap_anchor a USING (beat, source)
WHERE (a.low IS NULL OR g.before >= a.low) AND (a.high IS NULL OR g.after <= a.high);
CREATE OR REPLACE TEMP TABLE end_hit AS
SELECT e.* FROM source_end e JOIN gap_anchor a USING (beat, source)
WHERE (a.low IS NULL AND e.before IS NULL) OR (a.high IS NULL AND e.after IS NULL);
CREATE OR REPLACE TEMP TABLE gap_stretch AS
WITH cell AS (
  SELECT source, width, "value" - ("value" % width + width) % width AS cell,
    min("value") AS low, max("value") AS high
  FROM (SELECT source, {value} AS "value" FROM source_event WHERE {near}) JOIN gap_anchor a USING (source)
  WHERE (a.low IS NULL OR "value" >= a.low) AND (a.high IS NULL OR "value" <= a.high)
  GROUP BY ALL),
marked AS (
  SELECT *, coalesce(low::HUGEINT - lag(high) OVER w > width, true) AS begins
  FROM cell WINDOW w AS (PARTITION BY source ORDER BY cell))
SELECT source, min(low) AS low, max(high) AS high FROM (
  SELECT *, count(*) FILTER (begins) OVER (PARTITION BY source ORDER BY cell) AS number FROM marked)
GROUP BY source, number;
CREATE OR REPLACE TEMP TABLE gap_point AS
WITH reached AS (
  SELECT source, low AS "value", high AS solid_to FROM gap_stretch
  UNION ALL SELECT source, high, NULL FROM gap_stretch)
SELECT {beat} AS beat, source, "value", false AS old, NULL::BIGINT AS gap_to, max(solid_to) AS solid_to,
  max(event) AS event, min(next_t) AS next_t
FROM (
  SELECT source, "value", solid_to, event, next_t
  FROM reached JOIN (
    SELECT source, {value} AS "value", {event} AS event, epoch_us(t) AS next_t FROM source_event WHERE {near})
  USING (source, "value")
  UNION ALL
  SELECT source, before, NULL, {_STRUCT}, NULL
  FROM gap_hit JOIN gap_anchor a USING (beat, source) WHERE before = a.low
  UNION ALL
  SELECT source, after, NULL, NULL, next_t
  FROM gap_hit JOIN gap_anchor a USING (beat, source) WHERE after = a.high)
GROUP BY ALL
"""


_PAIRS = f"""
CREATE OR REPLACE TEMP TABLE gap_step AS
SELECT beat, source, "value" AS before, old, gap_to, event, next_t AS own_t,
  coalesce(max(solid_to) OVER w > "value", false) AS solid, lag("value") OVER w AS previous,
  lead("value") OVER w AS after, lead(old) OVER w AS next_old, lead(next_t) OVER w AS next_t
FROM gap_point WINDOW w AS (PARTITION BY beat, source ORDER BY "value");
INSERT INTO gap_cut FROM gap_hit;
INSERT INTO end_cut SELECT source, since FROM end_hit WHERE fired;
DELETE FROM gap_new n USING gap_hit h WHERE n.beat = h.beat AND n.source = h.source AND n.before = h.before;
CREATE OR REPLACE TEMP TABLE gap_added AS
SELECT s.beat, s.source, s.before, s.after, unnest(s.event), s.next_t
FROM gap_step s LEFT JOIN source_bound b ON s.source = b.source
WHERE s.after::HUGEINT - s.before
    > CASE WHEN s.beat THEN {_LEAST_US} ELSE 1 END
  AND NOT s.solid AND (NOT s.old OR NOT s.next_old OR s.gap_to = s.after);
INSERT INTO gap_new FROM gap_added
"""
# Between two values that were there before nothing is new, unless they are the ends of a gap that was hit;
# up to `solid_to` no two values are further apart than the threshold.

_CUT = """
DELETE FROM source_gap g USING gap_hit h WHERE g.beat = h.beat AND g.source = h.source AND g.before = h.before
"""

_ENDS = """
INSERT INTO source_gap FROM gap_added;
DELETE FROM source_end e USING end_hit h
WHERE e.beat = h.beat AND e.source = h.source AND e.before IS NOT DISTINCT FROM h.before
  AND e.after IS NOT DISTINCT FROM h.after;
INSERT INTO source_end BY NAME
SELECT beat, source, before, unnest(event), false AS fired, true AS stale
FROM gap_step SEMI JOIN (FROM end_hit WHERE after IS NULL) USING (beat, source) WHERE after IS NULL
UNION ALL BY NAME
SELECT beat, source, before AS after, own_t AS next_t, false AS fired, true AS stale
FROM gap_step SEMI JOIN (FROM end_hit WHERE before IS NULL) USING (beat, source) WHERE previous IS NULL
UNION ALL BY NAME
SELECT DISTINCT beat, source, false AS fired, true AS stale
FROM end_hit ANTI JOIN gap_step USING (beat, source)
"""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes what is missing of the tables; `store.create` comes first."""
    con.execute(_TABLES)


def show_events(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the view `source_event`: all events kept and new, some of the new ones twice."""
    kept = [f"SELECT {_ALL} FROM {relation(con, record)}" for record in EVENTS.values()]
    con.execute(
        f"CREATE OR REPLACE TEMP VIEW source_event AS {' UNION ALL '.join(kept)} "
        f"UNION ALL SELECT {_ALL} FROM new_event"
    )


def add(con: duckdb.DuckDBPyConnection, new: Iterable[pa.Table] | None = None) -> None:
    """Takes in `new_event` (`new`: the tables it is a view of), then takes out `gone_event`."""
    if has_rows(con, "new_event"):
        _take(con, new)
    if has_rows(con, "gone_event"):
        con.execute(_LEAVE)
    for beat in (False, True):
        if has_rows(con, f"gap_region WHERE beat = {beat}"):
            _work_out_anew(con, beat)


def _work_out_anew(con: duckdb.DuckDBPyConnection, beat: bool) -> None:
    """Finds the gaps in `gap_region` again; of broker times only their surroundings in time are read."""
    (bounds,) = con.execute(
        "SELECT count(low) = count(*), min(low), max(high) FROM gap_region WHERE beat = ?", [beat]
    ).fetchall()
    limited, low, high = bounds
    show_events(con)
    if not (limited and beat):
        con.execute(_anew(beat, _EVER))
        _replace(con)
        return
    find_anchors, *rest = _anew(beat, _NEAR).split(";")
    for margin in _MARGINS_US:
        surroundings = {"low": low - margin, "high": high + margin}
        con.execute(find_anchors, surroundings)
        if not has_rows(con, "gap_anchor WHERE lacks"):
            break
    for statement in rest:
        con.execute(statement, surroundings if "$low" in statement else None)
    _replace(con)


def _take(con: duckdb.DuckDBPyConnection, new: Iterable[pa.Table] | None) -> None:
    measured = spans.measure(con, DEFAULT_SILENCE_S * 1_000_000, new)
    tables = {"step_island": measured.islands, "step_edge": measured.edges, "step_newest": measured.newest}
    for name, table in tables.items():
        con.register(name, table)
    con.execute(_SPAN)
    for name in tables:
        con.unregister(name)
    con.execute(_LENGTHEN)
    if not has_rows(con, "gap_span"):
        return
    con.execute(_FRESH)
    con.execute(_HIT if has_rows(con, "gap_over") else _NO_HIT)
    con.execute(_POINTS)
    _replace(con)


def _replace(con: duckdb.DuckDBPyConnection) -> None:
    """Puts the gaps and ends between the points in the place of those that were hit."""
    con.execute(_PAIRS)
    if has_rows(con, "gap_hit"):
        con.execute(_CUT)
    con.execute(_ENDS)

"""Which allocations to cut from events of all kinds.

`coverage_late` notes what reaches back behind `coverage_clock`, the watermark of the last update.
"""

from dataclasses import dataclass, fields

import duckdb
import numpy as np
import pyarrow as pa

from rules.asof import Ints
from rules.reconciler.coverage_open import Bits, Open
from rules.reconciler.pieces import Mask
from rules.reconciler.watermark import LATENESS_US

BEGINNING = -LATENESS_US - 1
"""A time (µs) before every watermark: events are from 1970 on, and it is the lateness behind them."""

_CREATE = """
CREATE TABLE IF NOT EXISTS coverage_late (allocation_id VARCHAR, from_t TIMESTAMP, voids BOOLEAN);
CREATE TABLE IF NOT EXISTS coverage_clock (t TIMESTAMP);
"""

_LATE = """
INSERT INTO coverage_late
SELECT allocation_id, min(t), bool_or(stream = 'allocation')
FROM (
  SELECT stream, t, allocation_id FROM new_event UNION ALL SELECT stream, t, allocation_id FROM gone_event)
WHERE allocation_id IS NOT NULL AND t <= make_timestamp($before)
GROUP BY allocation_id
"""

_REACHED = (
    "SELECT allocation_id, epoch_us(min(from_t)) AS from_t FROM reach_allocation GROUP BY allocation_id"
)
_REACH = "INSERT INTO coverage_late SELECT allocation_id, make_timestamp(from_t), false FROM coverage_reach"

PASSED = "t > make_timestamp({before}) AND t <= make_timestamp({now})"

_SCOPE = """
CREATE OR REPLACE TEMP TABLE coverage_scope AS
WITH due AS (
  SELECT allocation_id FROM allocation WHERE {passed}
  UNION SELECT allocation_id FROM placement WHERE allocation_id IS NOT NULL AND {passed}
), scope AS (
  SELECT allocation_id, true AS late, min(from_t) AS from_t, bool_or(voids) AS voids FROM coverage_late
  GROUP BY ALL
  UNION ALL
  SELECT allocation_id, false, NULL, false FROM due ANTI JOIN coverage_late USING (allocation_id)
)
SELECT row_number() OVER (ORDER BY allocation_id) - 1 AS number, * FROM scope;
CREATE OR REPLACE TEMP TABLE coverage_on AS SELECT number, allocation_id FROM coverage_scope WHERE NOT late;
CREATE OR REPLACE TEMP TABLE coverage_again AS SELECT number, allocation_id FROM coverage_scope WHERE late
"""

_READ_SCOPE = (
    "SELECT allocation_id, late, epoch_us(from_t) AS from_t, voids FROM coverage_scope ORDER BY number"
)


@dataclass(frozen=True)
class Scope:
    """Some allocations to cut: one value each, and its slot where it is open (-1 where not).

    Of a `late` one all events are given, and what ends at or after `limit` (µs) is written again; of the
    others what starts at or after it. `replaces`: pieces may have been written from there on, of others than
    late ones just the one that ran then, with these `links`; `voids`: perhaps none of them is left.
    """

    ids: pa.StringArray
    slots: Ints
    late: Mask
    limit: Ints
    replaces: Mask
    links: Bits
    voids: Mask

    def __getitem__(self, part: slice) -> "Scope":
        return Scope(*(getattr(self, field.name)[part] for field in fields(self)))


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    con.execute(_CREATE)


def watermark(con: duckdb.DuckDBPyConnection) -> int:
    """The watermark (µs) of the last update, BEGINNING before the first."""
    rows = con.execute("SELECT epoch_us(t) FROM coverage_clock").fetchall()
    return int(rows[0][0]) if rows else BEGINNING


def note(con: duckdb.DuckDBPyConnection, held: Open, before: int) -> None:
    """Notes which allocations the step's events and versions reach back to, behind `before` (µs)."""
    con.execute(_LATE, {"before": before})
    reached = con.sql(_REACHED).to_arrow_table().combine_chunks()
    if reached.num_rows:
        late = _reach(held, _column(reached, "allocation_id"), ints(_column(reached, "from_t")), before)
        con.register("coverage_reach", reached.filter(pa.array(late)))
        con.execute(_REACH)
        con.unregister("coverage_reach")


def _reach(held: Open, ids: pa.Array, from_t: Ints, before: int) -> Mask:
    """Which of these allocations versions from some time on make late: not those whose last piece began
    before it, since a piece is judged at its start. What begins later is judged anew."""
    slots = held.find(ids)
    is_open = slots >= 0
    opened = slots[is_open]
    held.set(opened, {"until": np.minimum(held["until"][opened], from_t[is_open])})
    late = from_t <= before
    late[is_open] &= from_t[is_open] <= held["from_at"][opened]
    return late


def select(con: duckdb.DuckDBPyConnection, held: Open, before: int, now: int) -> Scope:
    """What is to be cut from events of all kinds: the allocations that events other than accesses name, up to
    `now`, and those that something reaches back to. The others go on from what is carried.

    Makes `coverage_scope`, and of it `coverage_on` and, of the late, `coverage_again`.
    """
    con.execute(_SCOPE.format(passed=PASSED.format(before=before, now=now)))
    return _scope(held, con.sql(_READ_SCOPE).to_arrow_table())


def _scope(held: Open, rows: pa.Table) -> Scope:
    ids, late = _column(rows, "allocation_id"), mask(_column(rows, "late"))
    slots = held.find(ids)
    limit = ints(_column(rows, "from_t").fill_null(BEGINNING)).copy()
    goes_on = ~late & (slots >= 0)
    limit[goes_on] = held["from_at"][slots[goes_on]]
    replaces = late.copy()
    replaces[goes_on] = held["written"][slots[goes_on]]
    links = np.zeros(len(late), np.uint8)
    links[goes_on] = held["links"][slots[goes_on]]
    return Scope(ids, slots, late, limit, replaces, links, mask(_column(rows, "voids")))


def _column(table: pa.Table, name: str) -> pa.Array:
    return table[name].combine_chunks()


def ints(column: pa.Array) -> Ints:
    """An int column without nulls."""
    values: Ints = column.to_numpy(zero_copy_only=False)
    return values


def mask(column: pa.Array) -> Mask:
    """A bool column without nulls."""
    flags: Mask = column.to_numpy(zero_copy_only=False)
    return flags

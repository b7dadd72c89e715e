"""When allocations were open (contract section 4, "Open at t"), and how much was open beside an event.

`interval_open` and `interval_closed` have one row per `allocated` event: `allocation_id`, `authorization_id`,
`from_t`, `to_t` (null while it is open), `accelerators`; of one that never had effect it ends where it
begins. `code` is the hash of the authorization, `serials` those of the serials that the event lists, as often
as it does: what is asked is found by them among millions, then compared as text. What is closed is kept
apart, and asked only from a time on, so that the cost of a step follows what is open and not what ever was.
"""

from datetime import datetime

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rules.asof import FOREVER, Ints
from rules.growing import ascending, distinct
from rules.reconciler.pieces import keys
from rules.reconciler.state import least, moment
from rules.reconciler.store import allocation_events

ACCELERATORS = "coalesce(accelerators, nullif(len(serials), 0), 1)"
"""What an allocation counts as: what it says, else the serials listed, else one."""

LATEST = 'source DESC, event_id DESC, "partition" DESC, "offset" DESC'
"""Of several events at one time the first in this order counts (contract 3.2)."""

_LATEST_LAST = 'source, event_id, "partition", "offset"'  # the same the other way round

CHAIN_COLUMNS = (
    'allocation_id, action, t, source, event_id, "partition", "offset", '
    "party_id_sent, principal, authorization_id"
)
"""What `changed_chain` has of an allocation's events.

Also `accelerators`, `serials`, `changed_from` (since when the allocation has changed) and `row`, from 0."""

_READ = f"{CHAIN_COLUMNS}, accelerators, serials"

_INTERVAL = (
    "allocation_id VARCHAR, authorization_id VARCHAR, code UBIGINT, from_t TIMESTAMP, to_t TIMESTAMP, "
    "accelerators BIGINT, serials UBIGINT[]"
)

_CREATE = f"""
CREATE TABLE IF NOT EXISTS interval_open ({_INTERVAL});
CREATE TABLE IF NOT EXISTS interval_closed ({_INTERVAL});
"""

_CHAIN = f"""
CREATE OR REPLACE TEMP TABLE changed_chain AS
SELECT *, row_number() OVER () - 1 AS row
FROM (SELECT {_READ} FROM {{kept}} UNION ALL SELECT {_READ} FROM new_allocation)
JOIN (SELECT allocation_id, from_t AS changed_from FROM changed_allocation) USING (allocation_id)
"""

_NARROW_CHAIN = """
SELECT allocation_id, action = 'allocated' AS allocated, action = 'released' AS released, t
FROM changed_chain ORDER BY row
"""

_RANKED_CHAIN = f"SELECT row FROM changed_chain ORDER BY t, {_LATEST_LAST}"

_BEGINNINGS = "(SELECT t FROM changed_chain UNION ALL SELECT from_t FROM changed_allocation)"
"""Nothing that is held of the changed ids began before the least of these times."""

_CHANGED = f"""
CREATE OR REPLACE TEMP TABLE changed_interval AS
SELECT allocation_id, authorization_id, hash(authorization_id) AS code, t AS from_t, to_t,
  {ACCELERATORS} AS accelerators, list_transform(serials, lambda serial: hash(serial)) AS serials
FROM changed_chain JOIN chain_end USING (row) WHERE to_t IS NULL OR to_t >= changed_from;

INSERT INTO interval_open BY NAME FROM changed_interval WHERE to_t IS NULL;
INSERT INTO interval_closed BY NAME FROM changed_interval WHERE to_t IS NOT NULL;
"""

_OF_AUTHORIZATION = """
SELECT authorization_id AS key, allocation_id, from_t, to_t, accelerators AS amount
FROM (
  FROM interval_open WHERE code IN (SELECT hash(key) FROM {asked})
  UNION ALL FROM interval_closed
  WHERE to_t > {since} AND from_t < to_t AND code IN (SELECT hash(key) FROM {asked}))
WHERE authorization_id IN (SELECT key FROM {asked})
"""

_LISTING = """
CREATE OR REPLACE TEMP TABLE serial_listing AS
SELECT DISTINCT key, allocation_id, from_t, to_t
FROM (
  SELECT unnest(serials) AS code, allocation_id, from_t, to_t
  FROM (FROM interval_open UNION ALL FROM interval_closed WHERE to_t > {since} AND from_t < to_t))
JOIN (SELECT DISTINCT key, hash(key) AS code FROM {asked}) USING (code)
"""
"""An event may list one serial twice."""

_OF_SERIAL = f"""
SELECT key, allocation_id, from_t, to_t, 1 AS amount
FROM serial_listing SEMI JOIN (
  SELECT allocation_id, t AS from_t, unnest(serials) AS key
  FROM (
    FROM {{events}} WHERE action = 'allocated'
    QUALIFY row_number() OVER (PARTITION BY allocation_id, t ORDER BY {LATEST}) = 1)
) USING (key, allocation_id, from_t)
"""

_BESIDE = """
WITH running_interval AS (
  SELECT *, greatest(from_t, {since}) AS begin_t FROM ({intervals})
), running AS (
  SELECT key, t, sum(sum(amount)) OVER (PARTITION BY key ORDER BY t) AS amount
  FROM (
    SELECT key, begin_t AS t, amount FROM running_interval
    UNION ALL
    SELECT key, to_t, -amount FROM running_interval WHERE to_t IS NOT NULL)
  GROUP BY key, t
)
SELECT a.* EXCLUDE (key), (coalesce(r.amount, 0) - coalesce(own.amount, 0))::HUGEINT AS beside
FROM {asked} a
ASOF LEFT JOIN running r ON a.key = r.key AND a.t >= r.t
LEFT JOIN running_interval own
  ON own.key = a.key AND own.allocation_id = a.allocation_id AND own.from_t = a.t
"""


_SPANS = """
SELECT code, low, high
FROM (
  SELECT unnest(serials) AS code, epoch_us(from_t) AS low, {forever} AS high FROM interval_open
  UNION ALL
  SELECT unnest(serials), epoch_us(from_t), greatest(epoch_us(to_t), epoch_us(from_t) + 1)
  FROM interval_closed WHERE to_t >= {since})
WHERE code IN (SELECT code FROM {asked})
"""


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables where they are missing."""
    con.execute(_CREATE)


def follow(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the intervals of the ids in `changed_allocation` anew, as far as its `from_t` touches them, from
    `allocation` and `new_allocation`; and `changed_chain`, all events of these ids."""
    con.execute(_CHAIN.format(kept=allocation_events(con, "changed_allocation")))
    since = least(con, "changed_allocation", "from_t")
    if since is not None:
        _forget(con, least(con, _BEGINNINGS, "t") or since, since)
    con.register("chain_end", _ends(con))
    con.execute(_CHANGED)  # leaves its tables behind, with rows or without
    con.unregister("chain_end")


def _ends(con: duckdb.DuckDBPyConnection) -> pa.Table:
    """Of each `allocated` event its `row` in `changed_chain` and `to_t`, when it ceased to have effect: with
    the next of its allocation or a release, null for neither. In SQL it takes twice as long."""
    chain = con.sql(_NARROW_CHAIN).to_arrow_table().combine_chunks()
    owner = _ints(chain["allocation_id"].combine_chunks().dictionary_encode().indices)
    t, allocated = _ints(chain["t"]), chain["allocated"].to_numpy()
    key = keys(owner, t)
    released = np.flatnonzero(chain["released"].to_numpy())
    released = np.append(released[np.argsort(key[released])], -1)
    order = np.flatnonzero(allocated)
    order = order[np.argsort(key[order])]
    if (key[order][1:] == key[order][:-1]).any():  # nearly never are there several at one time
        rank = np.argsort(_ints(con.sql(_RANKED_CHAIN).to_arrow_table()["row"]))
        order = order[np.lexsort((rank[order], owner[order]))]
    following = np.append(order[1:], -1)[: len(order)]
    release = released[np.searchsorted(key[released[:-1]], key[order])]
    ends = [
        np.where((after >= 0) & (owner[after] == owner[order]), t[after], FOREVER)
        for after in (following, release)
    ]
    to_t = np.minimum(*ends)
    return pa.table(
        {
            "row": pa.array(order),
            "to_t": pa.array(to_t, mask=to_t == FOREVER).cast(pa.timestamp("us")),
        }
    )


def _ints(column: pa.Array | pa.ChunkedArray) -> Ints:
    values: Ints = column.cast(pa.int64()).to_numpy()
    return values


def _forget(con: duckdb.DuckDBPyConnection, first: str, since: str) -> None:
    """Takes out the intervals of the changed ids; literal times, so that others are passed over unread.

    `first`: none of them begins before it; `since`: the least time from which any has changed.
    """
    con.execute(
        f"DELETE FROM interval_open i USING changed_allocation c WHERE i.from_t >= {first} "
        "AND i.allocation_id = c.allocation_id"
    )
    con.execute(
        f"DELETE FROM interval_closed i USING changed_allocation c WHERE i.to_t >= {since} "
        "AND i.allocation_id = c.allocation_id AND i.to_t >= c.from_t"
    )


def beside_authorization(con: duckdb.DuckDBPyConnection, asked: str) -> str:
    """A query: the rows of `asked` (`key` the authorization, `t`, `allocation_id`, …) with `beside`, the
    accelerators that other allocations had open under it at `t`."""
    since = _since(con, asked)
    return _BESIDE.format(
        asked=asked, since=since, intervals=_OF_AUTHORIZATION.format(asked=asked, since=since)
    )


def beside_serial(con: duckdb.DuckDBPyConnection, asked: str) -> str:
    """The same with `key` a serial: how many other allocations that were open at `t` list it.

    Expects the step's allocation events to be kept. Good until the next call.
    """
    since = _since(con, asked)
    con.execute(_LISTING.format(asked=asked, since=since))
    events = allocation_events(con, "serial_listing")
    return _BESIDE.format(asked=asked, since=since, intervals=_OF_SERIAL.format(events=events))


def shared(con: duckdb.DuckDBPyConnection, asked: str) -> npt.NDArray[np.uint64]:
    """The codes of serials in `asked` (`code` and `t` of `allocated` events that are held) that several
    allocations list at one time, the least `t` or later: those that do, and some that do not.

    In the order of their beginnings two spans overlap where one does with the next. Over arrays it takes half
    of what it does in SQL.
    """
    since = _since(con, asked)
    spans = con.sql(_SPANS.format(asked=asked, since=since, forever=FOREVER)).fetchnumpy()
    order = ascending(spans["code"])
    codes = spans["code"][order]
    owner = np.cumsum(np.append(False, codes[1:] != codes[:-1]))[: len(codes)]
    order = order[ascending(keys(owner, spans["low"][order]))]
    low, high = spans["low"][order], spans["high"][order]
    overlaps = (owner[1:] == owner[:-1]) & (low[1:] < high[:-1])
    return distinct(codes[1:][overlaps])


def _since(con: duckdb.DuckDBPyConnection, asked: str) -> str:
    """The least time that is asked for, as a literal."""
    return least(con, asked, "t") or moment(datetime.max)

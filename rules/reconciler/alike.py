"""Comparing events field by field: which have one id, and which of those are the same.

*Candidates* are events by number: new rows as they landed, and entries of the index, whose fields are read
from the tables of kept events by coordinates and event time, so that only the parts of a table are read that
hold such times. Fields are compared as decoded, null being an empty list.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from rules.reconciler.runs import Entries, Ints
from rules.reconciler.store import TABLE, columns, kept, listed, relation
from schemas.events import EVENTS
from schemas.record import Record, Type

TOPICS = sorted(EVENTS)
"""The topics by code; codes sort as the topics do."""

_SPANS = 64  # at most so many look-ups in one table
_APART_US = 1_000_000  # event times no further apart are looked up at once

_HELD = """
INSERT INTO held_{stream}
SELECT {columns}, a.number FROM {events} e JOIN held_asked a USING ("partition", "offset")
WHERE e.t BETWEEN {low} AND {high}
"""

_CLASSES = """
INSERT INTO alike_class
SELECT source, event_id, list(number)
FROM (SELECT {fields}, number FROM alike_new UNION ALL SELECT {fields}, number FROM held_{stream})
GROUP BY {names}
"""


@dataclass(frozen=True)
class Alike:
    """Candidates by id, and within an id by class: what is the same.

    Attributes:
        ids: the `source` and `event_id` of each id.
        numbers: the candidates, class by class.
        classes: where in `numbers` each class starts, and the end.
        of_ids: where among the classes each id's start, and the end.
    """

    ids: pa.Table
    numbers: Ints
    classes: Ints
    of_ids: Ints


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables for this connection; `store.create` comes first."""
    con.execute("CREATE TEMP TABLE alike_class (source VARCHAR, event_id VARCHAR, numbers BIGINT[])")
    for record in EVENTS.values():
        con.execute(
            f"CREATE TEMP TABLE held_{record.name} AS "
            f'SELECT {listed(record)}, 0::BIGINT AS number FROM "{TABLE[record.name]}" LIMIT 0'
        )


def read_held(con: duckdb.DuckDBPyConnection, held: Entries, numbers: Ints) -> None:
    """Fills `held_<stream>`: kept events with their `number`. What is not kept any more is left out."""
    for record in EVENTS.values():
        con.execute(f"DELETE FROM held_{record.name}")
        mine = np.flatnonzero(held.place >> 32 == TOPICS.index(record.topic))
        if len(mine) == 0:
            continue
        for span in _spans(held.t[mine]):
            asked = held.take(mine[span])
            places = [asked.place & 0xFFFFFFFF, asked.offset, numbers[mine[span]]]
            low, high = (f"make_timestamp({t})" for t in (asked.t.min(), asked.t.max()))
            con.register("held_asked", pa.table(places, ["partition", "offset", "number"]))
            con.execute(
                _HELD.format(
                    stream=record.name,
                    events=relation(con, record, low, high),
                    columns=listed(record, "e"),
                    low=low,
                    high=high,
                )
            )
            con.unregister("held_asked")


def compare(con: duckdb.DuckDBPyConnection, new: Mapping[str, tuple[pa.Table, Ints]]) -> Alike:
    """Compares new rows (by stream, with their numbers) and what is in `held_<stream>`."""
    con.execute("DELETE FROM alike_class")
    for record in EVENTS.values():
        rows, numbers = new[record.name]
        con.register("alike_new", kept(rows, record).append_column("number", pa.array(numbers)))
        fields = _fields(record)
        names = ", ".join(f'"{name}"' for name in fields)
        con.execute(_CLASSES.format(fields=", ".join(fields.values()), names=names, stream=record.name))
        con.unregister("alike_new")
    found = con.sql("SELECT source, event_id, list(numbers) AS classes FROM alike_class GROUP BY ALL")
    ids = found.to_arrow_table().combine_chunks()
    by_id = ids["classes"].combine_chunks()
    by_class = by_id.flatten()
    return Alike(
        ids.select(["source", "event_id"]),
        by_class.flatten().to_numpy(),
        _starts(by_class),
        _starts(by_id),
    )


def _starts(lists: pa.ListArray) -> Ints:
    """Where each list starts in the flattened array, and the end."""
    offsets: Ints = lists.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0]


def _fields(record: Record) -> dict[str, str]:
    """The fields that make a kept event what it is: column → SQL."""
    fields = zip(columns(record), record.fields, strict=False)  # the fields come first
    return {
        name: f'nullif("{name}", []::VARCHAR[]) AS "{name}"' if field.type is Type.STRINGS else f'"{name}"'
        for name, field in fields
    }


def _spans(times: Ints) -> Iterator[Ints]:
    """Positions in groups with times near each other: the widest gaps lie between the groups."""
    order = np.argsort(times)
    gaps = np.diff(times[order])
    widest = np.argsort(gaps)[len(gaps) - min(len(gaps), _SPANS - 1) :]
    cuts = np.sort(widest[gaps[widest] > _APART_US]) + 1
    yield from np.split(order, cuts)

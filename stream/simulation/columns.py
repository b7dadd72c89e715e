"""Events as columns, before they are numbered and encoded.

A *column set* maps field names to lists of equal length, plus `AT` (event time) and `ARRIVAL` (when the
emitter hands it over), both int µs. Times become strings and `SEQ` is numbered in `messages`.
"""

from collections.abc import Iterable
from typing import Any

from schemas.events import ACCESS, ALLOCATION, PLACEMENT
from stream.simulation.world import Fields

AT, ARRIVAL, SEQ = "_at", "_arrival", "source_seq"
AUTO = -1
"""In a column of `SEQ`: to be numbered. Null stays null, other numbers stay as they are."""
Columns = dict[str, list[Any]]

_EXTRA = {ALLOCATION.name: ("cluster", "state"), ACCESS.name: ("user_agent",), PLACEMENT.name: ()}
"""Fields that the contract does not name and real emitters send all the same."""
FIELDS = {
    record.name: tuple(f.name for f in record.fields if f.name not in ("occurred_at", "source_seq"))
    + _EXTRA[record.name]
    for record in (ALLOCATION, ACCESS, PLACEMENT)
}


def collect(stream: str, rows: Iterable[Fields]) -> Columns:
    """Rows as columns; what a row lacks is null."""
    names = (*FIELDS[stream], AT, ARRIVAL)
    taken = list(rows)
    columns = {name: [row.get(name) for row in taken] for name in names}
    return columns | {SEQ: [row.get(SEQ, AUTO) for row in taken]}

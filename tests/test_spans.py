"""What a step's events say of their sources, against a plain reading."""

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.reconciler import absences, spans, store
from schemas.events import ACCESS
from tests.test_source_life import Event, take

_NUMBERS = st.one_of(
    st.none(), st.integers(0, 4), st.sampled_from([-(1 << 63), 1 - (1 << 63), (1 << 63) - 2, (1 << 63) - 1])
)
_EVENTS = st.lists(
    st.builds(
        Event,
        st.just(0),
        st.sampled_from(["a", "b", "c"]),
        _NUMBERS,
        st.integers(0, 9),
        st.integers(0, 4),
        future=st.booleans(),
    ),
    max_size=12,
).map(lambda events: [Event(**{**vars(event), "offset": place}) for place, event in enumerate(events)])


def connection() -> duckdb.DuckDBPyConnection:
    """With the tables that are read; the broker times of source a may lie 1 µs apart."""
    con = duckdb.connect(config={"threads": "1"})
    store.create(con)
    absences.create(con)
    con.execute("INSERT INTO source_bound VALUES ('a', NULL, NULL, 1)")
    return con


def apart(values: list[int], limit: int) -> list[list[int]]:
    """Ascending values, cut where neighbours lie further apart than the limit."""
    islands: list[list[int]] = []
    for value in values:
        if islands and value - islands[-1][-1] <= limit:
            islands[-1].append(value)
        else:
            islands.append([value])
    return islands


@settings(max_examples=40)
@given(_EVENTS)
def test_as_a_plain_reading(events: list[Event]) -> None:
    con = connection()
    take(con, events, ())
    found = spans.measure(con, 3)
    islands, edges = [], set()
    for beat in (False, True):
        for name in {e.source for e in events}:
            valued = [(e.broker_time if beat else e.seq, e) for e in events if e.source == name]
            limit = 1 if not beat else 1 if name == "a" else 3
            for island in apart(sorted({value for value, _ in valued if value is not None}), limit):
                islands.append((beat, name, island[0], island[-1]))
                edges |= {
                    (beat, name, v, e.t, *e.place, f"e{e.offset}")
                    for v, e in valued
                    if v in (island[0], island[-1])
                }
    assert sorted(tuple(row.values()) for row in found.islands.to_pylist()) == sorted(islands)
    assert {tuple(row.values()) for row in found.edges.to_pylist()} == edges
    newest = {
        e.source: max(o.t for o in events if o.source == e.source and not o.future)
        for e in events
        if not e.future
    }
    assert dict(zip(*(column.to_pylist() for column in found.newest), strict=True)) == newest


def test_the_tables_say_what_their_view_says() -> None:
    con = connection()
    take(
        con, [Event(n, f"s{n % 3}", n // 3 if n % 2 else None, n, 9 - n, n % 2, n == 5) for n in range(9)], ()
    )
    rows = con.sql("FROM new_access").to_arrow_table()
    empty = store.nothing_new(ACCESS).select(rows.column_names)
    rows = rows.cast(empty.schema)
    one, other = spans.measure(con, 3), spans.measure(con, 3, [rows.slice(0, 4), empty, rows.slice(4)])
    for name in ("islands", "edges", "newest"):
        assert getattr(one, name).sort_by("source").equals(getattr(other, name).sort_by("source")), name

"""What a step's events say of their sources, against a plain reading."""

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.reconciler import spans, store
from rules.reconciler.given import event_schema
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


@settings(max_examples=40, deadline=None)
@given(_EVENTS)
def test_as_a_plain_reading(events: list[Event]) -> None:
    con = duckdb.connect(config={"threads": "1"})
    store.create(con)
    take(con, events, ())
    found = spans.measure(con)
    whole, edges = {}, set()
    for beat in (False, True):
        for name in {e.source for e in events}:
            valued = [(e.broker_time if beat else e.seq, e) for e in events if e.source == name]
            values = {value for value, _ in valued if value is not None}
            if values:
                low, high = min(values), max(values)
                whole[beat, name] = low, high, len(values) == high - low + 1
                edges |= {
                    (beat, name, v, e.t, *e.place, f"e{e.offset}") for v, e in valued if v in (low, high)
                }
    assert {
        (r["beat"], r["source"]): (r["low"], r["high"], r["whole"]) for r in found.spans.to_pylist()
    } == whole
    assert len(found.spans) == len(whole)
    assert {tuple(row.values()) for row in found.edges.to_pylist()} == edges
    newest = {
        e.source: max(o.t for o in events if o.source == e.source and not o.future)
        for e in events
        if not e.future
    }
    assert dict(zip(*(column.to_pylist() for column in found.newest), strict=True)) == newest


def test_the_tables_say_what_their_view_says() -> None:
    con = duckdb.connect(config={"threads": "1"})
    store.create(con)
    take(
        con, [Event(n, f"s{n % 3}", n // 3 if n % 2 else None, n, 9 - n, n % 2, n == 5) for n in range(9)], ()
    )
    rows = con.sql("FROM new_access").to_arrow_table()
    empty = store.kept(event_schema(ACCESS).empty_table(), ACCESS)
    one, other = spans.measure(con), spans.measure(con, [rows.slice(0, 4), empty, rows.slice(4)])
    for name in ("spans", "edges", "newest"):
        assert getattr(one, name).sort_by("source").equals(getattr(other, name).sort_by("source")), name

"""When allocations were open, and what was open beside an event, against loops over all events."""

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta

import duckdb
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.reconciler import intervals, state
from rules.reconciler.store import CODE

START = datetime(2026, 3, 2, 10, tzinfo=UTC).replace(tzinfo=None)
COLUMNS = (
    "allocation_id VARCHAR, action VARCHAR, t TIMESTAMP, source VARCHAR, event_id VARCHAR, "
    '"partition" INTEGER, '
    '"offset" BIGINT, authorization_id VARCHAR, accelerators BIGINT, serials VARCHAR[], '
    "party_id_sent VARCHAR, principal VARCHAR"
)


@dataclass(frozen=True)
class Event:
    allocation_id: str
    action: str
    t: datetime
    source: str
    event_id: str
    partition: int
    offset: int
    authorization_id: str | None
    accelerators: int | None
    serials: list[str] | None

    @property
    def rank(self) -> tuple[datetime, str, str, int, int]:
        return self.t, self.source, self.event_id, self.partition, self.offset

    @property
    def amount(self) -> int:
        return self.accelerators if self.accelerators is not None else len(self.serials or []) or 1


def allocated_at(events: Sequence[Event], allocation_id: str, t: datetime) -> Event | None:
    """The event that says what the allocation is at `t`, None unless it is open then."""
    of_it = [e for e in events if e.allocation_id == allocation_id and e.t <= t]
    latest = max((e for e in of_it if e.action == "allocated"), key=lambda e: e.rank, default=None)
    if latest is None or any(e.action == "released" and e.t >= latest.t for e in of_it):
        return None
    return latest


def others(events: Sequence[Event], event: Event) -> Iterable[Event]:
    for other in {e.allocation_id for e in events} - {event.allocation_id}:
        found = allocated_at(events, other, event.t)
        if found is not None:
            yield found


EVENTS = st.lists(
    st.builds(
        Event,
        allocation_id=st.sampled_from(["a", "b", "c", "d"]),
        action=st.sampled_from(["allocated", "allocated", "released"]),
        t=st.integers(0, 6).map(lambda minutes: START + timedelta(minutes=minutes)),
        source=st.sampled_from(["s", "t"]),
        event_id=st.sampled_from(["1", "2", "ｅ", "🙂"]),
        partition=st.integers(0, 1),
        offset=st.just(0),
        authorization_id=st.sampled_from([None, "A", "A", "B"]),
        accelerators=st.sampled_from([None, 0, 3, 2**63 - 1]),
        serials=st.sampled_from([None, [], ["x"], ["x", "y", "x"], ["y", "z"]]),
    ),
    max_size=12,
).map(lambda events: [Event(**{**vars(e), "offset": n}) for n, e in enumerate(events)])


def load(events: Sequence[Event], cut: int) -> duckdb.DuckDBPyConnection:
    """The intervals after two steps."""
    con = state.connect(None)
    intervals.create(con)
    con.execute(f"CREATE TABLE allocation ({COLUMNS}, code UBIGINT); CREATE TABLE new_allocation ({COLUMNS})")
    for step in (events[:cut], events[cut:]):
        con.execute("BEGIN")
        con.execute("DELETE FROM new_allocation")
        for event in step:
            con.execute(
                f"INSERT INTO new_allocation VALUES ({', '.join('?' * 10)}, NULL, NULL)", astuple(event)
            )
        con.execute(
            "CREATE OR REPLACE TEMP TABLE changed_allocation AS "
            "SELECT allocation_id, min(t) AS from_t FROM new_allocation GROUP BY ALL"
        )
        intervals.follow(con)
        con.execute(f"INSERT INTO allocation SELECT *, {CODE} FROM new_allocation")
        con.execute("COMMIT")
    return con


@settings(max_examples=30)
@given(EVENTS, st.integers(0, 12))
def test_open_beside_an_event(events: list[Event], cut: int) -> None:
    con = load(events, cut)
    con.execute(
        'CREATE TABLE asked AS SELECT "offset", t, allocation_id, authorization_id AS key '
        "FROM allocation WHERE action = 'allocated' AND authorization_id IS NOT NULL"
    )
    rows = con.execute(
        f'SELECT "offset", beside FROM ({intervals.beside_authorization(con, "asked")})'
    ).fetchall()
    expected = {
        event.offset: sum(
            o.amount for o in others(events, event) if o.authorization_id == event.authorization_id
        )
        for event in events
        if event.action == "allocated" and event.authorization_id is not None
    }
    assert dict(rows) == expected and len(rows) == len(expected)


@settings(max_examples=30)
@given(EVENTS, st.integers(0, 12))
def test_serials_held_beside_an_event(events: list[Event], cut: int) -> None:
    con = load(events, cut)
    con.execute(
        'CREATE TABLE asked AS SELECT DISTINCT "offset", t, allocation_id, serial, serial AS key '
        "FROM (SELECT *, unnest(serials) AS serial FROM allocation WHERE action = 'allocated')"
    )
    rows = con.execute(
        f'SELECT "offset", serial, beside FROM ({intervals.beside_serial(con, "asked")})'
    ).fetchall()
    expected = {
        (event.offset, serial): sum(serial in (o.serials or []) for o in others(events, event))
        for event in events
        if event.action == "allocated"
        for serial in event.serials or []
    }
    assert {(offset, serial): beside for offset, serial, beside in rows} == expected
    assert len(rows) == len(expected)


def test_a_serial_that_only_shares_a_hash_is_not_held() -> None:
    made = [Event(name, "allocated", START, "s", name, 0, 0, None, None, ["x"]) for name in ("a", "b")]
    con = load(made, 1)
    con.execute("UPDATE interval_open SET serials = [hash('x'), hash('y')]")
    con.execute(
        "CREATE TABLE asked AS SELECT t, allocation_id, serial, serial AS key "
        "FROM (SELECT *, unnest(['x', 'y']) AS serial FROM allocation)"
    )
    query = (
        f"SELECT allocation_id, serial, beside FROM ({intervals.beside_serial(con, 'asked')}) ORDER BY ALL"
    )
    assert con.execute(query).fetchall() == [("a", "x", 1), ("a", "y", 0), ("b", "x", 1), ("b", "y", 0)]


@settings(max_examples=60)
@given(EVENTS, st.integers(0, 12))
def test_no_serial_that_several_hold_is_passed_over(events: list[Event], cut: int) -> None:
    con = load(events, cut)
    con.execute(
        "CREATE TABLE asked AS SELECT t, hash(serial) AS code "
        "FROM (SELECT t, unnest(serials) AS serial FROM allocation WHERE action = 'allocated')"
    )
    con.register("shared", pa.table({"code": intervals.shared(con, "asked")}))
    found = con.execute(
        "SELECT serial FROM (SELECT unnest(['x', 'y', 'z']) AS serial) "
        "WHERE hash(serial) IN (SELECT code FROM shared)"
    ).fetchall()
    held = {
        serial
        for event in events
        if event.action == "allocated"
        for serial in event.serials or []
        if any(serial in (other.serials or []) for other in others(events, event))
    }
    assert held <= {serial for (serial,) in found}

"""Deadline and sweep rules as SQL: what is refused, what compiles, and what the statements find."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from rules import query
from rules.public_views import TABLES, VIEWS
from rules.reconciler import views
from rules.rule import Kind, Rule, load, load_all
from schemas.errors import SekishoError
from tests.rule_files import RULE, write

RULES = {rule.id: rule for rule in load_all()}
QUERIES = views.compile_all(RULES.values())
NOON = datetime(2026, 3, 2, 12)
WINDOW = timedelta(minutes=15)
TICK = timedelta(microseconds=1)

_DESIRED = """CREATE TEMP TABLE desired (rule_id VARCHAR, subject VARCHAR, topic VARCHAR, partition INTEGER,
 "offset" BIGINT, source VARCHAR, event_id VARCHAR, t TIMESTAMP, due TIMESTAMP, party_id VARCHAR,
 allocation_id VARCHAR, confirmed BOOLEAN)"""


def rule_of(
    tmp_path: Path, condition: str, subject: str = '"allocation"', streams: str = '"allocation"'
) -> Rule:
    """The rule of tests as a deadline rule with this condition; its parameters are $limit and $window."""
    text = RULE.replace('kind = "row"', 'kind = "deadline"').replace('["party"]', f"[{subject}]")
    text = text.replace('streams = ["access"]', f"streams = [{streams}]")
    start, end = text.index("condition = '''"), text.index("message")
    return load(write(tmp_path, f"{text[:start]}condition = '''\n{condition}\n'''\n{text[end:]}"))


GOOD = "select event, t + $window as due, allocation_id from allocated where accelerators > $limit"


def test_a_sound_rule_compiles(tmp_path: Path) -> None:
    rule = rule_of(tmp_path, GOOD)
    query.check(rule)
    assert query.compile_rule(rule).table == "chain_scope_allocated"


@pytest.mark.parametrize(
    "condition",
    [
        "select event, a.allocation_id from allocated a where len(a.serials) > $limit and a.t < t + $window",
        """select event, allocated.allocation_id from allocated
           where not exists (select 1 from placed p where p.allocation_id = allocated.allocation_id
             and p.t between allocated.t and allocated.t + $window)""",
        """select event, allocated.allocation_id from allocated
           anti join released
             on released.allocation_id = allocated.allocation_id and released.t = allocated.t""",
        "select allocated.event, event.allocation_id from allocated where outside(serials, model)",
        "select event, case when t > t - $window then t end as due, allocation_id from allocated",
    ],
)
def test_what_a_rule_may_say(tmp_path: Path, condition: str) -> None:
    query.check(rule_of(tmp_path, condition))


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("accelerators > 3", "is no SELECT"),
        ("drop table allocated", "is no SELECT"),
        (f"{GOOD}; {GOOD}", "cannot be part of"),
        (GOOD.replace("accelerators > $limit", "read_text('/etc/passwd') is null"), "read_text() is unknown"),
        (GOOD.replace("from allocated", "from 'x.parquet'"), "x.parquet is no view"),
        (GOOD.replace("from allocated", "from read_csv('x')"), "is no view"),
        (
            """select event from accessed where not exists (
               select 1 from placed where placed.allocation_id = accessed.allocation_id)""",
            "placed is there for allocations that are judged; select from allocated, not accessed",
        ),
        (GOOD.replace("from allocated", "from main.allocated"), "is no view"),
        (GOOD.replace("from allocated", "from chain_scope_allocated"), "is no view"),
        (GOOD.replace("from allocated", "from (select 1) as allocated"), "is no view"),
        (GOOD.replace("from allocated", "from allocated tablesample 10%"), "is no view"),
        (GOOD.replace("from allocated", "from released"), "released is context"),
        (GOOD.replace("from allocated", "from allocated, placed"), "at most once"),
        (GOOD.replace("from allocated", "from allocated join placed using (allocation_id)"), "at most once"),
        (
            GOOD.replace("from allocated", "from allocated semi join opened on true"),
            "opened is judged itself",
        ),
        (
            GOOD.replace("from allocated", "from allocated semi join placed on true"),
            "must be met by allocation",
        ),
        (GOOD + " and t < now()", "now() is unknown"),
        (GOOD + " and t < current_timestamp", "current_timestamp"),
        (GOOD + " and t < current_date", "current_date is no column"),
        (GOOD + " and random() > 0.5", "random() is unknown"),
        (GOOD + " and age(t) > $window", "age() is unknown"),
        (GOOD + " and count(*) > 1", "count"),
        (GOOD + " and row_number() over () > 1", "over () is not for rules"),
        (GOOD + " and t in (select t from placed)", "only exists"),
        (GOOD + " and (select max(t) from placed) > t", "only exists"),
        (GOOD + " and exists (select 1 from placed where t > t)", "must be met by allocation"),
        (
            GOOD + " and exists (select 1 from opened where opened.allocation_id = allocated.allocation_id)",
            "opened is",
        ),
        (GOOD + " order by t", "several events at once"),
        (GOOD + " limit 1", "several events at once"),
        (GOOD + " group by event, t, allocation_id", "several events at once"),
        (GOOD + f" union all {GOOD}", "several events at once"),
        ("with x as (select 1) " + GOOD, "several events at once"),
        (GOOD.replace("select event", "select distinct event"), "several events at once"),
        (GOOD.replace("select event", "select *, event"), "* is not for rules"),
        (GOOD.replace("select event,", "select"), "does not select event"),
        (GOOD.replace("select event", "select row(t) as event"), "does not select event"),
        (GOOD.replace(", allocation_id from", " from"), "does not select allocation_id"),
        (GOOD.replace("allocation_id from", "allocation_id, model from"), "model is selected and not used"),
        (GOOD.replace("allocation_id from", "allocation_id, model as due from"), "two result columns"),
        (GOOD.replace(" as due", ""), "a result column needs a name"),
        (GOOD.replace("t + $window as due", "model as due"), "due is a VARCHAR"),
        (GOOD.replace("accelerators", "accelerator"), "accelerator is no column of allocated"),
        (GOOD.replace("accelerators", "allocated.accelerator"), "allocated.accelerator is no column"),
        (GOOD.replace("$limit", "$limits"), "$limits is no parameter"),
        (GOOD.replace("accelerators > $limit", "cast(t as timestamptz) is null"), "no rule casts to"),
        (GOOD.replace("accelerators > $limit", "model > $limit"), "DuckDB refuses it"),
        (
            GOOD.replace("accelerators", "max_accelerators + max_accelerators"),
            "DuckDB refuses it (Out of Range",
        ),
    ],
)
def test_what_a_rule_must_not_say(tmp_path: Path, condition: str, says: str) -> None:
    with pytest.raises(SekishoError) as caught:
        query.check(rule_of(tmp_path, condition))
    assert says in str(caught.value) and "\n" not in str(caught.value), caught.value


def test_subject_streams_and_each_must_fit(tmp_path: Path) -> None:
    with pytest.raises(SekishoError, match="party is not for deadline and sweep rules"):
        query.compile_rule(rule_of(tmp_path, GOOD, subject='"party"'))
    with pytest.raises(SekishoError, match="the condition judges allocation"):
        query.compile_rule(rule_of(tmp_path, GOOD, streams='"allocation", "access"'))


@pytest.mark.parametrize(
    ("view", "core", "subject"),
    [
        ("sequence_gap", "gap.source.sequence_hole", ("source", "first")),
        ("silence", "gap.source.silent", ("source", "since")),
        ("same_id", "gap.source.id_conflict", ("source", "event")),
        ("rejected", "gap.source.rejected", ("topic", "reason")),
    ],
)
def test_a_view_of_one_rule_is_for_that_rule_alone(view: str, core: str, subject: tuple[str, ...]) -> None:
    rule = RULES[core]
    query.check(rule)
    for wrong in (
        replace(rule, id="gap.source.other"),
        replace(rule, subject=subject[:1]),
        replace(rule, condition="select event from allocated", subject=("event",), streams=("allocation",)),
    ):
        with pytest.raises(SekishoError) as caught:
            query.check(wrong)
        said = f"{view} and {core} belong together, with the subject {', '.join(subject)}"
        assert said in str(caught.value) and "\n" not in str(caught.value)


def test_every_view_stands_on_its_table() -> None:
    con = world()
    for view in VIEWS.values():
        con.execute(view.sql)
        assert view.table in TABLES


def world() -> duckdb.DuckDBPyConnection:
    """A connection with the step's tables, empty, and `desired`."""
    con = duckdb.connect(":memory:", config={"threads": "1"})
    views.create(con)
    con.execute(_DESIRED)
    for table, columns in TABLES.items():
        listed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        con.execute(f'CREATE TEMP TABLE "{table}" ({listed})')
    return con


def put(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Fills a table; what a row does not say of its place is made up, the rest is null."""
    for number, row in enumerate(rows):
        place = {
            "topic": "T",
            "partition": 0,
            "offset": number,
            "source": "s",
            "event_id": f"e{number}",
            "t": NOON,
        }
        whole = {**{name: value for name, value in place.items() if name in TABLES[table]}, **row}
        names = ", ".join(f'"{name}"' for name in whole)
        marks = ", ".join("?" for _ in whole)
        con.execute(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', list(whole.values()))


def found(con: duckdb.DuckDBPyConnection, *columns: str) -> list[tuple[object, ...]]:
    """What all rules find, sorted."""
    views.run(con, QUERIES)
    listed = ", ".join(f'"{column}"' for column in columns)
    return con.execute(f"SELECT {listed} FROM desired ORDER BY ALL").fetchall()


def test_nothing_is_found_in_nothing() -> None:
    assert found(world(), "rule_id") == []


@pytest.mark.parametrize(
    ("placed", "released", "fires"),
    [
        ([], [], True),
        ([-WINDOW], [], False),
        ([-WINDOW - TICK], [], True),
        ([WINDOW], [], False),
        ([WINDOW + TICK], [], True),
        ([-WINDOW - TICK, WINDOW + TICK], [], True),
        ([], [timedelta(0)], False),
        ([], [-TICK], True),
        ([], [WINDOW], False),
        ([], [WINDOW + TICK], True),
        ([], [-TICK, WINDOW], False),
    ],
)
def test_no_placement_asks_the_window_with_both_ends(
    placed: list[timedelta], released: list[timedelta], fires: bool
) -> None:
    con = world()
    put(con, "chain_scope_allocated", [{"allocation_id": "A", "party_id": "P"}])
    put(con, "context_placed", [{"allocation_id": "A", "t": NOON + d, "action": "moved"} for d in placed])
    put(con, "context_placed", [{"allocation_id": "A", "t": NOON, "action": "stopped"}])
    put(con, "context_placed", [{"allocation_id": "B", "t": NOON, "action": "started"}])
    put(con, "context_released", [{"allocation_id": "A", "t": NOON + d} for d in released])
    rows = found(
        con, "rule_id", "subject", "topic", "offset", "event_id", "t", "due", "party_id", "confirmed"
    )
    expected = ("gap.location.no_placement", "allocation:A", "T", 0, "e0", NOON, NOON + WINDOW, "P", False)
    assert rows == [expected] * fires


def test_no_allocation_waits_only_where_one_is_named() -> None:
    con = world()
    put(
        con,
        "chain_scope_access",
        [
            {"action": "opened"},
            {"action": "opened", "allocation_id": "A"},
            {"action": "opened", "allocation_id": "B", "allocated_at": NOON, "last_action": "allocated"},
            {"action": "call"},
        ],
    )
    assert found(con, "rule_id", "subject", "due") == [
        ("gap.access.no_allocation", "event:s/e0", None),
        ("gap.access.no_allocation", "event:s/e1", NOON),
    ]


def test_after_release_asks_the_last_action_of_openings_and_calls() -> None:
    con = world()
    rows = [
        {"action": action, "allocation_id": action, "allocated_at": NOON, "last_action": last}
        for action in ("opened", "call", "closed", "denied")
        for last in ("released", "allocated", None)
    ]
    put(con, "chain_scope_access", rows)
    assert found(con, "rule_id", "subject", "due") == [
        ("flag.access.after_release", "allocation:call", NOON),
        ("flag.access.after_release", "allocation:opened", NOON),
    ]


@pytest.mark.parametrize(
    ("own", "other", "own_brokers", "other_brokers", "fires"),
    [
        ("P", "Q", None, None, True),
        ("P", "Q", ["X"], [], True),
        ("P", "Q", ["Q"], None, False),
        ("P", "Q", None, ["X", "P"], False),
        ("P", "P", None, None, False),
        (None, "Q", None, None, False),
        ("P", None, None, None, False),
    ],
)
def test_a_party_mismatch_needs_two_parties_that_are_no_brokers(
    own: str | None,
    other: str | None,
    own_brokers: list[str] | None,
    other_brokers: list[str] | None,
    fires: bool,
) -> None:
    con = world()
    row = {"allocation_id": "A", "allocated_at": NOON, "last_action": "allocated", "own_party_id": own}
    row |= {"allocation_party_id": other, "own_brokers": own_brokers, "allocation_brokers": other_brokers}
    put(con, "chain_scope_access", [{**row, "action": "call"}, {**row, "action": "denied"}])
    expected = [("flag.identity.access_party_mismatch", "allocation:A", 0)] * fires
    assert found(con, "rule_id", "subject", "offset") == expected


@pytest.mark.parametrize(
    ("own", "others", "cap", "fires"),
    [
        (1, 7, 8, False),
        (2, 7, 8, True),
        (0, 0, 0, False),
        (1, 0, 0, True),
        (9, 9, None, False),
        (2**63 - 1, 2**63 * 1000, 2**63 - 1, True),
    ],
)
def test_quantity_exceeded_counts_the_event_itself(
    own: int, others: int, cap: int | None, fires: bool
) -> None:
    con = world()
    row = {"allocation_id": "A", "authorization_id": "Z", "accelerators": own, "others_open": others}
    put(con, "chain_scope_allocated", [{**row, "max_accelerators": cap}])
    put(con, "context_placed", [{"allocation_id": "A", "t": NOON, "action": "started"}])
    expected = [("flag.authorization.quantity_exceeded", "authorization:Z", None)] * fires
    assert found(con, "rule_id", "subject", "due") == expected


def test_a_serial_held_by_others_is_a_finding_of_its_own() -> None:
    con = world()
    rows = [{"serial": "A", "held_by": 0}, {"serial": "B", "held_by": 1}, {"serial": "C", "held_by": 2}]
    put(con, "chain_serial", rows)
    assert found(con, "rule_id", "subject") == [
        ("flag.procurement.serial_double_allocated", "serial:B"),
        ("flag.procurement.serial_double_allocated", "serial:C"),
    ]


@pytest.mark.parametrize(
    ("action", "own", "allocated", "fires"),
    [
        ("started", ["A"], ["A", "B"], False),
        ("started", ["A", "C"], ["A", "B"], True),
        ("moved", ["a"], ["A"], True),
        ("stopped", ["C"], ["A"], False),
        ("started", ["C"], [], False),
        ("started", ["C"], None, False),
        ("started", [], ["A"], False),
        ("started", None, ["A"], False),
        ("started", ["A", "A"], ["A"], False),
    ],
)
def test_serials_differ_where_both_give_serials(
    action: str, own: list[str] | None, allocated: list[str] | None, fires: bool
) -> None:
    con = world()
    row = {"allocation_id": "A", "action": action, "serials": own, "allocation_serials": allocated}
    put(con, "chain_scope_placement", [row])
    assert found(con, "rule_id", "subject") == [("gap.location.serials_differ", "allocation:A")] * fires


def test_a_hole_is_found_unless_the_source_does_not_count() -> None:
    con = world()
    later = NOON + WINDOW
    rows = [
        {"first": n, "last": 9, "next_at": later, "sequenced": s} for n, s in enumerate((True, None, False))
    ]
    put(con, "scope_sequence_gap", [*rows, {"first": -(2**63), "last": 0, "next_at": later}])
    assert found(con, "rule_id", "subject", "t", "due", "party_id") == [
        ("gap.source.sequence_hole", "source:s|first:-9223372036854775808", NOON, later, None),
        ("gap.source.sequence_hole", "source:s|first:0", NOON, later, None),
        ("gap.source.sequence_hole", "source:s|first:1", NOON, later, None),
    ]


def test_a_silence_is_longer_than_its_limit_or_the_default() -> None:
    con = world()
    hour = timedelta(hours=1)
    cases = [("a", hour, None), ("b", hour + TICK, None), ("c", 2 * hour, 7200), ("d", 2 * hour + TICK, 7200)]
    cases += [("e", hour * 9999, 2**63 - 1), ("f", 2 * TICK + timedelta(seconds=1), 1)]
    rows = [
        {"source": source, "since": NOON, "from_at": NOON, "to_at": NOON + lasts, "limit_s": limit}
        for source, lasts, limit in cases
    ]
    nobody = {"topic": None, "partition": None, "offset": None, "event_id": None, "t": None}
    put(con, "scope_silence", [*rows, {**rows[1], **nobody, "source": "g", "since": NOON - TICK}])
    assert found(con, "subject", "offset", "t", "confirmed") == [
        ("source:b|since:2026-03-02T12:00:00.000000Z", 1, NOON, False),
        ("source:d|since:2026-03-02T12:00:00.000000Z", 3, NOON, False),
        ("source:f|since:2026-03-02T12:00:00.000000Z", 5, NOON, False),
        ("source:g|since:2026-03-02T11:59:59.999999Z", None, None, True),
    ]


def test_a_conflict_is_within_seven_days() -> None:
    con = world()
    week = 7 * 86_400 * 10**6
    rows = [{"event_id": "E", "apart_us": apart, "party_id": "P"} for apart in (0, week, week + 1)]
    put(con, "scope_same_id", rows)
    assert found(con, "rule_id", "subject", "offset", "party_id", "confirmed") == [
        ("gap.source.id_conflict", "source:s|event:E", 0, "P", False),
        ("gap.source.id_conflict", "source:s|event:E", 1, "P", False),
    ]


def test_a_rejection_is_confirmed_at_once() -> None:
    con = world()
    put(con, "scope_rejected", [{"topic": "custody.site", "reason": "key"}, {"reason": "not_json"}])
    assert found(con, "rule_id", "subject", "topic", "offset", "source", "event_id", "t", "confirmed") == [
        ("gap.source.rejected", "topic:T|reason:not_json", "T", 1, None, None, None, True),
        ("gap.source.rejected", "topic:custody.site|reason:key", "custody.site", 0, None, None, None, True),
    ]


def test_a_rule_that_cannot_be_computed_is_named(tmp_path: Path) -> None:
    condition = (
        "select event, allocation_id from allocated where max_accelerators + max_accelerators > $limit"
    )
    con = world()
    put(con, "chain_scope_allocated", [{"allocation_id": "A", "max_accelerators": 2**63 - 1}])
    with pytest.raises(SekishoError, match=r"rule flag\.access\.big cannot be judged \(Out of Range"):
        views.run(con, views.compile_all([rule_of(tmp_path, condition)]))


def test_all_deadline_and_sweep_rules_of_the_contract_are_there() -> None:
    assert {q.rule.id: (q.rule.kind, q.rule.subject) for q in QUERIES} == {
        "gap.access.no_allocation": (Kind.DEADLINE, ("event",)),
        "flag.access.after_release": (Kind.DEADLINE, ("allocation",)),
        "gap.location.no_placement": (Kind.DEADLINE, ("allocation",)),
        "gap.location.serials_differ": (Kind.SWEEP, ("allocation",)),
        "flag.identity.access_party_mismatch": (Kind.SWEEP, ("allocation",)),
        "flag.authorization.quantity_exceeded": (Kind.SWEEP, ("authorization",)),
        "flag.procurement.serial_double_allocated": (Kind.SWEEP, ("serial",)),
        "gap.source.sequence_hole": (Kind.DEADLINE, ("source", "first")),
        "gap.source.silent": (Kind.DEADLINE, ("source", "since")),
        "gap.source.id_conflict": (Kind.SWEEP, ("source", "event")),
        "gap.source.rejected": (Kind.SWEEP, ("topic", "reason")),
    }

"""The engine against a plain evaluation: masks of any width, nulls, levels, subjects, and what it refuses."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rules.judge import BITS, FIRINGS, Judge, Judgement
from rules.parameters import Parameter
from rules.rule import InForce, Kind, Rule, RuleError, Severity, Status
from schemas.errors import SekishoError
from schemas.events import ACCESS, ALLOCATION, PLACEMENT

NAIVE = pa.timestamp("us")
T = datetime(2026, 3, 2, 10, tzinfo=UTC).replace(tzinfo=None)

ROWS = pa.schema(
    [
        *((name, pa.string()) for name in ("event_id", "source", "principal", "allocation_id", "party_id")),
        *(
            (name, pa.string())
            for name in ("party_id_sent", "authorization_id", "site_id", "action", "country")
        ),
        *(
            (name, pa.string())
            for name in ("model", "sku", "broker_id", "method", "P.status", "P.hq_country")
        ),
        ("A.site_ids", pa.list_(pa.string())),
        ("bytes_out", pa.int64()),
        ("accelerators", pa.int64()),
        ("party_version", pa.int64()),
        ("t", NAIVE),
        ("broker_time", pa.timestamp("us", tz="UTC")),
    ]
)
SERIALS = pa.schema([("row", pa.int64()), ("serial", pa.string()), ("X.sku", pa.string())])
CONDITIONS = pa.schema(
    [("row", pa.int64()), ("condition_id", pa.string()), ("due_at", NAIVE), ("met_at", NAIVE)]
)


@dataclass(frozen=True)
class Batch:
    rows: pa.RecordBatch
    serials: pa.RecordBatch
    conditions: pa.RecordBatch


def batch(
    rows: Sequence[dict[str, Any]],
    serials: Sequence[dict[str, Any]] = (),
    conditions: Sequence[dict[str, Any]] = (),
) -> Batch:
    filled = [
        {"event_id": f"e{n}", "source": "s", "t": T, "broker_time": T, **row} for n, row in enumerate(rows)
    ]
    return Batch(
        pa.RecordBatch.from_pylist(filled, ROWS),
        pa.RecordBatch.from_pylist(list(serials), SERIALS),
        pa.RecordBatch.from_pylist(list(conditions), CONDITIONS),
    )


def rule(
    id: str,
    condition: str,
    streams: Sequence[str] = ("access",),
    subject: Sequence[str] = ("event",),
    each: str | None = None,
    **more: Any,
) -> Rule:
    made = Rule(
        id=id,
        version=1,
        title=id,
        kind=Kind.ROW,
        severity=Severity.MEDIUM,
        status=Status.STABLE,
        streams=tuple(streams),
        citations=("AU-3",),
        in_force=InForce(codified=False, enforced=False),
        parameters=(),
        condition=condition,
        each=each,
        subject=tuple(subject),
        message="{subject}",
        known_gaps=(),
        what_to_do="Ask.",
        tests=(),
        path=Path(f"{id}.toml"),
    )
    return replace(made, **more)


def fired(judgement: Judgement) -> list[tuple[int, str, str]]:
    assert judgement.firings.schema == FIRINGS
    return [(line["row"], line["rule_id"], line["subject"]) for line in judgement.firings.to_pylist()]


def subject_of(name: str, row: dict[str, Any], condition: str = "true", **more: Any) -> str:
    judge = Judge([rule("gap.access.x", condition, subject=name.split("+"), **more)])
    ((_, _, subject),) = fired(judge.judge(ACCESS, batch([row])))
    return subject


@pytest.mark.parametrize("count", [1, BITS, BITS + 1, 3 * BITS + 5])
def test_masks_of_any_width_agree_with_a_plain_evaluation(count: int) -> None:
    draw = random.Random(count)
    rules, plain = [], {}
    for number in range(count):
        limit, null = draw.randrange(-3, 12), draw.random() < 0.2
        condition = f"bytes_out > {limit} or (bytes_out is null and {str(null).lower()})".replace(
            "> -", "> 0 -"
        )
        name = f"gap.access.r{draw.randrange(10**9):09}"
        rules.append(rule(name, condition, subject=["source", "event"] if number % 2 else ["event"]))
        plain[name] = (limit, null, number % 2)
    values = [draw.choice([None, *range(-2, 12)]) for _ in range(200)]
    judgement = Judge(rules).judge(ACCESS, batch([{"bytes_out": value} for value in values]))
    expected = sorted(
        (row, name, f"source:s|event:e{row}" if pair else f"event:s/e{row}")
        for row, value in enumerate(values)
        for name, (limit, null, pair) in plain.items()
        if (null if value is None else value > limit)
    )
    assert fired(judgement) == expected and expected
    per_row = [sorted(name for at, name, _ in expected if at == row) for row in range(len(values))]
    assert judgement.verdicts.to_pylist() == per_row
    assert judgement.verdicts.null_count == 0


@pytest.mark.parametrize("rules", [1, 2, 3, 7])
def test_what_conditions_share_is_computed_as_in_each_alone(rules: int) -> None:
    countries, sites = [None, "CN", "JP", "RU"], [None, [], ["S"], ["T"]]
    rows = [
        {"country": country, "A.site_ids": allowed, "site_id": "S", "bytes_out": number}
        for number, (country, allowed) in enumerate(product(countries, sites))
    ]
    shared = "(restricted(country, t) or not coalesce(outside(A.site_ids, site_id), false))"
    judge = Judge(
        [rule(f"gap.access.r{limit}", f"{shared} and bytes_out >= {limit}") for limit in range(rules)]
    )
    fires = [row["country"] in ("CN", "RU") or row["A.site_ids"] in (None, ["S"]) for row in rows]
    assert judge.judge(ACCESS, batch(rows)).verdicts.to_pylist() == [
        [f"gap.access.r{limit}" for limit in range(rules) if fires[number] and number >= limit]
        for number in range(len(rows))
    ]


@pytest.mark.parametrize("count", [1, BITS + 1])
def test_elements_fire_one_by_one_and_mark_their_row(count: int) -> None:
    draw = random.Random(count)
    fill = [rule(f"gap.access.fill{n:03}", "false", ["allocation"]) for n in range(count)]
    judge = Judge(
        [
            *fill,
            rule("gap.access.serial", "X.sku <> sku", ["allocation"], ["serial"], each="serials"),
            rule("gap.access.zcond", "due_at < t", ["allocation"], ["condition"], each="conditions"),
            rule("gap.access.row", "action = 'released'", ["allocation"]),
        ]
    )
    rows: list[dict[str, Any]] = [
        {"sku": draw.choice("ab"), "action": draw.choice(["allocated", "released"])} for _ in range(50)
    ]
    serials: list[dict[str, Any]] = [
        {"row": row, "serial": f"SN{n}", "X.sku": draw.choice(["a", "b", None])}
        for row in range(50)
        for n in range(3)
    ]
    early, late = T.replace(hour=9), T.replace(hour=11)
    conditions: list[dict[str, Any]] = [
        {
            "row": row,
            "condition_id": draw.choice(["c", "d", None]),
            "due_at": draw.choice([early, late, T, None]),
        }
        for row in range(50)
        for n in range(3)
    ]
    judgement = judge.judge(ALLOCATION, batch(rows, serials, conditions))
    expected = {
        (s["row"], "gap.access.serial", f"serial:{s['serial']}")
        for s in serials
        if s["X.sku"] is not None and s["X.sku"] != rows[s["row"]]["sku"]
    }
    expected |= {
        (c["row"], "gap.access.zcond", f"condition:{c['condition_id'] or ''}")
        for c in conditions
        if c["due_at"] == early
    }
    expected |= {
        (n, "gap.access.row", f"event:s/e{n}") for n, row in enumerate(rows) if row["action"] == "released"
    }
    assert fired(judgement) == sorted(expected)
    per_row = [sorted({name for at, name, _ in expected if at == row}) for row in range(50)]
    assert judgement.verdicts.to_pylist() == per_row


def test_dictionary_encoded_reference_columns_give_the_same() -> None:
    judge = Judge([rule("gap.access.x", "P.status <> 'verified' or outside(A.site_ids, site_id)")])
    rows: list[dict[str, Any]] = [
        {"P.status": "verified", "A.site_ids": ["S-1"], "site_id": "S-1"},
        {"P.status": "pending", "A.site_ids": None, "site_id": "S-1"},
        {"P.status": None, "A.site_ids": ["S-2"], "site_id": "S-1"},
        {"P.status": None, "A.site_ids": None, "site_id": None},
    ]
    plain = batch(rows)
    columns = {name: plain.rows.column(name) for name in ROWS.names}
    for name in ("P.status", "A.site_ids"):
        values = columns[name]
        at = pa.array([n if values[n].is_valid else None for n in range(len(rows))], pa.int32())
        columns[name] = pa.DictionaryArray.from_arrays(at, values)
    encoded = replace(plain, rows=pa.RecordBatch.from_pydict(columns))
    assert judge.judge(ACCESS, encoded).verdicts == judge.judge(ACCESS, plain).verdicts
    assert [bool(found) for found in judge.judge(ACCESS, encoded).verdicts.to_pylist()] == [
        False,
        True,
        True,
        False,
    ]


def test_nothing_is_known_of_reference_columns_that_are_all_null() -> None:
    judge = Judge([rule("gap.access.x", "P.status <> 'verified' or outside(A.site_ids, site_id)")])
    nothing = pa.array([None, None], pa.int32())
    columns = {name: batch([{}, {}]).rows.column(name) for name in ROWS.names}
    columns["P.status"] = pa.DictionaryArray.from_arrays(nothing, pa.array([], pa.string()))
    columns["A.site_ids"] = pa.DictionaryArray.from_arrays(nothing, pa.array([], pa.list_(pa.string())))
    judged = judge.judge(ACCESS, replace(batch([{}]), rows=pa.RecordBatch.from_pydict(columns)))
    assert judged.verdicts.to_pylist() == [[], []]


def test_an_empty_batch_has_no_verdicts() -> None:
    judgement = Judge([rule("gap.access.x", "true")]).judge(ACCESS, batch([]))
    assert judgement.verdicts.to_pylist() == [] and judgement.verdicts.type == pa.list_(pa.string())
    assert fired(judgement) == []


def test_a_stream_without_rules_has_empty_verdicts() -> None:
    judgement = Judge([rule("gap.access.x", "true")]).judge(PLACEMENT, batch([{}, {}]))
    assert judgement.verdicts.to_pylist() == [[], []]


def test_null_fires_nothing_and_constants_fire_everything() -> None:
    judge = Judge(
        [rule("gap.access.a", "null"), rule("gap.access.b", "true"), rule("gap.access.c", "method = 'x'")]
    )
    assert judge.judge(ACCESS, batch([{"method": None}])).verdicts.to_pylist() == [["gap.access.b"]]


def test_the_party_of_a_subject_falls_back_step_by_step() -> None:
    row = {"party_id": "P", "party_id_sent": "PS", "principal": "r:a", "allocation_id": "AL"}
    seen = []
    for gone in (None, "party_id", "party_id_sent", "principal", "allocation_id"):
        row = {name: value for name, value in row.items() if name != gone}
        seen.append(subject_of("party", row))
    assert seen == ["party:P", "party:PS", "principal:r:a", "allocation:AL", "event:s/e0"]


def test_subjects_are_written_in_order_with_nothing_escaped() -> None:
    row = {"party_id": "a|b:c", "country": "CN", "site_id": "S", "authorization_id": "A", "method": "remote"}
    assert subject_of("party+country", row) == "party:a|b:c|country:CN"
    assert subject_of("authorization+method", row) == "authorization:A|method:remote"
    assert subject_of("site/source", row) == "site:S"
    assert subject_of("site/source", {}) == "source:s"
    assert subject_of("event", {"event_id": "E-1", "source": "x/1"}) == "event:x/1/E-1"
    assert subject_of("source+event", {"event_id": "E-1"}) == "source:s|event:E-1"


def test_a_subject_has_the_model_as_sent() -> None:
    judge = Judge([rule("gap.access.x", "true", ["allocation"], ["allocation", "model"])])
    judgement = judge.judge(
        ALLOCATION, batch([{"allocation_id": "AL", "model": "h-100", "sku": "nvidiah100"}])
    )
    assert fired(judgement) == [(0, "gap.access.x", "allocation:AL|model:h-100")]


def test_parameters_are_literals_that_cannot_break_out() -> None:
    names = Parameter("names", "texts", ("it's", "x"), None)
    half = Parameter("age", "duration", 30, "minutes")
    judge = Judge(
        [
            rule("gap.access.a", "list_contains($names, operation)", parameters=(names,)),
            rule("gap.access.b", "broker_time < t - $age", parameters=(half,)),
        ]
    )
    rows = [
        {"broker_time": T.replace(hour=9, minute=30)},
        {"broker_time": T.replace(hour=9, minute=29, second=59)},
    ]
    joined = batch(rows)
    operation = pa.array(["it's", None], pa.string())
    joined = replace(joined, rows=joined.rows.append_column("operation", operation))
    assert judge.judge(ACCESS, joined).verdicts.to_pylist() == [["gap.access.a"], ["gap.access.b"]]


def test_completed_rows_are_judged_as_such() -> None:
    judge = Judge([rule("gap.access.x", "party_version is null and completed")])
    assert fired(judge.judge(ACCESS, batch([{}]))) == []
    assert fired(judge.judge(ACCESS, batch([{}]), completed=True)) == [(0, "gap.access.x", "event:s/e0")]


def test_deprecated_and_later_kinds_are_left_out_and_experimental_ones_judged() -> None:
    judge = Judge(
        [
            rule("gap.access.old", "true", status=Status.DEPRECATED),
            rule("gap.access.new", "true", status=Status.EXPERIMENTAL),
            rule("gap.access.late", "SELECT 1", kind=Kind.DEADLINE),
        ]
    )
    assert set(judge.rules) == {"gap.access.new"}
    assert judge.judge(ACCESS, batch([{}])).verdicts.to_pylist() == [["gap.access.new"]]


def test_columns_name_what_joining_must_gather() -> None:
    judge = Judge(
        [
            rule("gap.access.a", "P.status = 'x' and A.site_ids is null and t > broker_time"),
            rule(
                "gap.access.b",
                "X.sku <> sku and P.hq_country is null",
                ["allocation"],
                ["serial"],
                each="serials",
            ),
        ]
    )
    assert judge.columns == {"P.status", "A.site_ids", "P.hq_country", "X.sku"}
    assert judge.columns_of(ACCESS) == {"P.status", "A.site_ids"}
    assert judge.columns_of(ALLOCATION) == {"P.hq_country"}
    assert judge.columns_of(ALLOCATION, "serials") == {"X.sku"}
    assert judge.columns_of(PLACEMENT) == frozenset()


def test_a_rule_that_cannot_be_computed_stops_and_is_named() -> None:
    judge = Judge([rule("gap.access.fine", "true"), rule("gap.access.over", "bytes_out * 2 > 1")])
    with pytest.raises(SekishoError, match=r"rule gap\.access\.over cannot be judged"):
        judge.judge(ACCESS, batch([{"bytes_out": 2**62}]))
    assert judge.judge(ACCESS, batch([{"bytes_out": 1}])).verdicts.to_pylist() == [
        ["gap.access.fine", "gap.access.over"]
    ]


def test_a_rule_with_an_unknown_name_is_refused_with_its_file() -> None:
    with pytest.raises(RuleError, match=r"gap.access.x.toml: condition: bytess is no field"):
        Judge([rule("gap.access.x", "bytess > 1")])


def test_rules_reach_nothing_outside() -> None:
    judge = Judge([rule("gap.access.x", "read_text('x') is null")])
    with pytest.raises(SekishoError, match=r"rule gap\.access\.x cannot be judged"):
        judge.judge(ACCESS, batch([{}]))


def test_the_same_batch_gets_the_same_answer_whatever_came_before() -> None:
    judge = Judge([rule("gap.access.x", "bytes_out > 1"), rule("gap.access.y", "bytes_out < 1")])
    one, other = batch([{"bytes_out": 2}, {"bytes_out": 0}]), batch([{"bytes_out": 1}])
    first = judge.judge(ACCESS, one)
    judge.judge(ACCESS, other)
    assert judge.judge(ACCESS, one) == first

"""The joined batch against a row-by-row join over plain lists."""

from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.join import FUTURE_US, Joined, join
from rules.references import References
from schemas.countries import country
from schemas.events import ACCESS, ALLOCATION, PLACEMENT
from schemas.models import is_controlled, is_unknown, model_key
from schemas.record import TIME, Record
from schemas.reference import ASSET, AUTHORIZATION, PARTY, PRINCIPAL, SITE
from tests.test_references import bindings, histories, parties
from tests.versions_model import Version, batch, candidates, in_force

World = dict[str, list[Version]]

conditions = st.lists(
    st.fixed_dictionaries(
        {
            "condition_id": st.sampled_from([None, "c1", "c2"]),
            "due_at": st.one_of(st.none(), st.integers(0, 9)),
            "met_at": st.one_of(st.none(), st.integers(0, 9)),
        }
    ),
    max_size=3,
)
authorizations = histories(
    ["A1", "A2"],
    st.fixed_dictionaries(
        {
            "party_ids": st.sampled_from([None, [], ["P1", "P2"]]),
            "models": st.sampled_from([None, [], ["H100", "Z-1"]]),
            "remote_countries": st.sampled_from([None, ["hk", "jp"]]),
            "conditions": st.one_of(st.none(), conditions),
        }
    ),
)
sites = histories(["S1"], st.fixed_dictionaries({"country": st.sampled_from([None, "hk", "JP"])}))
assets = histories(
    ["SN1", "SN2", ""],
    st.fixed_dictionaries(
        {"model": st.sampled_from([None, "nvidia h20", "Z 1"]), "site_id": st.sampled_from([None, "S1"])}
    ),
)
worlds = st.fixed_dictionaries(
    {"party": parties, "principal": bindings, "authorization": authorizations, "site": sites, "asset": assets}
)


def _optional(*values: str) -> st.SearchStrategy[str | None]:
    return st.sampled_from([None, *values])


_shared = {
    "event_id": st.just("e"),
    "source": st.just("s"),
    "occurred_at": st.integers(0, 11),
    "principal": _optional("r:a", "r:b", "r:c"),
    "party_id": _optional("P1", "P2", "P9"),
    "authorization_id": _optional("A1", "A2", "A3"),
    "site_id": _optional("S1", "S2"),
}
_serials = st.one_of(st.none(), st.lists(st.sampled_from(["SN1", "SN2", "SN3", ""]), max_size=4))
events = {
    ALLOCATION: st.fixed_dictionaries(
        _shared | {"model": _optional("H-20", "nvidia h20", "MI308", "Z_1", "-"), "serials": _serials}
    ),
    ACCESS: st.fixed_dictionaries(_shared | {"source_country": _optional("hk", "CN", "jp")}),
    PLACEMENT: st.fixed_dictionaries(_shared | {"serials": _serials, "workload_id": st.just("w")}),
}
streams = st.sampled_from(list(events)).flatmap(
    lambda record: st.tuples(st.just(record), st.lists(events[record], max_size=8))
)


def joined(record: Record, rows: list[dict[str, Any]], world: World, broker_time: list[int]) -> Joined:
    references = References()
    for kind in (PARTY, PRINCIPAL, AUTHORIZATION, SITE, ASSET):
        references.add(kind, batch(kind, world.get(kind.name, [])))
    return join(
        record, pa.RecordBatch.from_pylist(rows, record.schema), pa.array(broker_time, TIME), references
    )


def micros(table: pa.RecordBatch, name: str) -> list[int | None]:
    column = table[name]
    assert column.type == pa.timestamp("us")
    return list(column.view(pa.int64()).to_pylist())


@settings(max_examples=200)
@given(streams, worlds)
def test_every_event_is_joined_as_of_its_own_time(
    stream: tuple[Record, list[dict[str, Any]]], world: World
) -> None:
    record, rows = stream
    result = joined(record, rows, world, [3] * len(rows))
    assert result.rows.num_rows == len(rows)
    found = result.rows.to_pylist()
    serials: list[tuple[int, str, int | None, str | None]] = []
    due: list[tuple[int, str | None, int | None, int | None]] = []
    for number, (event, row) in enumerate(zip(rows, found, strict=True)):
        t = event["occurred_at"]
        named = _candidates(event, world)
        party = named[0] if len(named) == 1 else None
        authorization = in_force(world["authorization"], event["authorization_id"], t)
        site = in_force(world["site"], event["site_id"], t)
        assert row["parties"] == len(named)
        assert (row["party_id"], row["party_version"]) == (
            (party.id, party.number) if party else (None, None)
        )
        assert row["P.version"] == row["party_version"]
        assert row["party_id_sent"] == event["party_id"]
        assert row["principal"] == event["principal"]
        assert row["authorization_version"] == (authorization and authorization.number)
        assert row["site_version"] == (site and site.number)
        assert row["S.country"] == _country(site.fields["country"] if site else None)
        _check_authorization(row, authorization)
        _check_model(record, row, event.get("model"))
        assert row["country"] == _country(event.get("source_country"))
        for serial in dict.fromkeys(event.get("serials") or []):
            asset = in_force(world["asset"], serial, t)
            model = asset.fields["model"] if asset else None
            serials.append(
                (number, serial, asset.number if asset else None, model_key(model) if model else None)
            )
        for item in (authorization and authorization.fields["conditions"]) or []:
            due.append((number, item["condition_id"], item["due_at"], item["met_at"]))
    columns = [result.serials[name].to_pylist() for name in ("row", "serial", "X.version", "X.sku")]
    assert list(zip(*columns, strict=True)) == serials
    table = result.conditions
    columns = [table["row"].to_pylist(), table["condition_id"].to_pylist()]
    columns += [micros(table, "due_at"), micros(table, "met_at")]
    assert list(zip(*columns, strict=True)) == due


def _candidates(event: dict[str, Any], world: World) -> list[Version]:
    t = event["occurred_at"]
    if event["party_id"] is None:
        return candidates(world["principal"], world["party"], event["principal"], t)
    sent = in_force(world["party"], event["party_id"], t)
    return [sent] if sent else []


def _country(code: str | None) -> str | None:
    return None if code is None else country(code)


def _check_authorization(row: dict[str, Any], authorization: Version | None) -> None:
    fields = authorization.fields if authorization else {}
    assert row["A.party_ids"] == fields.get("party_ids")
    models, remote = fields.get("models"), fields.get("remote_countries")
    assert row["A.skus"] == (None if models is None else [model_key(model) for model in models])
    assert row["A.remote_countries"] == (None if remote is None else [country(code) for code in remote])


def _check_model(record: Record, row: dict[str, Any], model: str | None) -> None:
    if record is not ALLOCATION:
        assert (row["sku"], row["controlled"], row["sku_unknown"]) == (None, None, None)
        return
    assert row["sku"] == (None if model is None else model_key(model))
    assert (row["controlled"], row["sku_unknown"]) == (is_controlled(model), is_unknown(model))


def _access(**fields: Any) -> dict[str, Any]:
    return {"event_id": "e", "occurred_at": 5, "source": "s", "action": "opened"} | fields


def test_future_is_strictly_more_than_five_minutes_ahead() -> None:
    rows = [_access(occurred_at=9 + FUTURE_US)] * 3
    result = joined(ACCESS, rows, {}, [8, 9, 10])
    assert result.rows["future"].to_pylist() == [True, False, False]
    assert micros(result.rows, "broker_time") == [8, 9, 10]
    assert micros(result.rows, "t") == micros(result.rows, "occurred_at") == [9 + FUTURE_US] * 3


def test_only_wanted_columns_are_gathered() -> None:
    references = References()
    events = pa.RecordBatch.from_pylist([_access()], ACCESS.schema)
    result = join(ACCESS, events, events["occurred_at"], references, ["P.status", "A.skus"])
    assert {name for name in result.rows.schema.names if "." in name} == {"P.status", "A.skus"}
    assert result.rows["P.status"].to_pylist() == [None]


def test_an_empty_batch_joins_to_an_empty_batch() -> None:
    for record in (ALLOCATION, ACCESS, PLACEMENT):
        result = joined(record, [], {}, [])
        assert (result.rows.num_rows, result.serials.num_rows, result.conditions.num_rows) == (0, 0, 0)


def test_a_late_version_is_seen_by_the_next_batch() -> None:
    references = References()
    events = pa.RecordBatch.from_pylist([_access(principal="r:a")], ACCESS.schema)
    party = Version("P1", 1, 0, None, 0, 0, {"status": "verified"})
    bound = Version("B1", 1, 0, None, 0, 0, {"principal": "r:a", "party_id": "P1"})
    found = []
    for record, version in ((PRINCIPAL, bound), (PARTY, party)):
        found += join(ACCESS, events, events["occurred_at"], references).rows["party_id"].to_pylist()
        references.add(record, batch(record, [version]))
    found += join(ACCESS, events, events["occurred_at"], references).rows["party_id"].to_pylist()
    assert found == [None, None, "P1"]

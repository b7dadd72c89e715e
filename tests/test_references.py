"""The reference index against a plain search over all versions, whatever the order in which they arrive."""

from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.references import References
from rules.rowstore import RowStore
from schemas.record import Record
from schemas.reference import ASSET, PARTY, PRINCIPAL, SCREENING, SITE
from tests.versions_model import Version, batch, candidates, in_force

TIMES = range(-1, 12)


@st.composite
def histories(draw: st.DrawFn, ids: list[str], fields: st.SearchStrategy[dict[str, Any]]) -> list[Version]:
    """Versions and tombstones at distinct coordinates; numbers repeat only across partitions."""
    edge = st.integers(0, 10)
    shapes = draw(
        st.lists(
            st.tuples(
                st.sampled_from(ids),
                st.one_of(st.integers(-1, 5), st.integers(-1, 5), st.none()),
                edge,
                st.one_of(st.none(), edge),
                st.integers(0, 1),
                fields,
            ),
            max_size=14,
        )
    )
    versions = []
    for offset, (id, number, start, end, partition, extra) in enumerate(shapes):
        if number is None:
            versions.append(Version(id, None, 0, start, partition, offset))
        elif not any((v.id, v.number, v.partition) == (id, number, partition) for v in versions):
            versions.append(Version(id, number, start, end, partition, offset, extra))
    return versions


def add_in_pieces(
    references: References, record: Record, data: st.DataObject, versions: list[Version]
) -> None:
    """In any order, in batches of any size, some twice."""
    arriving = data.draw(st.permutations(versions + versions[:3]))
    while arriving:
        size = data.draw(st.integers(1, len(arriving)))
        references.add(record, batch(record, arriving[:size]))
        arriving = arriving[size:]


def asked(ids: list[str]) -> tuple[list[tuple[str | None, int]], pa.Array, np.ndarray]:
    grid: list[tuple[str | None, int]] = [(id, t) for id in [*ids, "nobody", None] for t in TIMES]
    return grid, pa.array([id for id, _ in grid], pa.string()), np.array([t for _, t in grid], np.int64)


sites = histories(
    ["S1", "S2", ""], st.fixed_dictionaries({"region": st.sampled_from([None, "east", "west"])})
)


@given(sites, st.data())
def test_the_version_in_force_whatever_the_order_of_arrival(
    versions: list[Version], data: st.DataObject
) -> None:
    references = References()
    add_in_pieces(references, SITE, data, versions)
    grid, ids, times = asked(["S1", "S2", ""])
    rows = references.at(SITE, ids, times)
    expected = [in_force(versions, id, t) for id, t in grid]
    assert references.numbers(SITE, rows).to_pylist() == [v and v.number for v in expected]
    (regions, found) = references.columns(SITE, rows, ["region", "site_id"])
    assert regions.to_pylist() == [v and v.fields["region"] for v in expected]
    assert found.to_pylist() == [v and v.id for v in expected]
    assert references.count(SITE) == sum(v.number is not None for v in versions)


parties = histories(["P1", "P2", "P3"], st.just({"status": "verified"}))
bindings = histories(
    ["B1", "B2", "B3"],
    st.fixed_dictionaries(
        {"principal": st.sampled_from(["r:a", "r:b"]), "party_id": st.sampled_from(["P1", "P2", "P3", "P9"])}
    ),
)


@settings(max_examples=200)
@given(parties, bindings, st.data())
def test_principals_resolve_through_bindings_in_force(
    parties: list[Version], bindings: list[Version], data: st.DataObject
) -> None:
    references = References()
    arriving = [(PARTY, parties), (PRINCIPAL, bindings)]
    for record, versions in data.draw(st.permutations(arriving)):
        add_in_pieces(references, record, data, versions)
    grid, ids, times = asked(["r:a", "r:b"])
    rows, number = references.resolve(ids, times)
    expected = [candidates(bindings, parties, principal, t) for principal, t in grid]
    assert number.tolist() == [len(found) for found in expected]
    resolved = [found[0] if len(found) == 1 else None for found in expected]
    assert references.ids(PARTY, rows).to_pylist() == [v and v.id for v in resolved]
    assert references.numbers(PARTY, rows).to_pylist() == [v and v.number for v in resolved]
    until = references.resolved_until(ids, times)
    assert (until > times).all()
    for later in (times + 1, times + 2):
        same = later < until
        assert (references.resolve(ids, later)[0][same] == rows[same]).all()


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(["S1", "S2"]), st.integers(1, 2), st.sampled_from(["a", "b"])),
            max_size=6,
        ),
        max_size=4,
    ),
    st.data(),
)
def test_admission_finds_repeats_and_conflicts(
    batches: list[list[tuple[str, int, str]]], data: st.DataObject
) -> None:
    references, offset = References(), 0
    originals: dict[tuple[str, int], Version] = {}
    for shapes in batches:
        versions = []
        for id, number, region in shapes:
            versions.append(Version(id, number, 0, None, 0, offset, {"region": region}))
            offset += 1
        expected = []
        for version in versions:
            assert version.number is not None
            original = originals.setdefault((version.id, version.number), version)
            expected.append(
                "fresh"
                if original is version
                else "duplicate"
                if original.fields == version.fields
                else "conflict"
            )
        order = data.draw(st.permutations(range(len(versions))))
        for _ in range(2):  # nothing is remembered
            rows = batch(SITE, [versions[place] for place in order])
            admission = references.admit(SITE, rows)
            for place, position in enumerate(order):
                found = {
                    name for name in ("fresh", "duplicate", "conflict") if getattr(admission, name)[place]
                }
                assert found == {expected[position]}
        references.add(SITE, rows.filter(pa.array(admission.fresh)))
        again = references.admit(SITE, rows)
        assert again.fresh.tolist() == admission.fresh.tolist()
    assert references.count(SITE) == len(originals)


def test_a_tombstone_spares_later_offsets_and_other_partitions() -> None:
    references = References()
    references.add(SITE, batch(SITE, [Version("S", None, 0, 50, 0, 5)]))
    references.add(
        SITE,
        batch(
            SITE,
            [
                Version("S", 1, 0, None, 0, 4),
                Version("S", 2, 60, None, 0, 6),
                Version("T", 1, 0, None, 0, 3),
                Version("S", 0, 0, None, 1, 1),
            ],
        ),
    )
    at = np.array([49, 50, 60, 50])
    rows = references.at(SITE, pa.array(["S", "S", "S", "T"]), at)
    assert references.numbers(SITE, rows).to_pylist() == [1, 0, 2, 1]
    assert references.count(SITE) == 4


def test_ids_in_two_parts_stay_apart() -> None:
    references = References()
    first, second = (
        batch(SCREENING, [Version("a|b", 1, 0, None, 0, 0, {"entry_id": "c"})]),
        batch(SCREENING, [Version("a", 1, 0, None, 0, 1, {"entry_id": "b|c"})]),
    )
    references.add(SCREENING, first)
    assert references.admit(SCREENING, second).fresh.tolist() == [True]
    third = batch(SCREENING, [Version("a|b", 1, 9, None, 0, 2, {"entry_id": "c"})])
    assert references.admit(SCREENING, third).conflict.tolist() == [True]


def test_columns_are_as_rules_compare_them() -> None:
    references = References()
    asset = Version("SN", 1, 0, None, 0, 0, {"model": "h100-sxm", "received_at": 7})
    references.add(ASSET, batch(ASSET, [asset]))
    references.add(
        PARTY, batch(PARTY, [Version("P", 3, 0, None, 0, 0, {"hq_country": "hk", "status": "pending"})])
    )
    sku, received = references.columns(ASSET, np.array([0, -1]), ["sku", "received_at"])
    assert sku.to_pylist() == ["nvidiah100sxm", None]
    assert received.type == pa.timestamp("us")
    assert references.columns(PARTY, np.array([0]), ["hq_country"])[0].to_pylist() == ["CN"]


def test_only_wanted_columns_are_held() -> None:
    references = References(["P.status"])
    references.add(PARTY, batch(PARTY, [Version("P", 3, 0, None, 0, 0, {"status": "pending"})]))
    assert references.names(PARTY) == ("party_id", "version", "status")
    status, version = references.columns(PARTY, np.array([0]), ["status", "version"])
    assert (status.to_pylist(), version.to_pylist()) == (["pending"], [3])
    with pytest.raises(AssertionError, match="not held"):
        references.columns(PARTY, np.array([0]), ["legal_name"])


def test_what_is_known_moves_forward_only() -> None:
    references = References()
    references.note_read(PARTY.topic, 1, 7)
    references.note_read(PARTY.topic, 1, 5)
    assert references.known == {(PARTY.topic, 1): 7}
    assert references.newest(PARTY) is None
    references.add(PARTY, batch(PARTY, [Version("P", 3, 0, None, 0, 8, {"status": "pending"})]))
    references.add(PARTY, batch(PARTY, [Version("P", 2, 0, None, 0, 4, {"status": "pending"})]))
    assert references.newest(PARTY) == 1_008


@given(st.lists(st.integers(0, 40), max_size=12), st.booleans(), st.data())
def test_rows_are_taken_as_they_were_appended(sizes: list[int], encode: bool, data: st.DataObject) -> None:
    schema = pa.schema(
        {
            "number": pa.int64(),
            "text": pa.string(),
            "few": pa.string(),
            "list": pa.list_(pa.string()),
            "others": pa.list_(pa.struct({"a": pa.string()})),
            "at": pa.timestamp("us"),
            "on": pa.date32(),
            "share": pa.float64(),
            "is": pa.bool_(),
        }
    )
    store, held = RowStore(schema), list[dict[str, Any]]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rules.lists._SMALL", 4)  # so that there are several chunks
        patch.setattr("rules.rowstore._FEW", 7)  # so that some texts come as they are
        for size in sizes:
            rows = [
                {
                    "number": len(held) + n,
                    "text": str(n),
                    "few": None if n % 4 == 3 else str(n % 3),
                    "list": None if n % 7 == 4 else [str(n), None, "1:a,2:b"][: n % 4],
                    "others": [{"a": str(n)}] * (n % 3),
                    "at": None if n % 3 == 2 else datetime(2026, 1, 1, microsecond=n),
                    "on": None if n % 2 else date(2026, 1, 1 + n % 28),
                    "share": None if n % 5 == 1 else n / 7,
                    "is": None if n % 3 == 1 else n % 2 == 0,
                }
                for n in range(size)
            ]
            store.append(pa.RecordBatch.from_pylist(rows, schema))
            held += rows
        wanted = data.draw(st.lists(st.integers(-1, len(held) - 1), max_size=30))
        columns = store.take(np.array(wanted, np.int64), schema.names, encode)
    for name, column in zip(schema.names, columns, strict=True):
        assert column.to_pylist() == [None if row < 0 else held[row][name] for row in wanted]
        assert column.type == schema.field(name).type or (encode and pa.types.is_dictionary(column.type))
    assert len(store) == len(held)
    assert len(store._others._chunks) <= 8

"""The hash of keys against a dict, and as-of look-ups against a plain search over all versions."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.asof import FOREVER, Intervals, Ints, Keys, Runs, Segments, flatten
from rules.keys import _text, _words

words = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["", "a", "a\0", "\0", "abcdefgh", "abcdefgi", "abcdefghi", "é", "x" * 128, "x" * 129]),
    st.integers(0, 3).map(lambda n: "y" * 4000 + str(n)),
)
batches = st.lists(st.lists(st.one_of(st.none(), words), max_size=12), max_size=6)


class Colliding(Keys):
    """Every key has one of three hashes, so that probing and comparing do all the work."""

    def _hash(self, text: object) -> np.ndarray:
        return super()._hash(text) % np.uint64(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [Keys, Colliding])
@given(batches=batches, asked=st.lists(st.one_of(st.none(), words), max_size=12))
def test_keys_are_a_dict(make: type[Keys], batches: list[list[str | None]], asked: list[str | None]) -> None:
    keys, model = make(), dict[str, int]()
    for batch in batches:
        # a slice of a longer array, so that offsets count
        column = pa.array(["before", *batch, "after"], pa.string()).slice(1, len(batch))
        for value in batch:
            if value is not None:
                model.setdefault(value, len(model))
        expected = [-1 if value is None else model[value] for value in batch]
        assert keys.intern(column).tolist() == expected
        assert keys.intern(column.dictionary_encode()).tolist() == expected
    assert len(keys) == len(model)
    column = pa.array(asked, pa.string())
    expected = [-1 if value is None else model.get(value, -1) for value in asked]
    assert keys.find(column).tolist() == expected
    assert keys.find(column.cast(pa.binary())).tolist() == expected
    known = [None if found < 0 else value for value, found in zip(asked, expected, strict=True)]
    assert keys.take(np.array(expected, np.int64)).to_pylist() == known


@pytest.mark.parametrize("make", [Keys, Colliding])
@given(held=st.lists(words, unique=True), data=st.data())
def test_some_keys_alone_are_numbered_anew(make: type[Keys], held: list[str], data: st.DataObject) -> None:
    keys = make()
    keys.intern(pa.array(held, pa.string()))
    ids = data.draw(st.lists(st.sampled_from(range(len(held))), unique=True) if held else st.just([]))
    kept = keys.only(np.array(ids, np.int64))
    expected = [ids.index(number) if number in ids else -1 for number in range(len(held))]
    assert kept.find(pa.array(held, pa.string())).tolist() == expected
    assert kept.take(np.arange(len(kept))).to_pylist() == [held[number] for number in ids]
    assert kept.intern(pa.array(["z" * 200])).tolist() == [len(ids)]


def test_many_keys_grow_the_table_and_are_found_without_encoding() -> None:
    keys = Keys()
    names = pa.array([f"party/{number * number}" for number in range(50_000)])
    for start in range(0, 50_000, 7_000):
        keys.intern(names[start : start + 7_000])
    mixed = pa.array([*names.to_pylist()[::-1], None, "party/-1"])
    assert keys.find(mixed).tolist() == [*range(49_999, -1, -1), -1, -1]


def test_a_dictionary_with_nulls_and_repeats_is_read_by_value() -> None:
    keys = Keys()
    encoded = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None]), pa.array(["a", None, "a"]))
    assert keys.intern(encoded).tolist() == [0, -1, 0, -1]
    assert keys.intern(pa.array([""])).tolist() == [1]
    assert keys.find(encoded).tolist() == [0, -1, 0, -1]


def test_ids_do_not_depend_on_the_seed() -> None:
    names = pa.array([f"n{number}" for number in range(3000)])
    assert Keys(1).intern(names).tolist() == Keys(2).intern(names).tolist() == list(range(3000))


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """(start, end, value) of one key, lowest priority first; some are empty, some open."""
    edge = st.integers(0, 12)
    ends = st.one_of(edge, st.just(FOREVER))
    spans = draw(st.lists(st.tuples(edge, ends), max_size=8))
    return [(start, end, value) for value, (start, end) in enumerate(spans)]


def _segments(groups: list[list[tuple[int, int, int]]]) -> Segments:
    rows = [(key, *row) for key, group in enumerate(groups) for row in group]
    return Segments(*np.array(rows, np.int64).reshape(-1, 4).T)


def _in_force(history: list[tuple[int, int, int]], t: int) -> int:
    return max((value for start, end, value in history if start <= t < end), default=-1)


@given(st.lists(histories(), min_size=1, max_size=5))
def test_at_finds_the_highest_priority_in_force(groups: list[list[tuple[int, int, int]]]) -> None:
    intervals = Intervals()
    flat = flatten(_segments(groups))
    intervals.set(np.arange(len(groups)), flat)
    for before, after in _adjacent(flat):
        assert before.ends[0] <= after.starts[0]
    asked = [(key, t) for key in range(-1, len(groups) + 2) for t in range(-1, 14)]
    keys, times = np.array(asked, np.int64).T
    expected = [_in_force(groups[key], t) if 0 <= key < len(groups) else -1 for key, t in asked]
    assert intervals.at(keys, times).tolist() == expected
    until = intervals.until(keys, times)
    assert (until > times).all()
    for key, t, end in zip(keys.tolist(), times.tolist(), until.tolist(), strict=True):
        later = np.arange(t, min(end, 14))
        assert len(set(intervals.at(np.full(len(later), key), later).tolist())) == 1


def _adjacent(flat: Segments) -> Iterator[tuple[Segments, Segments]]:
    for row in range(len(flat) - 1):
        if flat.groups[row] == flat.groups[row + 1]:
            yield flat[np.array([row])], flat[np.array([row + 1])]


@given(st.lists(st.tuples(st.integers(0, 6), st.lists(st.integers(0, 99), max_size=5)), max_size=60))
def test_runs_are_a_dict_of_lists(changes: list[tuple[int, list[int]]]) -> None:
    runs, model = Runs(1), dict[int, list[int]]()
    for key, rows in changes * 20:  # often enough for garbage to be dropped
        runs.set(np.array([key]), np.array([len(rows)]), np.array(rows, np.int64))
        model[key] = rows
    asked = np.array([-1, *range(8)], np.int64)
    groups, (values,) = runs.gather(asked)
    found: list[list[int]] = [[] for _ in asked]
    for group, value in zip(groups.tolist(), values.tolist(), strict=True):
        found[group].append(value)
    assert found == [[], *(model.get(key, []) for key in range(8))]
    assert runs.rows == sum(map(len, model.values()))
    assert len(runs.column(0)) <= max(1024, 2 * runs.rows)


def test_a_long_tangled_history_is_cut_right() -> None:
    count = 500
    # each version lies inside the one before it: every one of them comes back once
    history = [(value, 2 * count - value, value) for value in range(count)]
    intervals = Intervals()
    intervals.set(np.array([0]), flatten(_segments([history])))
    times: Ints = np.arange(2 * count + 1)
    expected = [_in_force(history, int(t)) for t in times]
    assert intervals.at(np.zeros(len(times), np.int64), times).tolist() == expected
    assert intervals.rows == 2 * count - 1


@given(st.lists(st.text(max_size=40)), st.lists(st.text(max_size=40)))
def test_the_compiled_look_up_answers_as_the_plain_one(held: list[str], asked: list[str]) -> None:
    probe = pytest.importorskip("rules.probe")
    keys = Keys()
    keys.intern(pa.array(["", *held], pa.string()))
    text = _text(pa.array([*asked, *held], pa.string()))
    hashes = keys._plain_hash(text)
    assert probe.hash_all(text.words, text.starts, text.lengths, keys._seed).tolist() == hashes.tolist()
    table = _words(keys._data.values), keys._offsets.values
    expected = keys._plain_find(text, hashes).tolist()
    assert probe.find(text.words, text.starts, text.lengths, hashes, keys._slots, *table).tolist() == expected
    slots = np.zeros_like(keys._slots)
    probe.place(slots, keys._plain_hash(_text(keys.take(np.arange(len(keys))))), 0)
    assert sorted(slots.tolist()) == sorted(keys._slots.tolist())
    assert probe.find(text.words, text.starts, text.lengths, hashes, slots, *table).tolist() == expected


@given(st.lists(histories(), max_size=5))
def test_the_compiled_as_of_answers_as_the_plain_one(groups: list[list[tuple[int, int, int]]]) -> None:
    probe = pytest.importorskip("rules.probe")
    intervals = Intervals()
    intervals.set(np.arange(len(groups)), flatten(_segments(groups)))
    asked = [(key, t) for key in range(-1, len(groups) + 2) for t in range(-1, 14)]
    keys, times = np.array(asked, np.int64).T
    whole = intervals._runs.whole
    assert probe.at(keys, times, *whole).tolist() == intervals._plain_at(keys, times).tolist()
    assert probe.until(keys, times, *whole).tolist() == intervals._plain_until(keys, times).tolist()

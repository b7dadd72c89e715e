"""The index of seen events: look-ups, merging, and that it is as of the database's last commit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.growing import ranges
from rules.reconciler import runs, seen
from rules.reconciler.runs import Entries, Words
from rules.reconciler.seen import Seen
from schemas.errors import SekishoError


def entries(keys: list[int], first: int = 0) -> Entries:
    """Entries with these keys, each known by its offset, in the order of their keys."""
    numbers = np.arange(first, first + len(keys))
    made = Entries.of(np.array(keys, np.uint64), numbers, numbers, numbers)
    return made.take(np.argsort(made.key, kind="stable"))


def found(index: Seen, keys: list[int]) -> list[tuple[int, int]]:
    """(key, offset) of what the index has of these distinct keys."""
    asked = np.array(sorted(keys), np.uint64)
    held = index.find(asked)
    return sorted(zip(held.key.tolist(), held.offset.tolist(), strict=True))


def put(
    con: duckdb.DuckDBPyConnection, index: Seen, keys: list[int], first: int, commit: bool = True
) -> None:
    con.execute("BEGIN")
    index.refresh()
    index.add(entries(keys, first))
    con.execute("COMMIT" if commit else "ROLLBACK")


keys = st.lists(st.sampled_from([0, 1, 2, 3, 1 << 61, (1 << 61) + 1, 1 << 63, (1 << 64) - 1]), max_size=6)


@settings(max_examples=25)
@given(steps=st.lists(st.tuples(keys, st.booleans()), max_size=25))
def test_a_dict_with_rollbacks(steps: list[tuple[list[int], bool]]) -> None:
    con = duckdb.connect()
    index = Seen(con)
    model: list[tuple[int, int]] = []
    for number, (added, commit) in enumerate(steps):
        put(con, index, added, 10 * number, commit)
        if commit:
            model += [(key, 10 * number + place) for place, key in enumerate(added)]
    con.execute("BEGIN")
    index.refresh()
    assert found(index, [0, 1, 2, 3, 4, 1 << 61, (1 << 61) + 1, 1 << 63, (1 << 64) - 1]) == sorted(model)
    assert len(index) == len(model)


some_keys = st.lists(st.integers(0, 300) | st.integers(0, (1 << 64) - 1), min_size=1, max_size=200)


@given(held=some_keys, asked=some_keys)
def test_the_compiled_look_up_answers_as_the_plain_one(held: list[int], asked: list[int]) -> None:
    search = pytest.importorskip("rules.reconciler.run_search")
    run = runs.merge("", [entries(held)], None)
    shift, every = runs._shift(run.filter), run.entries.key
    marked, plain = np.zeros_like(run.filter), np.zeros_like(run.filter)
    search.mark(marked, shift, every)
    runs._plain_mark(plain, every)
    assert marked.tolist() == plain.tolist() == run.filter.tolist()
    wanted: Words = np.array(sorted({*asked, *held[::2]}), np.uint64)
    expected = [place for place, key in enumerate(sorted(held)) if key in {*asked, *held[::2]}]
    assert ranges(*search.find(every, marked, shift, wanted)).tolist() == expected
    assert run._plain_find(wanted).tolist() == expected


@pytest.mark.parametrize("on_disk", [False, True])
def test_many_runs_merge_and_are_found(
    on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen, "_LEVEL_0", 8)
    monkeypatch.setattr(seen, "_LARGEST", 3000)
    monkeypatch.setattr(runs, "_CHUNK", 64)
    con = duckdb.connect()
    index = Seen(con, tmp_path if on_disk else None)
    random = np.random.default_rng(1)
    every: list[int] = []
    for _ in range(120):
        added = random.integers(0, 1 << 64, int(random.integers(0, 120)), np.uint64).tolist()
        put(con, index, added, len(every))
        every += added
    expected = sorted((key, place) for place, key in enumerate(every))
    assert found(index, list(set(every))) == expected
    other = random.integers(0, 1 << 64, 1000, np.uint64).tolist()
    assert found(index, other) == []
    assert len(index) == len(every)
    (held,) = con.execute("SELECT count(*) FROM seen_run").fetchall()[0]
    assert held < 20
    if on_disk:
        con.execute("BEGIN")
        index.refresh()
        assert len(list((tmp_path / "seen").iterdir())) == held
        assert found(Seen(con, tmp_path), list(set(every))) == expected


def test_runs_out_of_time_are_left_out() -> None:
    con = duckdb.connect()
    index = Seen(con)
    for first in (0, 100, 200):
        put(con, index, [7], first)
    asked: Words = np.array([7], np.uint64)
    assert index.find(asked, 50, 100).offset.tolist() == [100]
    assert index.find(asked, 101, 199).offset.tolist() == []
    assert index.find(asked, None, 150).offset.tolist() == [0, 100]


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    con = duckdb.connect()
    put(con, Seen(con, tmp_path), [1, 2, 3], 0)
    (file,) = (tmp_path / "seen").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SekishoError, match="delete the reconciler's folder"):
        Seen(con, tmp_path)


def resident_kb(folder: Path) -> int:
    """What of the files in a folder is mapped and in this process's memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    mapped = [at for at, line in enumerate(lines) if line.endswith(tuple(map(str, folder.iterdir())))]
    assert mapped, "no file is mapped"
    return sum(int(next(line for line in lines[at:] if line.startswith("Rss:")).split()[1]) for at in mapped)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_what_was_searched_does_not_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    con = duckdb.connect()
    index = Seen(con, tmp_path)
    many = np.random.default_rng(1).integers(0, 1 << 64, 5 * 20_000, np.uint64)
    with monkeypatch.context() as patched:
        patched.setattr(Entries, "let_go", lambda _: None)
        for number, some in enumerate(np.split(many, 5)):  # the last ones stay in a run of their own
            put(con, index, some.tolist(), number * len(some))
        asked = np.sort(many)
        assert len(index.find(asked)) == len(many)
        assert resident_kb(tmp_path / "seen") > 1000
    assert len(index.find(asked)) == len(many)
    assert resident_kb(tmp_path / "seen") == 0


_WRITER = """
import os, sys
from pathlib import Path
import duckdb
from rules.reconciler import seen
from rules.reconciler.seen import Seen
from tests.test_seen import put, entries
seen._LEVEL_0 = 2
folder, when = Path(sys.argv[1]), sys.argv[2]
con = duckdb.connect(str(folder / "state.duckdb"))
index = Seen(con, folder)
first = len(index)
for number in range(first, first + 7):
    put(con, index, [number], number)
con.execute("BEGIN")
index.refresh()
index.add(entries([first + 7], first + 7))
if when == "after":
    con.execute("COMMIT")
os.kill(os.getpid(), 9)
"""


def test_killed_before_and_after_the_commit(tmp_path: Path) -> None:
    count = 0
    for when in ("before", "after", "before", "before", "after"):
        code = [sys.executable, "-c", _WRITER, str(tmp_path), when]
        done = subprocess.run(code, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        assert done.returncode == -signal.SIGKILL
        count += 8 if when == "after" else 7
        con = duckdb.connect(str(tmp_path / "state.duckdb"))
        index = Seen(con, tmp_path)
        assert found(index, list(range(100))) == [(number, number) for number in range(count)]
        names = {name for (name,) in con.execute("SELECT name FROM seen_run").fetchall()}
        assert {path.name for path in (tmp_path / "seen").iterdir()} == names
        con.close()

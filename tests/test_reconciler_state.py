"""The engine's database."""

from pathlib import Path

import pytest

from rules.reconciler import state
from schemas.errors import SekishoError


@pytest.mark.parametrize("on_disk", [False, True])
def test_large_temp_tables_are_emptied_and_nothing_else(on_disk: bool, tmp_path: Path) -> None:
    con = state.connect(tmp_path if on_disk else None)
    con.execute("CREATE TABLE kept AS SELECT n FROM range(20000) t(n)")
    con.execute("CREATE TEMP TABLE small AS SELECT 1 AS n")
    con.execute("CREATE TEMP TABLE large AS SELECT n, 'a' AS letter FROM range(20000) t(n)")
    con.execute("CREATE TEMP VIEW shown AS FROM large")
    state.shed(con)
    counts = {name: con.execute(f"SELECT count(*) FROM {name}").fetchall() for name in ("kept", "small")}
    assert counts == {"kept": [(20000,)], "small": [(1,)]}
    assert con.execute("FROM shown").fetchall() == []
    con.execute("INSERT INTO large VALUES (7, 'b')")
    assert con.execute("FROM shown").fetchall() == [(7, "b")]


def test_what_is_emptied_does_not_stay_in_memory(tmp_path: Path) -> None:
    con = state.connect(tmp_path)
    con.execute("CREATE TEMP TABLE texts (text VARCHAR)")
    memory = "SELECT sum(memory_usage_bytes) FROM duckdb_memory() WHERE tag = 'IN_MEMORY_TABLE'"
    for _ in range(3):
        con.execute("DELETE FROM texts")
        con.execute("INSERT INTO texts SELECT 'a text that is long ' || n FROM range(200000) t(n)")
        state.shed(con)
        ((left,),) = con.execute(memory).fetchall()
        assert left < 1_000_000


@pytest.mark.parametrize("version", [None, state.VERSION - 1, state.VERSION + 1])
def test_a_state_of_another_version_is_refused(version: int | None, tmp_path: Path) -> None:
    def check() -> None:
        with state.connect(tmp_path) as con, state.connect(None) as fresh:
            state.check(con, fresh)

    check()
    check()  # a second time it is as it was left
    with state.connect(tmp_path) as con:
        con.execute("DELETE FROM meta")
        if version is not None:
            state.put(con, "version", version)
    with pytest.raises(SekishoError, match="another version"):
        check()

"""What the lake says of findings, taken back into a new state."""

from pathlib import Path

from rules.reconciler import findings
from tests.finding_steps import SILENT, Engine, Firing, Step, rules


def test_a_source_that_never_spoke_keeps_its_whole_name(tmp_path: Path) -> None:
    every = rules(tmp_path)
    engine, rebuilt = Engine(every), Engine(every)
    engine.take(Step([Firing(SILENT, "source:s\n|since:t|since:x", None, at_once=True)]))
    emission = engine.settle(0, 0)
    findings.absorb_lake(rebuilt.con, emission.events, emission.history)
    assert rebuilt.con.execute("SELECT source FROM firing").fetchall() == [("s\n|since:t",)]

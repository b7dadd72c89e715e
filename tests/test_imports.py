"""Imports point one way: schemas ← rules ← sinks ← stream."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["schemas", "rules", "sinks", "stream"]


def imported(module: Path) -> set[str]:
    tree = ast.parse(module.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_the_layers_before_it(layer: str) -> None:
    modules = list((ROOT / layer).rglob("*.py"))
    assert len(modules) > 1
    forbidden = {*LAYERS[LAYERS.index(layer) + 1 :], "tests", "benchmarks", "deploy"}
    wrong = {str(m.relative_to(ROOT)): bad for m in modules if (bad := imported(m) & forbidden)}
    assert not wrong


@pytest.mark.parametrize("package", ["schemas", "rules"])
def test_the_middle_knows_neither_faust_nor_kafka_nor_clocks(package: str) -> None:
    impure = {"faust", "mode", "aiokafka", "kafka", "deltalake", "time", "asyncio", "socket", "threading"}
    wrong = {m.name: bad for m in (ROOT / package).rglob("*.py") if (bad := imported(m) & impure)}
    assert not wrong

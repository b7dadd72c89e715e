"""The tables of docs/contract.md say what the schemas and the rules do."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rules.rule import load_all
from schemas.events import EVENTS
from schemas.record import Field, Record, Type
from schemas.reference import REFERENCES

TEXT = (Path(__file__).parent.parent / "docs" / "contract.md").read_text(encoding="utf-8")
TYPES = {"timestamp": Type.TIME, "int": Type.INT, "int64": Type.INT, "bool": Type.BOOL}
NUMBERS = {"max_tpp": Type.NUMBER, "it_power_kw": Type.NUMBER, "max_accelerators": Type.INT}
VERSION = ("version", "valid_from", "valid_to")


class Said(NamedTuple):
    """One field as the contract states it."""

    name: str
    type: Type
    required: bool
    enum: tuple[str, ...]


def section(number: int) -> str:
    """The text of one section."""
    return re.split(r"^## ", TEXT, flags=re.MULTILINE)[number]


def rows(text: str) -> list[list[str]]:
    """The cells of a section's table rows."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


def fields(cell: str) -> Iterator[Said]:
    """The fields that a cell lists, in order: names, each with its enum, type and whether it is required."""
    limited, each, _ = cell.partition("(each a list")  # of all before it but the first
    whole = re.sub(r"\(.*?\)|\[.*?\]", lambda found: found[0].replace(", ", "; "), cell)
    for place, part in enumerate(whole.split(", ")):
        head, rest = re.findall(r"^((?:`\w+`[· ]?)+)(.*)", part)[0]
        tokens = re.findall(r"`\w+`(?:·`\w+`)*", head)
        enum = tuple(tokens.pop().replace("`", "").split("·")) if "·" in tokens[-1] else ()
        for name in (token.strip("`") for token in tokens):
            listed = rest.startswith("[") or (each and name in limited and place > 0)
            yield Said(name, _type(name, rest, bool(listed)), "(required)" in rest, enum)


def _type(name: str, rest: str, is_list: bool) -> Type:
    if is_list:
        return Type.OBJECTS if rest.startswith("[{") else Type.STRINGS
    if name.endswith("_at"):
        return Type.TIME
    if name.endswith("_date") or name == "incorporated_on":
        return Type.DATE
    return NUMBERS.get(name) or TYPES.get(rest.split(" ")[0], Type.STRING)


def as_said(field: Field) -> Said:
    return Said(field.name, field.type, field.required, field.enum)


def common(record: Record) -> Iterator[Said]:
    """The fields of every event, those of the first table."""
    for names, said, about in rows(section(1))[1:10]:
        for name in re.findall(r"`(\w+)`", names):
            required = "required" in said or f"required for {record.name}" in about
            yield Said(name, TYPES.get(re.split("[, ]", said)[0], Type.STRING), required, ())


@pytest.mark.parametrize("record", EVENTS.values(), ids=EVENTS)
def test_events_have_the_fields_of_the_contract(record: Record) -> None:
    (own,) = (cells[1] for cells in rows(section(1)) if cells[0] == record.name)
    assert [*common(record), *fields(own)] == [as_said(field) for field in record.fields]


@pytest.mark.parametrize("record", REFERENCES.values(), ids=REFERENCES)
def test_reference_records_have_the_fields_of_the_contract(record: Record) -> None:
    (cells,) = (cells for cells in rows(section(2)) if cells[0] == f"`{record.topic}`")
    assert tuple(re.findall(r"`(\w+)`", cells[1])) == record.key
    named = [field for field in record.fields if field.name not in (*record.key, *VERSION)]
    assert list(fields(cells[2])) == [as_said(field) for field in named]
    for field in named:
        if field.type is Type.OBJECTS:
            inner = re.search(rf"`{field.name}` \[{{(.*?)}}\]", cells[2])
            assert inner and re.findall(r"`(\w+)`", inner[1]) == [each.name for each in field.fields]


def test_the_core_rules_are_those_of_the_contract() -> None:
    said = {cells[0].strip("`"): cells[1] for cells in rows(section(4)) if cells[0].startswith("`")}
    kinds = {rule.id: str(rule.kind) for rule in load_all()}
    assert said.items() <= kinds.items() and len(said) == 38

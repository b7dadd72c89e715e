"""Accelerator models: how they compare, and what the SKU catalogue (`accelerators.csv`) says of them.

Case, spaces, hyphens and underscores make no difference, and the maker's name may be left out of a model that
the catalogue holds: `h100-sxm` is `NVIDIA H100 SXM`. Of other models the maker's name is part of the name.

The column `source` names the public repositories on GitHub that the figures come from; the newest is of
2026-08-22, and later parts are not in it.
"""

import csv
from importlib.resources import files

import pyarrow as pa

from schemas.distinct import map_distinct, map_items

UNCONTROLLED = "none"  # the class of a part below every threshold
UNKNOWN = "unknown"  # the class of a part whose figures are not public


def _squash(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "").replace("_", "")


def _catalogue() -> tuple[dict[str, str], dict[str, str]]:
    """(class by model key, model key by every way to write it); the first word of a name is its maker."""
    classes: dict[str, str] = {}
    aliases: dict[str, str] = {}
    text = files("schemas").joinpath("accelerators.csv").read_text("utf-8")
    for row in csv.DictReader(text.splitlines()):
        key = _squash(row["name"])
        assert row["source"], f"{row['name']} has no source"
        assert key not in classes, f"{row['name']} is listed twice"
        classes[key] = row["class"]
        maker, _, bare = row["name"].partition(" ")
        assert maker and bare, f"{row['name']} does not start with its maker"
        for written in (key, _squash(bare)):
            assert aliases.setdefault(written, key) == key, f"{bare} names two models"
    return classes, aliases


_CLASS, _KEY = _catalogue()


def model_key(model: str) -> str:
    """The form in which models compare: two models are the same if and only if their keys are equal."""
    squashed = _squash(model)
    return _KEY.get(squashed, squashed)


def model_class(model: str | None) -> str | None:
    """The catalogue's class of the model (`3A090.a`, `none`, `unknown`, …); None if it does not hold it."""
    return None if model is None else _CLASS.get(model_key(model))


def is_controlled(model: str | None) -> bool:
    """False only for a model that the catalogue holds as uncontrolled; null is controlled."""
    return model_class(model) != UNCONTROLLED


def is_unknown(model: str | None) -> bool:
    """True where the catalogue cannot classify the model: null, not listed, or of class `unknown`."""
    return model_class(model) in (None, UNKNOWN)


def model_keys(models: pa.Array) -> pa.StringArray:
    """`model_key` of a string column; null stays null."""
    return map_distinct(models, model_key, pa.string())


def model_key_lists(lists: pa.ListArray) -> pa.ListArray:
    """`model_key` of every item of a list column; null lists stay null."""
    return map_items(lists, model_key, pa.string())


def controlled(models: pa.Array) -> pa.BooleanArray:
    """`is_controlled` of a string column; never null."""
    return map_distinct(models, is_controlled, pa.bool_()).fill_null(True)


def unknown(models: pa.Array) -> pa.BooleanArray:
    """`is_unknown` of a string column; never null."""
    return map_distinct(models, is_unknown, pa.bool_()).fill_null(True)

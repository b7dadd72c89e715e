"""Modules of loops that numba compiles (`schemas.compiled`). All else goes without them, only slower."""

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType


def loops(module: str, worth: bool = True) -> ModuleType | None:
    """The module of that name, None without numba. Unless it is loaded already it takes up to a second, so it
    is not before that is `worth` it."""
    loaded = sys.modules.get(module)
    if loaded is None and worth and compiles():
        loaded = import_module(module)
    return loaded


@cache
def compiles() -> bool:
    """Whether numba is there, with the extra `fast`."""
    return find_spec("numba") is not None

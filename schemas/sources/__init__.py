"""Foreign log formats: each module here turns one of them into contract events.

A format is one module with a `MAPPING`; its name on the command line is the module's, with hyphens.
How to add one: docs/mapping-a-source.md.
"""

import importlib
import pkgutil

from schemas.errors import UsageError
from schemas.sources.mapping import Event, LeftOut, Mapping, Options

__all__ = ["Event", "LeftOut", "Mapping", "Options", "mapping", "names"]

_SHARED = {"mapping", "local_time"}


def names() -> list[str]:
    """The formats there are, by their names on the command line."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(module.replace("_", "-") for module in modules if module not in _SHARED)


def mapping(name: str) -> Mapping:
    """The mapping of a format; raises `UsageError` where there is none of that name."""
    if name not in names():
        raise UsageError(f"no mapping is called {name!r}; there are {', '.join(names())}")
    found: Mapping = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").MAPPING
    return found

"""Functions that numba compiles: loops that touch every byte, and nothing else. Needs the extra `fast`."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compiled at the first call, and kept on disk where there is a folder for it."""
    try:
        return cast("Function", numba.njit(function, cache=True, nogil=True))
    except RuntimeError:
        return cast("Function", numba.njit(function, nogil=True))


def inlined(function: Function) -> Function:
    """Compiled into the functions that call it."""
    return cast("Function", numba.njit(function, forceinline=True, nogil=True))

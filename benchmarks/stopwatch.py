"""CPU of named stages, each without what it spends in another: functions are watched from outside."""

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


class Stopwatch:
    """`seconds`: CPU of the whole process, all its threads, by stage. Watched code runs in one thread."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What runs inside counts for the stage, save what counts for a stage opened inside."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    @contextmanager
    def watching(self, owner: Any, function: str, name: str | Callable[[Any], str]) -> Iterator[None]:
        """While this is open, calls of `owner.function` count for the stage.

        `name` may be a function that names the stage by the call's first argument.
        """
        original = getattr(owner, function)

        @functools.wraps(original)
        def watched(*arguments: Any, **named: Any) -> Any:
            with self.stage(name if isinstance(name, str) else name(arguments[0])):
                return original(*arguments, **named)

        with mock.patch.object(owner, function, watched):
            yield

    def _charge(self) -> None:
        now = time.process_time()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

"""Settings that are compared run in turn, A, B, A, B: what else the machine does falls on all of them."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from benchmarks.spread import spread

Measure = Callable[[], float]


def in_turn(settings: Mapping[str, Measure], base: str, runs: int) -> dict[str, dict[str, Any]]:
    """By setting: the spread of its figures, and the median of their ratios to the base's of the round."""
    rounds = [{name: measure() for name, measure in settings.items()} for _ in range(runs)]
    return {
        name: spread([each[name] for each in rounds])
        | {"ratio": round(median(each[name] / each[base] for each in rounds), 2)}
        for name in settings
    }

"""Waiting times as percentiles."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def percentiles(values: Sequence[float] | np.ndarray, digits: int = 0) -> dict[str, Any] | None:
    """`{"p50", "p99", "p99.9", "max", "samples"}` in the unit of the values; None where there are none.

    Each is a value that occurred (the next higher one), so few samples make the last ones equal.
    """
    if not len(values):
        return None
    p50, p99, p999 = np.percentile(values, [50, 99, 99.9], method="higher").tolist()
    figures = {"p50": p50, "p99": p99, "p99.9": p999, "max": float(np.max(values))}
    return {name: round(value, digits) for name, value in figures.items()} | {"samples": len(values)}

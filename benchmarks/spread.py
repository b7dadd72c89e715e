"""Several runs of one thing as a median and what it lay between."""

from collections.abc import Sequence
from statistics import median
from typing import Any


def spread(values: Sequence[float], digits: int = 2) -> dict[str, Any]:
    """`{"median", "min", "max", "runs"}` of at least one run."""
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "runs": len(values),
    }

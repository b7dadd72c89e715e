"""How much a benchmark takes on."""

from enum import Enum


class Size(Enum):
    """QUICK is done within five minutes; all benchmarks at USUAL together within twenty; FULL takes hours."""

    QUICK = "quick"
    USUAL = "usual"
    FULL = "full"

"""How many cores and how much disk a fleet takes, worked out from what one core was measured to do."""

from dataclasses import asdict, dataclass
from typing import Any

from stream.simulation import bench
from stream.simulation.clock import HOUR

FLEETS = (10_800, 100_000, 1_000_000)
BENCH = bench.BLOCK / (bench.SPAN / HOUR) / bench.ACCELERATORS
LOADS = {"bench profile": BENCH, "demo": 10 * 3600 / 10_800, "once a minute": 60.0}
"""Events an accelerator and hour: as simulated in the bench profile and at the demo's rate, and one a minute,
which is not simulated and stands for gateways that log each call."""
PEAK = 10.0  # times the mean
FILLED = 0.5  # of a core at the peak: the rest catches up after a pause


@dataclass(frozen=True)
class Need:
    """Of one fleet under one load; beyond what one machine was measured at it is extrapolated."""

    accelerators: int
    load: str
    events_per_second: float
    peak_per_second: float
    worker_cores: float
    disk_gb_a_day: float
    extrapolated: bool


def sizing(cpu_us_per_event: float, bytes_per_event: float, measured: float) -> list[dict[str, Any]]:
    """Every fleet under every load. `measured` is the most events a second that were seen to land."""
    return [
        asdict(_need(fleet, load, each * fleet / 3600, cpu_us_per_event, bytes_per_event, measured))
        for fleet in FLEETS
        for load, each in LOADS.items()
    ]


def _need(fleet: int, load: str, mean: float, cpu_us: float, size: float, measured: float) -> Need:
    peak = PEAK * mean
    cores = peak * cpu_us / 1e6 / FILLED
    disk = mean * 86_400 * size / 1e9
    return Need(fleet, load, round(mean, 1), round(peak), round(cores, 2), round(disk, 2), peak > measured)

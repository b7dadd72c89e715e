"""CPU and memory of a running process, and the machine, read from /proc (Linux)."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """CPU seconds of all threads of a process that runs, so far."""
    fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak_mb(pid: int | str = "self") -> float:
    """Largest resident size of a process so far (`ru_maxrss` counts its parent's at the fork)."""
    return _status_mb(pid, "VmHWM")


def resident_mb(pid: int | str = "self") -> float:
    """Resident size of a process now."""
    return _status_mb(pid, "VmRSS")


def _status_mb(pid: int | str, name: str) -> float:
    status = (Path("/proc") / str(pid) / "status").read_text().splitlines()
    return int(next(line for line in status if line.startswith(f"{name}:")).split()[1]) / 1024


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown",
    )
    return {"cpu": model, "cores": os.cpu_count(), "load_before": round(os.getloadavg()[0], 2)}

"""What a peer reports: wall time and CPU between its first event and its last, and its largest size."""

import json
import os
import time
from pathlib import Path

from benchmarks.processes import peak_mb


class Meter:
    """Counts events; at the last one it writes the result as JSON and ends the process.

    The environment says what to do: `BENCH_BROKERS`, `BENCH_EVENTS` (how many to take), `BENCH_PARTIES`
    (a JSON file: principal → status of its party) and `BENCH_RESULT` (the file to write).
    """

    def __init__(self) -> None:
        self.brokers = os.environ["BENCH_BROKERS"]
        self.events = int(os.environ["BENCH_EVENTS"])
        self.statuses: dict[str, str] = json.loads(Path(os.environ["BENCH_PARTIES"]).read_text())
        self.seen = 0
        self.fired = 0
        self._since = (0.0, 0.0)

    def count(self, fired: bool) -> None:
        """To be called once an event."""
        if self.seen == 0:
            self._since = (time.monotonic(), time.process_time())
        self.seen += 1
        self.fired += fired
        if self.seen == self.events:
            self._report()

    def _report(self) -> None:
        seconds = time.monotonic() - self._since[0]
        cpu = time.process_time() - self._since[1]
        result = {"fired": self.fired, "seconds": seconds, "cpu_seconds": cpu, "rss_mb": peak_mb()}
        Path(os.environ["BENCH_RESULT"]).write_text(json.dumps(result))
        os._exit(0)  # at once: how long a peer takes to shut down is not measured


RESTRICTED = frozenset({"BY", "CN", "CU", "HK", "IR", "KP", "MO", "RU", "SY", "VE"})
"""Enough for a peer to look at a second field."""

"""What a peer is asked to do, and what it reports: wall time and CPU from its first event to its last."""

import json
import os
import time
from pathlib import Path

from benchmarks.processes import peak_mb


class Meter:
    """One run of one peer, which is a process of its own.

    The environment says what to do: `BENCH_BROKERS`, `BENCH_TOPICS` (the event topics by record name, as
    JSON; together they hold exactly `BENCH_EVENTS` events), `BENCH_FOLDER` (for what is written),
    `BENCH_REFERENCES` (a lake whose reference tables hold every version) and `BENCH_RESULT` (the file for
    the report).
    """

    def __init__(self) -> None:
        self.brokers = os.environ["BENCH_BROKERS"]
        self.topics: dict[str, str] = json.loads(os.environ["BENCH_TOPICS"])
        self.events = int(os.environ["BENCH_EVENTS"])
        self.folder = Path(os.environ["BENCH_FOLDER"])
        self.references = Path(os.environ["BENCH_REFERENCES"])
        self.seen = 0
        self._result = Path(os.environ["BENCH_RESULT"])
        self._since = (0.0, 0.0)

    def begin(self) -> None:
        """To be called at the first event, before anything is done with it."""
        self._since = (time.monotonic(), time.process_time())

    def count(self, events: int = 1) -> bool:
        """Counts events that are done with, beginning at the first; True when these were the last ones."""
        if self.seen == 0:
            self.begin()
        self.seen += events
        return self.seen >= self.events

    def report(self) -> None:
        """Writes the result, and ends the process at once.

        How long a peer takes to leave its consumer group and shut down is not measured.
        """
        seconds = time.monotonic() - self._since[0]
        self.write(seconds, time.process_time() - self._since[1], peak_mb())
        os._exit(0)

    def write(self, seconds: float, cpu_seconds: float, rss_mb: float) -> None:
        """Writes a result that was measured otherwise."""
        figures = {"seconds": seconds, "cpu_seconds": cpu_seconds, "rss_mb": rss_mb}
        self._result.write_text(json.dumps({"events": self.seen} | figures))

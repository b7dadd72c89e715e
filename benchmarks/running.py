"""`sekisho worker` and `sekisho reconciler` as processes that are watched from outside."""

import contextlib
import os
import re
import select
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.processes import cpu_seconds
from stream.processes import sekisho

START_SECONDS = 120.0
STOP_SECONDS = 180.0  # a reconciler settles what has landed first


class Running:
    """One process; its metrics are read, and it ends in good order with the block."""

    def __init__(self, log: Path, verb: str, *options: str) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                sekisho(verb, *options, "--metrics", "127.0.0.1:0"),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._url = ""

    def __enter__(self) -> Self:
        """Waits until it says what it does, which is when it begins to."""
        try:
            assert self._process.stdout is not None
            ready, _, _ = select.select([self._process.stdout], [], [], START_SECONDS)
            found = re.search(r"http://\S+/metrics", self._process.stdout.readline() if ready else "")
            if found is None:
                raise RuntimeError(f"it did not start: {self.said}")
            self._url = found[0]
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.ask_to_stop()
        status = self._process.wait(STOP_SECONDS)
        if status != 0 and kind is None:
            raise RuntimeError(f"it ended with status {status}: {self.said}")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")[-500:]

    def ask_to_stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def ended(self) -> float:
        """Waits for its end in good order; returns the CPU seconds of its whole life."""
        _, status, spent = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode != 0:
            raise RuntimeError(f"it ended with status {self._process.returncode}: {self.said}")
        return spent.ru_utime + spent.ru_stime

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels. Raises RuntimeError when the process has ended."""
        try:
            with urllib.request.urlopen(self._url, timeout=30) as answer:
                text = answer.read().decode()
        except OSError as error:  # most likely it is about to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            raise RuntimeError(f"it answers no more ({error}): {self.said}") from error
        found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)


class Share:
    """The share of one core that a process takes between making this and asking, in percent."""

    def __init__(self, pid: int) -> None:
        self._pid, self._cpu, self._at = pid, cpu_seconds(pid), time.monotonic()

    def percent(self) -> float:
        return round(100 * (cpu_seconds(self._pid) - self._cpu) / (time.monotonic() - self._at), 1)

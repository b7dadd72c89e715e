"""A `sekisho worker` or `reconciler` in a process of its own, to be watched, stopped and killed."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

QUICK = {
    "SEKISHO_SESSION_SECONDS": "6",
    "SEKISHO_COMMIT_SECONDS": "0.5",
    "SEKISHO_BATCH_ROWS": "5000",
    "SEKISHO_METRICS": "off",
}


class WorkerProcess:
    """A worker; ends with the block. Settings are given without prefix (`batch_rows=10`)."""

    arguments: tuple[str, ...] = ("worker",)
    says_when_ready = "reference versions"

    def __init__(self, brokers: str, lake: Path, **settings: object) -> None:
        given = {f"SEKISHO_{name.upper()}": str(value) for name, value in settings.items()}
        self._environment = {
            **os.environ,
            **QUICK,
            "SEKISHO_BROKERS": brokers,
            "SEKISHO_LAKE": str(lake),
            **given,
        }
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  closed with the block
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        code = "import sys; from stream.cli import main; sys.argv[0] = 'sekisho'; main()"
        command = [sys.executable, "-c", code, *self.arguments]
        return subprocess.Popen(command, env=self._environment, stdout=self._output, stderr=self._output)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self._output.close()

    @property
    def output(self) -> str:
        """Everything it printed to either stream so far."""
        return os.pread(self._output.fileno(), 1 << 20, 0).decode()

    def send(self, sign: signal.Signals) -> None:
        self.process.send_signal(sign)

    def wait(self, seconds: float = 30.0) -> int:
        """Its exit status."""
        return self.process.wait(seconds)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again with the settings it had; it must have ended."""
        assert self.process.poll() is not None
        self.process = self._start()

    def until(self, done: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until something holds; fails when the worker ends or time does."""
        deadline = time.monotonic() + seconds
        while not done():
            assert self.process.poll() is None, f"the worker ended: {self.output}"
            assert time.monotonic() < deadline, f"not within {seconds} s; the worker said: {self.output}"
            time.sleep(0.1)

    def until_ready(self) -> None:
        """Wait for the line that says what it reads."""
        self.until(lambda: self.says_when_ready in self.output)


class ReconcilerProcess(WorkerProcess):
    """A reconciler that sends no ticks of its own; its state is in the folder `state`."""

    says_when_ready = "sekisho reconciler of"

    def __init__(self, brokers: str, lake: Path, state: Path) -> None:
        self.arguments = ("reconciler", "--tick-seconds", "0", "--state", str(state))
        self.state = state
        super().__init__(brokers, lake)

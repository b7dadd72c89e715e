"""Child processes of the demo: each runs a verb and writes a log."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from schemas.errors import SekishoError
from stream.settings import PREFIX

STOP_SECONDS = 40.0


def sekisho(*arguments: str) -> list[str]:
    """The command that runs a verb with this Python."""
    return [sys.executable, "-c", "from stream.cli import main; main()", *arguments]


class Process:
    """One verb running in the background; its output goes to `log`."""

    def __init__(self, name: str, log: Path, *arguments: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
        self.name = name
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603
                sekisho(*arguments), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=kept
            )

    def check(self) -> None:
        """Raises SekishoError when it has ended."""
        if self._process.poll() is not None:
            lines = [line for line in self._log.read_text(errors="replace").split("\n") if line.strip()]
            said = lines[-1].strip() if lines else "it said nothing"
            raise SekishoError(
                f"{self.name} ended with status {self._process.returncode}: {said} (see {self._log})"
            )

    def ask_to_stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit status; after STOP_SECONDS it is killed."""
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    @property
    def log(self) -> Path:
        return self._log


class Group:
    """Processes that end together, in good order, on leaving."""

    def __init__(self, processes: Iterable[Process]) -> None:
        self._processes = list(processes)

    def __enter__(self) -> "Group":
        return self

    def check(self) -> None:
        """Raises SekishoError when one has ended."""
        for process in self._processes:
            process.check()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for process in self._processes:
            process.ask_to_stop()
        for process in self._processes:
            status = process.wait()
            if status != 0 and kind is None:
                raise SekishoError(
                    f"{process.name} ended with status {status} when asked to stop; see {process.log}"
                )

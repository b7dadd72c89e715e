"""A process that lands or settles and dies at its n-th step, and a disk that forgets what was not synced.

A step is a call that changes the disk or makes it durable. The child counts them by wrapping the calls that
the lake's code makes; nothing in the lake knows of it.
"""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from sinks.lake import Lake
from tests.landings import land, mixed
from tests.settling import full, settle

context: ForkServerContext = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.crash_writer"])

NEVER = 1 << 30


class _Steps:
    """Counts the steps; kills the process before number `fatal`, after writing down what is durable."""

    def __init__(self, fatal: int, journal: Path) -> None:
        self.fatal = fatal
        self.journal = journal
        self.count = 0
        self.names: list[str] = []
        self.synced_files: list[int] = []  # inodes
        self.synced_folders: dict[str, list[str]] = {}  # names in them when they were last synced

    def step(self, name: str) -> None:
        if self.count == self.fatal:
            self.write()
            os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(name)
        self.count += 1

    def write(self) -> None:
        self.journal.write_text(
            json.dumps({"names": self.names, "files": self.synced_files, "folders": self.synced_folders})
        )

    def wrap(self, owner: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.step(name)
            return original(*args, **kwargs)

        setattr(owner, name, counted)

    def install(self) -> None:
        fsync = os.fsync

        def recorded(handle: int) -> None:
            path = Path(f"/proc/self/fd/{handle}").resolve()
            self.step(f"fsync {path.name}")
            fsync(handle)
            if path.is_dir():
                self.synced_folders[str(path)] = [inner.name for inner in path.iterdir()]
            else:
                self.synced_files.append(os.fstat(handle).st_ino)

        os.fsync = recorded  # type: ignore[assignment]
        self.wrap(os, "link")
        self.wrap(Path, "replace")
        self.wrap(Path, "rename")
        self.wrap(Path, "mkdir")
        self.wrap(Path, "unlink")
        self.wrap(pq.ParquetWriter, "write_table")
        self.wrap(pq.ParquetWriter, "close")
        self.wrap(DeltaTable, "create_checkpoint")
        self.wrap(DeltaTable, "create")


def write(lake: str, start: int, end: int, fatal: int, journal: str) -> None:
    """The child: opens, completes, and lands `mixed` offsets from `start` (or where the lake is) to `end`."""
    steps = _Steps(fatal, Path(journal))
    steps.install()
    opened = Lake.open(lake)
    opened.offsets()
    if end:
        land(opened, *mixed(start, end))
    steps.fatal = NEVER
    steps.write()


def write_settlement(lake: str, number: int, fatal: int, journal: str) -> None:
    """The child as a reconciler: opens, completes, and settles `full` step `number` (0: none)."""
    steps = _Steps(fatal, Path(journal))
    steps.install()
    opened = Lake.open(lake)
    opened.settled()
    if number:
        settle(opened, number, full(number))
    steps.fatal = NEVER
    steps.write()


def run(lake: Path, start: int, end: int, fatal: int, journal: Path) -> bool:
    """Runs the child; whether it lived to the end. `journal` then holds its steps and what was durable."""
    return _lived(write, str(lake), start, end, fatal, str(journal))


def run_settlement(lake: Path, number: int, fatal: int, journal: Path) -> bool:
    """`run` for a reconciler."""
    return _lived(write_settlement, str(lake), number, fatal, str(journal))


def _lived(target: Callable[..., None], *args: Any) -> bool:
    child = context.Process(target=target, args=args)
    child.start()
    child.join(60)
    assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
    return child.exitcode == 0


def cut_power(lake: Path, before: dict[str, int], journal: Path) -> None:
    """Makes the disk forget: names in folders not synced since, contents of files never synced.

    `before` maps what was there before the child ran to its inode (see `inventory`); all of that is durable.
    """
    noted = json.loads(journal.read_text())
    folders: dict[str, list[str]] = noted["folders"]
    synced = set(noted["files"])
    for path in sorted(lake.rglob("*")):
        name = str(path)
        if not path.exists() or before.get(name) == path.stat().st_ino:
            continue
        if path.name not in folders.get(str(path.parent), []):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif path.is_file() and path.stat().st_ino not in synced:
            os.truncate(path, path.stat().st_size // 2)


def inventory(lake: Path) -> dict[str, int]:
    return {str(path): path.stat().st_ino for path in lake.rglob("*")}


def fatal_steps(steps: list[str], every: int) -> list[int]:
    """The steps to die at: each, or every so many, and then of the commits and checkpoints every third, the
    first among them (raw's, which decides).

    Of log entries that are read and synced one after another only the first counts.
    """
    reading = [step.startswith("fsync 0") for step in steps]
    fatal = [n for n in range(len(steps)) if not (n and reading[n] and reading[n - 1])]
    deciding = [n for n in fatal if steps[n] in ("link", "create_checkpoint")]
    return sorted({*fatal[::every], *(deciding if every == 1 else deciding[::3])})


MATRIX = pytest.mark.parametrize(
    ("power", "every"),
    [
        ("kept", 20),
        ("cut", 20),
        pytest.param("kept", 1, marks=pytest.mark.slow),
        pytest.param("cut", 1, marks=pytest.mark.slow),
    ],
)

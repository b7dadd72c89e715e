"""Where a reconciler keeps its working state: a folder that may be thrown away, and snapshots of it.

    LAKE/_reconciler/0/lock, state/     one reconciler's; the next one on this lake takes 1, and so on
    LAKE/_reconciler/snapshot-<raw version>/

Nothing here is evidence, and no reader of the lake looks at it.
"""

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import duckdb
from deltalake import DeltaTable

from schemas.errors import SekishoError
from sinks.durable import make_folder, sync_folder, sync_tree, told
from stream.reconciling import Engine, is_damage, told_of_state

FOLDER = "_reconciler"
MOST = 16  # reconcilers with a folder of their own on one lake
KEPT = 2  # snapshots
STALE_SECONDS = 3600.0  # age of a draft of a snapshot that nobody writes any more
_MARK = "lake"  # file in a state that names the lake it is of
_DAMAGED = "damaged"  # file in a state that is not to be used again, nor snapshots of it

E = TypeVar("E", bound=Engine)


class StateFolder:
    """A folder that this process alone uses, until the block of `claim` ends."""

    def __init__(self, folder: Path, lake: Path) -> None:
        """Use `claim`."""
        self._state = folder / "state"
        self._snapshots = lake / FOLDER
        self._lake_id = str(DeltaTable((lake / "raw").as_uri()).metadata().id)

    def open(self, make: Callable[[Path], E], is_fit: Callable[[E], bool]) -> E:
        """The engine that `make` opens on the state, or on the newest snapshot, or on nothing.

        A state that cannot be opened, is another lake's, or is not fit is thrown away.
        """
        self._tidy()
        is_damaged = (self._state / _DAMAGED).exists()
        for source in () if is_damaged else (None, *self._snapshot_folders()):
            if source is not None:
                self._clear()
                with contextlib.suppress(OSError):
                    _copy(source, self._state)
            engine = self._opened(make, is_fit)
            if engine is not None:
                return engine
        self._clear()
        make_folder(self._state)
        with told(self._state):
            (self._state / _MARK).write_text(self._lake_id)
        return make(self._state)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Marks the state where it turns out to be damaged in the block: the next `open` makes it anew.

        Raises SekishoError then; snapshots are not used, which may have been made of it.
        """
        try:
            yield
        except duckdb.Error as error:
            if not is_damage(error):
                raise
            with contextlib.suppress(OSError):
                (self._state / _DAMAGED).touch()
            line = str(error).partition("\n")[0]
            raise SekishoError(
                f"{self._state} is damaged: {line}; check the disk and start again, which makes it anew "
                "from the lake"
            ) from error

    def snapshot(self, engine: Engine) -> None:
        """Copy the state as it is between two steps; a later `open` may start from it."""
        with told_of_state():
            engine.checkpoint()
        draft = self._snapshots / f".{uuid.uuid4().hex}"
        final = self._snapshots / f"snapshot-{engine.position:020}"
        if final.exists():
            return
        try:
            with told(draft):
                _copy(self._state, draft)
                sync_tree(draft)
                draft.rename(final)
                sync_folder(self._snapshots)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        for old in self._snapshot_folders()[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)

    def _opened(self, make: Callable[[Path], E], is_fit: Callable[[E], bool]) -> E | None:
        """The engine on the state as it is, None where that is of no use."""
        with contextlib.suppress(OSError, SekishoError, duckdb.Error):
            if (self._state / _MARK).read_text() == self._lake_id:
                engine = make(self._state)
                if is_fit(engine):
                    return engine
                engine.close()
        return None

    def _tidy(self) -> None:
        """Removes what reconcilers that were killed have left of snapshots."""
        for draft in self._snapshots.glob(".*"):
            with contextlib.suppress(OSError):
                if time.time() - draft.stat().st_ctime > STALE_SECONDS:
                    shutil.rmtree(draft, ignore_errors=True)

    def _snapshot_folders(self) -> list[Path]:
        return sorted(self._snapshots.glob("snapshot-*"), reverse=True)

    def _clear(self) -> None:
        with told(self._state):
            if self._state.exists():
                shutil.rmtree(self._state)


def _copy(state: Path, to: Path) -> None:
    """A copy of a state. What lies in folders of it is never changed once it is written, and is linked."""

    def copied(source: str, target: str) -> None:
        if Path(source).parent != state:
            with contextlib.suppress(OSError):  # another file system, or one without links
                os.link(source, target)
                return
        shutil.copy2(source, target)

    shutil.copytree(state, to, copy_function=copied)


class ActiveLock:
    """Held by the active reconciler: what a standby on the same machine sees sooner than a missing step.

    Only a hint. Where a lock does not reach from one machine to another the lake has the last word, and after
    it has had it once the lock is not asked again.
    """

    def __init__(self, lake: Path) -> None:
        make_folder(lake / FOLDER)
        path = lake / FOLDER / "active"
        with told(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._trusted = True

    def take(self) -> bool:
        """Take the lock, where it is free and tells something."""
        if not self._trusted:
            return False
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def distrust(self) -> None:
        """Let go of it, and do not ask it again: another one was active in spite of it."""
        self._trusted = False
        fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._file)


@contextmanager
def claim(lake: Path, chosen: Path | None = None) -> Iterator[StateFolder]:
    """The folder `chosen`, or the first in the lake that no other process uses.

    Raises SekishoError where it is in use or cannot be written.
    """
    folders = [chosen] if chosen else [lake / FOLDER / str(number) for number in range(MOST)]
    make_folder(lake / FOLDER)
    for folder in folders:
        make_folder(folder)
        with told(folder / "lock"):
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            continue
        try:
            yield StateFolder(folder, lake)
        finally:
            os.close(lock)
        return
    raise SekishoError(f"{folders[-1]} is used by another reconciler: give this one another --state")

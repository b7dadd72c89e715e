"""Writes that survive a power cut, and disk errors told as one line that says what to do."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.errors import SekishoError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns an OSError inside the block into a SekishoError about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            advice = "free space there and start again"
        elif error.errno in _REFUSED:
            advice = "make it a folder this user can write to and start again"
        else:
            advice = "check the disk before you start again"
        reason = error.strerror or str(error)
        raise SekishoError(f"cannot write {path}: {reason}; {advice}, nothing landed is lost") from error


def sync_folder(folder: Path) -> None:
    """Makes the names in `folder` durable."""
    with told(folder):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sync_tree(folder: Path) -> None:
    """Makes `folder` durable with the files and folders in it."""
    for path in folder.rglob("*"):
        if path.is_file():
            with told(path), path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def make_folder(folder: Path) -> None:
    """Creates `folder` and its parents where they are missing, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with told(folder):
        folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def write_new(path: Path, content: bytes) -> bool:
    """Creates `path` with `content`, whole and durable or not at all; False if the name is taken.

    The content is on disk before the name exists, so that nobody ever reads half of it; of two writers
    of one name exactly one gets True (a hard link fails where the name exists).
    """
    draft = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with told(path):
        try:
            _write(draft, content)
            os.link(draft, path)
        except FileExistsError:
            if not path.samefile(draft):  # NFS says so of a link, too, that was made when it was asked twice
                return False
        finally:
            with suppress(OSError):
                draft.unlink()
    sync_folder(path.parent)
    return True


def replace(path: Path, content: bytes) -> None:
    """Writes `path` whole and durably, in place of what was there."""
    draft = path.with_name(f".{uuid.uuid4().hex}.tmp")
    with told(path):
        try:
            _write(draft, content)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())

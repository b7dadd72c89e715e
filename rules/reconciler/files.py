"""Files beside the state's database, each written once and never changed.

A table of the database says which there are: after a rollback or a crash they are as of the last commit, and
what no commit names may be removed.
"""

import os
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import duckdb

from rules.reconciler import state
from schemas.errors import SekishoError


def folder(con: duckdb.DuckDBPyConnection, name: str) -> Path | None:
    """The folder of that name, which is made where it is missing; None where the state is in memory."""
    parent = state.folder(con)
    if parent is None:
        return None
    (parent / name).mkdir(exist_ok=True)
    return parent / name


@contextmanager
def written(parent: Path) -> Iterator[BinaryIO]:
    """A new file in a folder; what a commit will name must outlive a power cut."""
    with (parent / secrets.token_hex(8)).open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    handle = os.open(parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check(parent: Path, named: Mapping[str, int]) -> None:
    """Raises SekishoError unless every file has its size in bytes."""
    sizes = {path.name: path.stat().st_size for path in parent.iterdir()}
    for name, size in named.items():
        if sizes.get(name) != size:
            raise SekishoError(
                f"{parent / name} is missing or damaged; delete the reconciler's folder: it is made again"
            )


def tidy(parent: Path, named: Collection[str]) -> None:
    """Removes all files but these."""
    for path in parent.iterdir():
        if path.name not in named:
            path.unlink()

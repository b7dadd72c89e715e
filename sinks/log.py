"""The log of one Delta table: read, repaired after a power cut, and committed to.

Entries are written here rather than through `DeltaTable.create_write_transaction`, for two measured reasons
(benchmarks/README.md, "Lake"): that call lists the whole log folder for every commit, and it names an entry
before its bytes are on disk. The `deltalake` library creates the tables and writes the checkpoints; any Delta
writer may commit beside this one.
"""

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import DeltaError

from schemas.errors import SekishoError
from sinks.batch import File
from sinks.durable import make_folder, sync_folder, told, write_new

_log = logging.getLogger(__name__)

CHECKPOINT_INTERVAL = 20  # commits; what a reader has to open besides the checkpoint
CHECKPOINTS_KEPT = 2  # older ones go: each repeats the whole file list, and the entries all stay

_ENTRY = re.compile(r"(\d{20})\.json")
_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")

_CONFIGURATION = {
    "delta.checkpointInterval": str(CHECKPOINT_INTERVAL),
    "delta.enableExpiredLogCleanup": "false",  # the seal and every audit read the whole log
    "delta.logRetentionDuration": "interval 36500 days",
}


class Torn(Exception):  # noqa: N818
    """The bytes are not a whole log entry."""


@dataclass(frozen=True)
class Entry:
    """One commit: Delta actions in their order."""

    version: int
    actions: Sequence[Mapping[str, Any]]

    @property
    def info(self) -> Mapping[str, Any]:
        """The `sekisho` object of its commitInfo; empty for commits made by others."""
        for action in self.actions:
            if "commitInfo" in action:
                return action["commitInfo"].get("sekisho") or {}
        return {}

    @property
    def txns(self) -> dict[str, int]:
        return {a["txn"]["appId"]: a["txn"]["version"] for a in self.actions if "txn" in a}

    @classmethod
    def parse(cls, version: int, content: bytes) -> "Entry":
        """Raises Torn for less than a whole entry: lost pages read as zeros, a cut file as half a line."""
        try:
            actions = [orjson.loads(line) for line in content.split(b"\n") if line]
        except ValueError as error:
            raise Torn from error
        if not actions or not all(isinstance(action, dict) for action in actions):
            raise Torn
        entry = cls(version, actions)
        if entry.info.get("actions", len(actions)) != len(actions):
            raise Torn  # cut between two lines
        return entry


class DeltaLog:
    """The log of the table in folder `table`.

    `version` is the last entry read, `txns` the versions by appId.
    """

    def __init__(self, table: Path) -> None:
        self.table = table
        self.folder = table / "_delta_log"
        self.version = -1
        self.txns: dict[str, int] = {}

    @classmethod
    def open(cls, table: Path, schema: pa.Schema, append_only: bool, repair: bool = True) -> "DeltaLog":
        """Reads the table's log, after repairing what a power cut left; creates the table if there is none.

        Without `repair` it writes nothing, and what is torn or missing raises SekishoError.

        `schema` includes the partition column `dt`. Raises SekishoError where the log has lost entries or
        belongs to another schema.
        """
        log = cls(table)
        names = log._names()
        log._start_from_checkpoint(names, repair)
        last = max((version for version, _ in _numbered(names, _ENTRY)), default=-1)
        if repair and last > log.version and log._is_torn(last):
            log._set_aside(log._entry_path(last))
            last -= 1
        if last < 0 and not repair:
            raise SekishoError(f"there is no table in {table}: start a worker, which makes it")
        if last < 0:
            log._create(schema, append_only)
            last = 0
        checkpoint = log.version
        log.refresh()
        if last < checkpoint or log.version < last:  # it may be more: others go on committing
            missing = log._entry_path(checkpoint if last < checkpoint else log.version + 1)
            raise SekishoError(f"the lake has lost {missing}: restore it from a copy before you start again")
        log._sync_entry(last)
        log._check_schema(schema)
        return log

    def refresh(self) -> None:
        """Reads what was committed since, by anyone.

        Each entry is made durable before anything is built on it: a commit that survives must not follow
        one that does not.
        """
        before = self.version
        while (entry := self._read(self.version + 1)) is not None:
            self._absorb(entry)
        if self.version > before:
            sync_folder(self.folder)

    def commit(
        self,
        files: Sequence[File],
        txns: Mapping[str, int],
        info: Mapping[str, Any],
        done: Callable[[], bool],
    ) -> int | None:
        """Commits `files` and `txns` in one durable entry and returns its version.

        `done` is asked of the newest state before each attempt: True gives up and returns None (someone else
        has committed it), an exception goes through.
        """
        actions = [_commit_info(info, 1 + len(txns) + len(files))]
        actions += [{"txn": {"appId": app, "version": version}} for app, version in txns.items()]
        actions += [file.action() for file in files]
        lines = b"\n".join(orjson.dumps(action) for action in actions)
        while True:
            self.refresh()
            if done():
                return None
            version = self.version + 1
            if write_new(self._entry_path(version), lines):
                self._absorb(Entry(version, actions))
                if version % CHECKPOINT_INTERVAL == 0:
                    self._checkpoint(version)
                return version

    def entry(self, version: int) -> Entry:
        """One entry of the log. Raises SekishoError if it is missing or torn."""
        entry = self._read(version)
        if entry is None:
            raise SekishoError(f"the lake has lost {self._entry_path(version)}: restore it from a copy")
        return entry

    def files(self) -> list[Path]:
        """The live data files in the order of their making, read from the log anew."""
        live: dict[str, int] = {}
        checkpoints = _numbered(self._names(), _CHECKPOINT)
        first = 0
        if checkpoints:
            first, name = max(checkpoints)
            live = dict(_checkpoint_files(self.folder / name))
        for version in range(first, self.version + 1):
            for action in self.entry(version).actions:
                if "add" in action:
                    live[action["add"]["path"]] = action["add"]["modificationTime"]
                elif "remove" in action:
                    live.pop(action["remove"]["path"], None)
        return [self.table / path for path, _ in sorted(live.items(), key=lambda item: (item[1], item[0]))]

    # Reading

    def _entry_path(self, version: int) -> Path:
        return self.folder / f"{version:020}.json"

    def _names(self) -> list[str]:
        with told(self.folder):
            return [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []

    def _read(self, version: int) -> Entry | None:
        path = self._entry_path(version)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SekishoError(f"cannot read {path}: {error.strerror}; make it readable") from error
        try:
            entry = Entry.parse(version, content)
        except Torn:
            raise SekishoError(
                f"{path} is damaged: start again, which sets it aside if it is the last entry, "
                "else restore it from a copy"
            ) from None
        if version > self.version:
            self._sync_entry(version)
        return entry

    def _is_torn(self, version: int) -> bool:
        try:
            Entry.parse(version, self._entry_path(version).read_bytes())
        except Torn:
            return True
        except FileNotFoundError:  # set aside by a process that started beside this one
            return True
        return False

    def _absorb(self, entry: Entry) -> None:
        assert entry.version == self.version + 1
        self.txns |= entry.txns
        self.version = entry.version

    def _sync_entry(self, version: int) -> None:
        with told(self.folder), self._entry_path(version).open("rb") as file:
            os.fsync(file.fileno())

    # Opening

    def _start_from_checkpoint(self, names: Sequence[str], repair: bool) -> None:
        """Takes `version` and `txns` from the newest checkpoint that can be read; `repair` sets torn ones
        aside."""
        for version, name in sorted(_numbered(names, _CHECKPOINT), reverse=True):
            path = self.folder / name
            try:
                txns = pq.read_table(path)["txn"].combine_chunks()
            except FileNotFoundError:  # an older one, removed by a live writer meanwhile
                continue
            except (pa.ArrowException, OSError, KeyError):
                if repair:
                    self._set_aside(path)
                    self._set_aside(self.folder / "_last_checkpoint")
                continue
            self.version = version
            self.txns = {txn["appId"]: txn["version"] for txn in txns.to_pylist() if txn is not None}
            return

    def _set_aside(self, path: Path) -> None:
        """Renames what a power cut tore; the bytes are kept for whoever wants to look."""
        with told(path):
            try:
                path.rename(path.with_name(f"{path.name}.{time.time_ns()}.torn"))
            except FileNotFoundError:
                return
        sync_folder(path.parent)
        _log.warning("%s was torn by a crash and is set aside; what it held is landed again", path)

    def _create(self, schema: pa.Schema, append_only: bool) -> None:
        configuration = dict(_CONFIGURATION)
        if append_only:
            configuration["delta.appendOnly"] = "true"
        make_folder(self.folder)
        try:
            DeltaTable.create(
                self.table.as_uri(),
                Schema.from_arrow(schema),
                "ignore",
                ["dt"],
                configuration=configuration,
                # the loser of a race must not create the table again in a second entry
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        except (DeltaError, OSError) as error:
            if self._entry_path(0).exists():
                return
            line = str(error).partition("\n")[0]
            raise SekishoError(f"cannot create {self.table}: {line}; make the folder writable") from error
        self._sync_entry(0)
        sync_folder(self.folder)

    def _check_schema(self, schema: pa.Schema) -> None:
        """Refuses a table of other columns; looks at the first entry, where one is still there."""
        entry = self._read(0)
        for action in entry.actions if entry else ():
            if "metaData" in action:
                found = json.loads(action["metaData"]["schemaString"])
                if found != json.loads(Schema.from_arrow(schema).to_json()):
                    raise SekishoError(
                        f"{self.table} has other columns than this version of sekisho: start a new lake"
                    )

    # Checkpoints: a convenience of readers, never needed for the truth

    def _checkpoint(self, version: int) -> None:
        path = self.folder / f"{version:020}.checkpoint.parquet"
        try:
            DeltaTable(self.table.as_uri(), version=version).create_checkpoint()
            for written in (path, self.folder / "_last_checkpoint"):
                with written.open("rb") as file:
                    os.fsync(file.fileno())
            sync_folder(self.folder)
            stale = version - CHECKPOINTS_KEPT * CHECKPOINT_INTERVAL
            (self.folder / f"{stale:020}.checkpoint.parquet").unlink(missing_ok=True)
        except (DeltaError, OSError, SekishoError) as error:
            line = str(error).partition("\n")[0]
            _log.warning("no checkpoint of %s at %d, the next one will do: %s", self.table, version, line)


def _numbered(names: Sequence[str], pattern: re.Pattern[str]) -> list[tuple[int, str]]:
    return [(int(match[1]), name) for name in names if (match := pattern.fullmatch(name))]


def _checkpoint_files(path: Path) -> Iterator[tuple[str, int]]:
    with pq.ParquetFile(path) as checkpoint:
        adds = checkpoint.read(columns=["add.path", "add.modificationTime"])["add"].to_pylist()
    for add in adds:
        if add is not None and add["path"] is not None:
            yield add["path"], add["modificationTime"]


def _commit_info(info: Mapping[str, Any], actions: int) -> dict[str, Any]:
    commit = {
        "timestamp": time.time_ns() // 1_000_000,
        "operation": "WRITE",
        "operationParameters": {"mode": "Append", "partitionBy": '["dt"]'},
        "isBlindAppend": True,
        "engineInfo": "sekisho",
        "sekisho": {"actions": actions, **info},
    }
    return {"commitInfo": commit}

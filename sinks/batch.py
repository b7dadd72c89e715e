"""What one commit of a batch says: its offset ranges, what was known, and the files of every table.

It is the `sekisho` object in the commitInfo of the raw table's log entry. The other tables' commits are
derived from it alone, so that a crash between them is repaired from the log, without Kafka.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Partition = tuple[str, int]
"""Topic and partition."""

Hole = tuple[str, int, int, int]
"""Topic, partition, start and end (exclusive) of offsets that Kafka does not hold."""


def app_id(partition: Partition) -> str:
    """The Delta `txn` appId of a partition; its version is the next offset to land."""
    return f"{partition[0]}:{partition[1]}"


def owed_id(table: str, partition: Partition) -> str:
    """The appId under which raw's log remembers up to where `table` must have landed `partition`."""
    return f"{table}<{app_id(partition)}"


def read_id(text: str) -> tuple[str | None, Partition]:
    """The table owed (None for raw's own offset) and the partition that an appId of raw names."""
    table, _, rest = text.rpartition("<")
    topic, _, number = rest.rpartition(":")
    return table or None, (topic, int(number))


@dataclass(frozen=True)
class File:
    """A Parquet file that is on disk, durable, and not yet named by a log.

    `path` is relative to the table's folder, `size` in bytes, `modified` in ms since the epoch, `stats` the
    Delta statistics as JSON text, `sha256` hexadecimal.
    """

    path: str
    dt: str
    size: int
    modified: int
    stats: str
    rows: int
    sha256: str

    def action(self) -> dict[str, Any]:
        """The Delta `add` action."""
        add = {
            "path": self.path,
            "partitionValues": {"dt": self.dt},
            "size": self.size,
            "modificationTime": self.modified,
            "dataChange": True,
            "stats": self.stats,
        }
        return {"add": add}

    def digest(self) -> dict[str, Any]:
        """What the commit says of the file beyond its action."""
        return {"path": self.path, "sha256": self.sha256, "rows": self.rows}

    def to_json(self) -> dict[str, Any]:
        return {**self.action(), "sha256": self.sha256, "rows": self.rows}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "File":
        add = value["add"]
        return cls(
            add["path"],
            add["partitionValues"]["dt"],
            add["size"],
            add["modificationTime"],
            add["stats"],
            value["rows"],
            value["sha256"],
        )


@dataclass(frozen=True)
class Owed:
    """The files of one table other than raw, and the topics whose records they hold rows of."""

    files: Sequence[File]
    topics: Sequence[str]


@dataclass(frozen=True)
class Batch:
    """One batch.

    `ranges` are half-open offset ranges, `known` is the next offset read of each reference partition.
    """

    ranges: Mapping[Partition, tuple[int, int]]
    known: Mapping[Partition, int]
    holes: Sequence[Hole] = ()
    raw: Sequence[File] = ()
    tables: Mapping[str, Owed] = field(default_factory=dict)

    def partitions(self, table: str) -> list[Partition]:
        """The partitions that `table` advances by this batch."""
        return [partition for partition in self.ranges if partition[0] in self.tables[table].topics]

    def files(self, table: str) -> Sequence[File]:
        return self.tables[table].files

    def raw_txns(self) -> dict[str, int]:
        """Next offsets, and what the other tables owe."""
        txns = {app_id(partition): end for partition, (_, end) in self.ranges.items()}
        for table in self.tables:
            txns |= {owed_id(table, p): self.ranges[p][1] for p in self.partitions(table)}
        return txns

    def table_txns(self, table: str) -> dict[str, int]:
        return {app_id(partition): self.ranges[partition][1] for partition in self.partitions(table)}

    def raw_info(self) -> dict[str, Any]:
        """The `sekisho` object of raw's commit."""
        return {
            "table": "raw",
            **self._shared(self.ranges),
            "holes": [
                {"topic": topic, "partition": partition, "start": start, "end": end}
                for topic, partition, start, end in self.holes
            ],
            "files": [file.digest() for file in self.raw],
            "tables": {
                table: {"files": [file.to_json() for file in owed.files], "topics": list(owed.topics)}
                for table, owed in self.tables.items()
            },
        }

    def table_info(self, table: str, raw_version: int) -> dict[str, Any]:
        """The `sekisho` object of another table's commit."""
        return {
            "table": table,
            "raw_version": raw_version,
            **self._shared(self.partitions(table)),
            "files": [file.digest() for file in self.tables[table].files],
        }

    def _shared(self, partitions: Iterable[Partition]) -> dict[str, Any]:
        return {
            "ranges": [
                {"topic": p[0], "partition": p[1], "start": self.ranges[p][0], "end": self.ranges[p][1]}
                for p in partitions
            ],
            "known": [
                {"topic": p[0], "partition": p[1], "offset": offset}
                for p, offset in sorted(self.known.items())
            ],
        }

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> "Batch":
        """Reads `raw_info` back; raw's own files are not needed again and stay out."""
        return cls(
            {(r["topic"], r["partition"]): (r["start"], r["end"]) for r in info["ranges"]},
            {(k["topic"], k["partition"]): k["offset"] for k in info["known"]},
            [(h["topic"], h["partition"], h["start"], h["end"]) for h in info["holes"]],
            (),
            {
                table: Owed([File.from_json(file) for file in owed["files"]], owed["topics"])
                for table, owed in info["tables"].items()
            },
        )

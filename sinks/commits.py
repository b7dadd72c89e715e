"""What workers have landed, commit by commit, as raw's log tells it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sinks.batch import Batch
from sinks.log import DeltaLog, Entry


@dataclass(frozen=True)
class Commit:
    """One batch that has landed.

    `version` is its entry in raw's log, `files` the absolute paths of the Parquet files of each table it has
    rows for, `raw` included. They can be read at once, even where a crash has left another table's own
    commit undone.
    """

    version: int
    batch: Batch
    files: Mapping[str, Sequence[Path]]


def commits(raw: DeltaLog, after: int) -> Iterator[Commit]:
    """The batches in raw's log after entry `after`, in order, as of now.

    Entries that land nothing (the table's creation, a merge of files) are passed over. Costs one small file a
    commit. Raises SekishoError where an entry is lost or damaged.
    """
    raw.refresh()
    for version in range(after + 1, raw.version + 1):
        entry = raw.entry(version)
        if entry.info.get("table") == "raw":
            yield _commit(raw.table.parent, entry)


def _commit(lake: Path, entry: Entry) -> Commit:
    batch = Batch.from_info(entry.info)
    files = {table: [lake / table / file.path for file in owed.files] for table, owed in batch.tables.items()}
    if entry.info["files"]:
        files["raw"] = [lake / "raw" / file["path"] for file in entry.info["files"]]
    return Commit(entry.version, batch, files)

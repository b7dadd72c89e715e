"""What a process knows when it starts: the reference versions that have landed."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from rules.references import References
from schemas.record import Record
from schemas.reference import REFERENCES
from sinks.lake import Lake
from stream.positions import Partition


def load(references: References, lake: Lake, offsets: Mapping[Partition, int]) -> None:
    """Fill the index from the lake; `offsets` are the lake's.

    The next batch is read from disk while one is taken in.
    """
    with ThreadPoolExecutor(1, "loading") as reader:
        landed = _landed(lake)
        batch = next(landed, None)
        while batch is not None:
            following = reader.submit(next, landed, None)
            references.add(*batch)
            batch = following.result()
    for (topic, partition), offset in offsets.items():
        if topic in REFERENCES:
            references.note_read(topic, partition, offset)


def _landed(lake: Lake) -> Iterator[tuple[Record, pa.RecordBatch]]:
    for record in REFERENCES.values():
        for versions in lake.versions(record):
            yield record, versions

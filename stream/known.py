"""What a process knows when it starts: the reference versions that have landed."""

from collections.abc import Mapping

from rules.references import References
from schemas.reference import REFERENCES
from sinks.lake import Lake
from stream.positions import Partition


def load(references: References, lake: Lake, offsets: Mapping[Partition, int]) -> None:
    """Fill the index from the lake; `offsets` are the lake's, asked before.

    Raises SekishoError where a file cannot be read.
    """
    for record in REFERENCES.values():
        for versions in lake.versions(record):
            references.add(record, versions)
    for (topic, partition), offset in offsets.items():
        if topic in REFERENCES:
            references.note_read(topic, partition, offset)

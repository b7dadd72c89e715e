"""Which topics the lake's records came from: a topic of the same name may have been made anew since.

Kafka gives each topic an id (KIP-516). Offsets alone do not tell that a topic is another one once it has
grown past the lake's: records of the new topic would be taken for landed ones and never be read.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from schemas.errors import SekishoError
from sinks.durable import make_folder, replace, told
from stream.positions import Partition

FOLDER = "_topics"


def check(
    lake: Path, ids: Mapping[str, str | None], landed: Collection[Partition], accepted: Collection[Partition]
) -> None:
    """Note the ids of the topics that the lake holds nothing of, and compare those of the others.

    Args:
        lake: the lake's folder; a file in FOLDER for each topic has its id.
        ids: by topic; None where the brokers have none.
        landed: the partitions that the lake holds something of.
        accepted: those whose missing records an operator has given up.

    Raises SekishoError where a topic is another one than the lake's records came from, and this is not
    accepted for each of its partitions.
    """
    make_folder(lake / FOLDER)
    for topic, found in ids.items():
        if found is None:
            continue
        path = lake / FOLDER / topic
        with told(path):
            noted = path.read_text() if path.exists() else None
        if noted == found:
            continue
        given_up = sorted(partition for partition in landed if partition[0] == topic)
        if noted is not None and not set(given_up) <= set(accepted):
            options = " ".join(f"--accept-hole {name}:{number}" for name, number in given_up)
            raise SekishoError(
                f"{topic}: the topic was recreated, and what has the offsets of the lake's records in it was "
                f"never read; use a new lake, or give that up with {options}"
            )
        replace(path, found.encode())

"""Where to start reading a partition, given what the lake holds and what the log holds."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from schemas.errors import SekishoError
from stream.fetches import Fetch

Partition = tuple[str, int]
Hole = tuple[str, int, int, int]  # topic, partition, half-open range of offsets


@dataclass(frozen=True)
class Start:
    """Read from `read`, and land from `land` on: what lies between, if anything, is dropped.

    `gap` is set where an operator gave records up: a fetch without records that covers what the log has lost,
    or nothing, where the log was lost as a whole.
    """

    read: int
    land: int
    gap: Fetch | None = None


def start_at(
    partition: Partition, landed: int | None, first: int, end: int, accepted: Set[Partition]
) -> Start:
    """Where to start: `landed` is the lake's next offset, None if it holds nothing; [first, end) is the log.

    Raises SekishoError when records are lost between the lake and the log and this is not accepted.
    """
    if landed is None:
        return Start(first, first)
    if first <= landed <= end:
        return Start(landed, landed)
    topic, number = partition
    name = f"{topic}:{number}"
    if landed < first:
        if partition not in accepted:
            raise SekishoError(
                f"{name}: offsets {landed} to {first - 1} were deleted before they landed; restore them, "
                f"or give them up with --accept-hole {name}"
            )
        return Start(first, first, Fetch(topic, number, landed, first))
    if partition not in accepted:
        raise SekishoError(
            f"{name}: the log ends at {end} and the lake at {landed}, so the topic was recreated or lost "
            f"records; use a new lake, or give up all below {landed} with --accept-hole {name}"
        )
    return Start(end, landed, Fetch(topic, number, landed, landed))


def starts(
    landed: Mapping[Partition, int],
    first: Mapping[Partition, int],
    end: Mapping[Partition, int],
    accepted: Set[Partition],
) -> dict[Partition, Start]:
    """`start_at` of every partition of the log, given the lake's offsets."""
    return {each: start_at(each, landed.get(each), first[each], end[each], accepted) for each in first}

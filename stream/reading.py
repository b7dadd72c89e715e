"""What agents hand over: fetches are checked against the positions sought and gathered to micro-batches."""

import asyncio
import time
from collections.abc import Mapping

from schemas.errors import SekishoError
from sinks.metrics import Metrics
from stream.fetches import Fetch
from stream.judging import Batch
from stream.positions import Partition, Start
from stream.settings import Settings

ROOM = 1  # batches that may wait before agents do
FEW = 1 / 40  # of `batch_rows`; a batch below costs more in queries than in records,
PATIENCE = 1.0  # so it may wait for so many seconds


class Intake:
    """The micro-batch that is filling, and what offset each partition must bring next."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.epoch = -1  # of the seek whose fetches count
        self.next: dict[Partition, int] = {}
        self.wake = asyncio.Event()  # there is something to do for who takes batches
        self._settings = settings
        self._metrics = metrics
        self._skip: dict[Partition, int] = {}  # where an operator gave records up: land from here on
        self._room = asyncio.Event()
        self.clear()

    def clear(self) -> None:
        """Drop what waits; it will be read again."""
        self._fetches: list[Fetch] = []
        self._rows = 0
        self._bytes = 0
        self._since = 0.0
        self._room.set()

    def begin(self, epoch: int, places: Mapping[Partition, Start]) -> None:
        """From here on only fetches of this epoch count, from these places on."""
        self.clear()
        self.epoch = epoch
        self.next = {partition: place.read for partition, place in places.items()}
        self._skip = {each: place.land for each, place in places.items() if place.read != place.land}
        for place in places.values():
            if place.gap is not None:
                self._add(place.gap)

    def stop(self) -> None:
        """Take no more fetches, and let agents that wait go."""
        self.epoch = -1
        self._room.set()

    async def put(self, fetch: Fetch) -> None:
        """Take a fetch, waiting while there is no room; those of another epoch are dropped.

        Raises SekishoError when it does not continue where the one before it ended.
        """
        while fetch.epoch == self.epoch and self._is_crowded:
            self._room.clear()
            await self._room.wait()
        if fetch.epoch != self.epoch:
            return
        partition = (fetch.topic, fetch.partition)
        due = self.next.get(partition)
        if fetch.start != due:
            raise SekishoError(
                f"{fetch.topic}:{fetch.partition}: offset {fetch.start} was read where {due} was due; "
                "nothing is lost, start the worker again and report this"
            )
        self.next[partition] = fetch.end
        self._metrics.read(fetch.topic, len(fetch))
        if partition in self._skip:
            land = self._skip[partition]
            if fetch.end <= land:
                return
            fetch.drop_below(land)
            del self._skip[partition]
        self._add(fetch)

    def _add(self, fetch: Fetch) -> None:
        due_before = self._wait
        if not self._fetches:
            self._since = time.monotonic()
            self.wake.set()  # who takes batches now knows when this one is due
        self._fetches.append(fetch)
        self._rows += len(fetch)
        self._bytes += fetch.bytes
        if self._wait < due_before:
            self.wake.set()

    @property
    def _is_full(self) -> bool:
        return self._rows >= self._settings.batch_rows or self._bytes >= self._settings.batch_bytes

    @property
    def _wait(self) -> float:
        """Seconds that the batch may wait from its first fetch on."""
        if self._is_full:
            return 0.0
        few = self._rows < FEW * self._settings.batch_rows
        return max(self._settings.batch_ms / 1000, PATIENCE if few else 0.0)

    @property
    def _is_crowded(self) -> bool:
        limits = self._settings
        return self._rows >= ROOM * limits.batch_rows or self._bytes >= ROOM * limits.batch_bytes

    def due_in(self) -> float | None:
        """Seconds until the batch is to be judged, None when it is empty."""
        if not self._fetches:
            return None
        return max(0.0, self._since + self._wait - time.monotonic()) if self._wait else 0.0

    def take(self) -> Batch:
        """The batch as it is, leaving an empty one."""
        batch = Batch(self._fetches, self._rows, self._bytes, self._since)
        self.clear()
        return batch

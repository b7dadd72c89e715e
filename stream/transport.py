"""A Faust transport that delivers whole fetches and starts where the lake ends.

Differences to Faust's own: an agent gets a list of `Fetch`, one a partition, of all that came of its topic
at one time, and empties it; records of aborted transactions are not delivered; offsets come from the app's
`PositionOwner` instead of the consumer group; every seek starts a new *epoch* that is stamped on what is
fetched after it, so that the owner can tell stale fetches.

This rests on private names of the pinned Faust (`FAUST_HOOKS`); `new_app` fails loudly when one has moved.
"""

import inspect
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import faust
from aiokafka.errors import NoOffsetForPartitionError
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from faust.tables.manager import TableManager
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode import CrashingSupervisor

from stream.fetches import COLUMNS, Fetch, install

FAUST_HOOKS: dict[Any, dict[str, tuple[str, ...]]] = {
    faust.App: {"_create_directories": ("self",), "_crash": ("self", "reason")},
    TableManager: {"on_start": ("self",), "_update_channels": ("self",)},
    driver.Consumer: {
        "_new_consumer_thread": ("self",),
        "_to_message": ("self", "tp", "record"),
        "perform_seek": ("self",),
    },
    driver.AIOKafkaConsumerThread: {
        "_create_worker_consumer": ("self", "transport"),
        "_fetch_records": ("self", "consumer", "active_partitions", "timeout", "max_records"),
        "call_thread": ("self", "fun", "args", "kwargs"),
    },
}
"""Methods of Faust that are overridden or called and may change, with their parameters."""

CONSUMER_HOOKS = ("_key_deserializer", "_isolation_level", "_auto_offset_reset", "_subscription", "_fetcher")
"""Private attributes of aiokafka's consumer: three are set before it starts, the others are read."""

FETCHER_HOOKS = ("_fetch_max_wait_ms", "_fetch_min_bytes")
"""Private attributes of aiokafka's fetcher that are set before each fetch."""

# While records wait to be taken, the next request to their broker asks for the idle partitions only: every
# other one then waits for its answer, with Faust's setting for a second and a half.
FETCH_BYTES = 1 << 20  # that a fetch waits for
FETCH_MS = 250  # for so long: each costs 0.5 ms however little it brings, some ms if from 48 partitions
BRISK = 10 << 20  # bytes a second: where they come as fast, fetches wait
BRISK_MS = 50  # less long, so that the last of a backlog need not wait,
BRISK_BYTES = 4 << 20  # and for more, unless there is a backlog: then some are asked for that have less

HELD_BACK_SECONDS = 0.05  # for which a call waits while Faust holds partitions back

STALE = -2
"""The epoch of fetches that no seek stands behind; owners must drop them."""


class PositionOwner(Protocol):
    """Who knows where each partition is to be read from."""

    def seeking(self) -> AbstractAsyncContextManager[None]:
        """Held while positions are looked up and sought; what was fetched and not landed is dropped."""

    async def positions(
        self, first: Mapping[TopicPartition, int], end: Mapping[TopicPartition, int]
    ) -> Mapping[TopicPartition, int]:
        """The next offset to read of each partition assigned, given its log's first and end offset."""

    def begin(self, epoch: int, positions: Mapping[TopicPartition, int]) -> None:
        """From here on only fetches of this epoch count; called before the consumer seeks."""

    def failed(self, error: BaseException) -> None:
        """The lookup or the seek failed, or a part of the app crashed; Faust itself might go on."""


class NoReadOffsets(dict[TP, int | None]):
    """Faust drops what lies below these offsets, which fetches from before a seek can have raised."""

    def __getitem__(self, key: TP) -> None:
        return None

    def __setitem__(self, key: TP, value: int | None) -> None:
        pass

    def update(self, *args: Any, **kwargs: Any) -> None:
        pass


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """The thread in which aiokafka runs. `epoch` and `_sought` are read and written in this thread only.

    Faust can let fetches flow between a new assignment and its seek, when one rebalance follows another. They
    start where the group stood, so only fetches of the very assignment that was sought bear the epoch.
    """

    epoch = STALE
    _sought: Any = None  # aiokafka's assignment whose partitions have all been sought
    _fetched_at = 0.0

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        assert all(hasattr(consumer, name) for name in CONSUMER_HOOKS), "aiokafka's consumer has changed"
        consumer._key_deserializer = COLUMNS
        # Faust hard-codes read_uncommitted, which would land aborted records.
        consumer._isolation_level = "read_committed"
        # Without this an offset outside the log silently becomes its start.
        consumer._auto_offset_reset = "none"
        consumer._fetch_max_wait_ms = FETCH_MS
        consumer._fetch_min_bytes = FETCH_BYTES
        return consumer

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: Any,
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> Any:
        # Faust takes a partition whose stream is full out of `active_partitions` and lets it in again without
        # waking a call that waits for the others: what has come of it already would lie there for a second.
        is_held_back = timeout is not None and len(active_partitions) < len(consumer.assignment())
        if is_held_back:
            timeout = HELD_BACK_SECONDS
        try:
            records = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        except NoOffsetForPartitionError:
            return {}  # of a partition just assigned, which is about to be sought; the group knows no offset
        # No other task ran between draining the fetcher and here: the epoch is that of the records.
        epoch = self.epoch if self._assignment() is self._sought else STALE
        together: dict[str, tuple[TP, list[Fetch]]] = {}
        for tp, fetches in records.items():
            for fetch in fetches:
                fetch.epoch = epoch
            together.setdefault(tp.topic, (tp, []))[1].extend(fetches)
        if together or not is_held_back:
            fetched = sum(fetch.bytes for _, fetches in together.values() for fetch in fetches)
            mine = consumer.assignment()
            ends = (
                (fetches[-1].end, consumer.highwater(tp)) for tp, fetches in records.items() if tp in mine
            )
            self._pace(fetched, is_behind=any(end < (log_end or 0) for end, log_end in ends))
        return {tp: [fetches] for tp, fetches in together.values()}

    def _pace(self, fetched: int, is_behind: bool) -> None:
        """Set for what and how long the next fetch may wait, by how fast these bytes have come, and whether
        the brokers have more."""
        now = time.monotonic()
        is_brisk = fetched > BRISK * (now - self._fetched_at)
        self._fetched_at = now
        fetcher = self._ensure_consumer()._fetcher
        assert all(hasattr(fetcher, name) for name in FETCHER_HOOKS), "aiokafka's fetcher has changed"
        fetcher._fetch_max_wait_ms = BRISK_MS if is_brisk else FETCH_MS
        fetcher._fetch_min_bytes = BRISK_BYTES if is_brisk and not is_behind else FETCH_BYTES

    def _assignment(self) -> Any:
        subscription = self._ensure_consumer()._subscription.subscription
        return None if subscription is None else subscription.assignment

    async def seek_epoch(self, epoch: int, positions: Mapping[TopicPartition, int]) -> None:
        """Seek every partition, and stamp what is fetched from here on with the epoch."""
        await self.call_thread(self._seek_epoch, epoch, positions)

    async def _seek_epoch(self, epoch: int, positions: Mapping[TopicPartition, int]) -> None:
        consumer = self._ensure_consumer()
        if set(positions) != consumer.assignment():
            self._sought = None  # a rebalance came between: it brings its own seek
            return
        for tp, offset in positions.items():
            consumer.seek(tp, offset)
        self.epoch, self._sought = epoch, self._assignment()

    async def log_ends(self, tps: set[TopicPartition]) -> tuple[dict[TopicPartition, int], ...]:
        """First offset and end offset (of what is committed) of each partition."""
        consumer = self._ensure_consumer()
        first = await self.call_thread(consumer.beginning_offsets, list(tps))
        end = await self.call_thread(consumer.end_offsets, list(tps))
        return first, end

    async def courtesy_commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Tell the consumer group where the lake stands, for lag monitors; nothing depends on it.

        Raises whatever aiokafka raises.
        """
        consumer = self._ensure_consumer()
        mine = consumer.assignment()
        committed = {tp: OffsetAndMetadata(offset, "") for tp, offset in offsets.items() if tp in mine}
        if committed:
            await self.call_thread(consumer.commit, committed)


class Consumer(driver.Consumer):
    """Faust's consumer with positions from the app's `owner`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = NoReadOffsets()
        self._epochs = 0

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _to_message(self, tp: TP, record: list[Fetch]) -> ConsumerMessage:
        """One message for all partitions, said to be of the first: each takes Faust 0.2 ms."""
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            record[0].start,
            0.0,
            0,
            None,
            None,
            record,
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def perform_seek(self) -> None:
        """Seek to where the lake ends. Faust calls this after every rebalance, the owner after a conflict."""
        owner: PositionOwner = self.app.owner
        try:
            async with owner.seeking():
                tps = {TopicPartition(tp.topic, tp.partition) for tp in self.assignment()}
                first, end = await self._thread.log_ends(tps) if tps else ({}, {})
                positions = await owner.positions(first, end)
                self._epochs += 1
                owner.begin(self._epochs, positions)
                await self._thread.seek_epoch(self._epochs, positions)
        except Exception as error:
            owner.failed(error)
            raise

    async def courtesy_commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        await self._thread.courtesy_commit(offsets)

    async def commit(self, *args: Any, **kwargs: Any) -> bool:
        """Faust's own commits do nothing: acks are off, and its arithmetic has holes."""
        return False


class Transport(driver.Transport):
    Consumer = Consumer


class NoTables(TableManager):
    """Starts without the second that Faust's own gives tables to be defined in, of which there are none."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class App(faust.App):
    """A Faust app whose positions belong to an owner."""

    owner: PositionOwner

    def _create_directories(self) -> None:
        """Nothing is kept in files: Faust would make a folder for its tables."""

    def _crash(self, reason: BaseException) -> None:
        super()._crash(reason)
        self.owner.failed(reason)


def new_app(owner: PositionOwner, group: str, brokers: list[str], **settings: Any) -> App:
    """A Faust app on the whole-fetch transport.

    Agents on its topics get lists of `Fetch`, which they are to empty: Faust's messages stand in reference
    cycles, and what they hold stays until a full collection. `settings` are Faust's.

    Raises RuntimeError when a private hook of Faust or aiokafka has moved.
    """
    install()
    check_hooks()
    app = App(
        group,
        broker=[f"kafka://{address}" for address in brokers],
        agent_supervisor=CrashingSupervisor,
        autodiscover=False,
        broker_max_poll_records=None,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=30_000,  # how soon a new topic or partition is seen
        processing_guarantee="at_least_once",
        store="memory://",
        stream_buffer_maxsize=1,
        stream_wait_empty=False,
        table_standby_replicas=0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        value_serializer="raw",
        web_enabled=False,
        web_tables_enabled=False,
        TableManager=NoTables,
        **settings,
    )
    app.owner = owner
    app.transport = Transport(app.conf.broker_consumer, app)
    return app


def fetch_topic(app: App, name: str) -> Any:
    """A Faust topic whose values are fetches: no acks, no decoding."""
    return app.topic(name, acks=False, value_serializer="raw", key_serializer="raw", internal=False)


def check_hooks() -> None:
    """Raise RuntimeError when a private name of Faust is not what this module was written against."""
    for owner, names in FAUST_HOOKS.items():
        for name, parameters in names.items():
            found = getattr(owner, name, None)
            if found is None or tuple(inspect.signature(found).parameters) != parameters:
                raise RuntimeError(f"{owner.__name__}.{name} of Faust has changed: adapt stream/transport.py")

"""The worker: a Faust app that reads, judges and lands, with offsets that only the lake decides.

    agents → Intake → decoding thread → judging thread → landing thread → lake
                                               └→ custody.findings, acknowledged before the commit

A batch is decoded while the one before it is judged and the one before that is written or committed, so that
a finding never waits for the disk. `_turn` is held by whoever moves batches on: the pump, a flush, or a seek,
which drops what has not landed.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.reference import REFERENCES
from schemas.ticks import TICK
from sinks.lake import Conflict
from sinks.metrics import Metrics
from stream.fetches import Fetch, Unreadable
from stream.follow import Follower
from stream.judging import Decoded, Judged, Judging
from stream.landing import Lander, found
from stream.positions import Partition, Start, starts
from stream.publish import Publisher
from stream.reading import Intake
from stream.settings import Settings
from stream.transport import App, fetch_topic, new_app

_log = logging.getLogger(__name__)

TOPICS = (*EVENTS, *REFERENCES, TICK.topic)
"""What workers read; ticks are read once there is a topic of them, which a reconciler needs, not a worker."""
AHEAD = 1.5  # batches that may be judged and written still when the next one has been decoded
FOLLOW_SECONDS = 0.05  # between two looks at whether the follower has come so far
FOLLOW_LIMIT = 90.0  # seconds to wait for it; it looks for new partitions every thirty
STOP_SECONDS = 20.0  # for Faust to leave the group


@dataclass(frozen=True)
class _Passing:
    """A decoded batch of so many records on its way into the lake."""

    rows: int
    task: asyncio.Task[None]


class Worker:
    """One worker process. `run` returns when `stop` was called, and raises what makes going on impossible."""

    def __init__(self, settings: Settings, judging: Judging, lander: Lander, metrics: Metrics) -> None:
        self._settings = settings
        self._judging = judging
        self._lander = lander
        self._metrics = metrics
        self._intake = Intake(settings, metrics)
        self._publisher = Publisher(settings)
        self._follower = Follower(settings, set(REFERENCES), self._learn)
        self._decode_thread = ThreadPoolExecutor(1, "decoding")
        self._judge_thread = ThreadPoolExecutor(1, "judging")
        self._land_thread = ThreadPoolExecutor(1, "landing")
        self._turn = asyncio.Lock()
        self._judge_idle = asyncio.Event()
        self._judge_idle.set()
        self._passing: deque[_Passing] = deque()
        self._places: dict[Partition, Start] = {}
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._app: App = new_app(
            self,
            settings.group,
            settings.bootstrap,
            consumer_group_instance_id=settings.instance_id or None,
            broker_credentials=settings.faust_credentials(),
            broker_session_timeout=settings.session_seconds,
            broker_heartbeat_interval=settings.session_seconds / 10,
            broker_request_timeout=max(90.0, settings.session_seconds),
        )
        for topic in TOPICS:
            self._app.agent(fetch_topic(self._app, topic), name=topic)(self._agent)
        self._app.on_partitions_revoked.connect(self._on_revoked)

    # Running

    async def run(self, ready: Callable[[], None]) -> None:
        """Work until `stop`. `ready` is called once the reference topics have been read to their ends.

        Raises SekishoError in one line for people, anything else for a bug.
        """
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._publisher.start()
            tasks.append(self._task(self._publisher.watch()))
            tasks.append(self._task(self._publisher.run()))
            starting = asyncio.ensure_future(self._follower.start(self._lander.landed))
            await asyncio.wait({starting, self._end}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
            else:
                starting.result()
                ready()
                tasks.append(self._task(self._follower.run()))
                tasks.append(self._task(self._pump()))
                tasks.append(self._task(self._report()))
                tasks.append(self._task(self._app.start()))
            await self._ended()
        finally:
            self.stop()  # what ends from here on is meant to
            self._intake.stop()
            for task in tasks:
                task.cancel()
            await self._close()

    def stop(self) -> None:
        """Finish the batch, commit, leave the group; `run` then returns."""
        if not self._end.done():
            self._end.set_result(None)

    def failed(self, error: BaseException) -> None:
        """Make `run` raise; the first error counts."""
        if not self._end.done() and not isinstance(error, asyncio.CancelledError):
            self._end.set_exception(error)

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except asyncio.CancelledError:  # aiokafka can let one go, and nobody would do the task's work
                self.failed(SekishoError("a part of the worker was cancelled; start the worker again"))
                raise
            except Exception as error:
                self.failed(error)

        return asyncio.create_task(guarded())

    async def _ended(self) -> None:
        """Wait for the end, and land what has been read; raises what ended the worker."""
        try:
            await self._end
        except Unreadable:
            # A person is about to give up what cannot be read, and everything before it that has not landed.
            await self._finish()
            raise
        await self._finish()

    async def _finish(self) -> None:
        """Land what has been read, and take no more."""
        self._intake.epoch, epoch = -1, self._intake.epoch
        if epoch >= 0:
            await self._flush()

    async def _close(self) -> None:
        self._lander_abort()
        # What matters has been committed, or will be read again: leaving in good order is a courtesy, and
        # aiokafka raises even CancelledError where the brokers are away.
        threading.excepthook = lambda failure: _log.debug("stopping: %r", failure.exc_value)
        for stop, seconds in (
            (self._app.stop, STOP_SECONDS),
            (self._follower.stop, 2.0),
            (self._publisher.stop, 2.0),
        ):
            with contextlib.suppress(Exception, asyncio.CancelledError):
                await asyncio.wait_for(stop(), seconds)
        for thread in (self._decode_thread, self._judge_thread, self._land_thread):
            thread.shutdown()

    def _lander_abort(self) -> None:
        with contextlib.suppress(Exception):
            self._land_thread.submit(self._lander.abort).result()

    # What Faust calls

    async def _agent(self, stream: Any) -> None:
        async for fetches in stream:
            try:
                while fetches:
                    await self._intake.put(fetches.pop(0))
            except SekishoError as error:
                self.failed(error)

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        """Land what has been read while the partitions are still ours, which makes conflicts rare."""
        try:
            await self._flush()
        except Exception as error:
            self.failed(error)

    @contextlib.asynccontextmanager
    async def seeking(self) -> AsyncIterator[None]:
        async with self._turn:
            await self._drop()
            yield

    async def positions(
        self, first: Mapping[TopicPartition, int], end: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        landed = await self._on(self._land_thread, self._lander.offsets)
        self._places = starts(
            landed,
            {(tp.topic, tp.partition): offset for tp, offset in first.items()},
            {(tp.topic, tp.partition): offset for tp, offset in end.items()},
            self._settings.accepted_holes,
        )
        return {TopicPartition(*partition): place.read for partition, place in self._places.items()}

    def begin(self, epoch: int, positions: Mapping[TopicPartition, int]) -> None:
        if not self._end.done():
            self._intake.begin(epoch, self._places)

    # Moving batches on

    async def _pump(self) -> None:
        while True:
            await self._something_to_do()
            async with self._turn:
                try:
                    await self._step()
                    continue
                except Conflict:
                    await self._drop()
            await self._app.consumer.perform_seek()

    async def _something_to_do(self) -> None:
        """Wait until a batch is due, the transaction is due, or the landing of a batch has ended."""
        self._intake.wake.clear()
        waits = [wait for wait in (self._intake.due_in(), self._commit_in()) if wait is not None]
        if self._passing and self._passing[0].task.done():
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._intake.wake.wait(), min(waits) if waits else None)

    def _commit_in(self) -> float | None:
        if not self._lander.is_open or self._passing:
            return None
        return max(0.0, self._settings.commit_seconds - self._lander.age)

    async def _step(self) -> None:
        if self._intake.due_in() == 0.0:
            await self._begin()
            return
        await self._landed(unless=lambda: not self._passing[0].task.done())
        if not self._passing and self._lander.is_due:
            await self._commit()

    async def _begin(self) -> None:
        """Decode what has been read, and send it on its way once the batch before it has been judged.

        What is read meanwhile is the next batch: a few large ones take less time than many small ones.
        """
        began = time.monotonic()
        decoded: Decoded = await self._on(self._decode_thread, self._judging.decode, self._intake.take())
        await self._judge_idle.wait()
        await self._landed(unless=self._has_room)
        before = self._passing[-1].task if self._passing else None
        if before is not None and before.done():
            before.result()
        self._judge_idle.clear()
        task = asyncio.create_task(self._pass(decoded, began, before))
        task.add_done_callback(lambda _: self._intake.wake.set())
        self._passing.append(_Passing(decoded.rows, task))

    def _has_room(self) -> bool:
        """Whether another batch may wait behind those on their way."""
        return sum(batch.rows for batch in self._passing) <= AHEAD * self._settings.batch_rows

    async def _pass(self, decoded: Decoded, began: float, before: asyncio.Task[None] | None) -> None:
        """Judge a batch, and land it behind the one before it; raises what that one has raised."""
        try:
            judged = await self._judge(decoded)
        finally:
            self._judge_idle.set()
        if before is not None:
            await before
        if self._lander.must_commit_before(judged):
            await self._commit()
        await self._on(self._land_thread, self._lander.append, judged)
        self._metrics.batch(time.monotonic() - began)
        if self._lander.is_due:
            await self._commit()

    async def _judge(self, decoded: Decoded) -> Judged:
        deadline = time.monotonic() + FOLLOW_LIMIT
        while self._judging.lacks(decoded):  # of partitions taken over; the follower is about to bring it
            if time.monotonic() > deadline:
                raise SekishoError(
                    "reference records that other workers landed cannot be followed; start the worker again, "
                    "which reads them from the lake; nothing is lost"
                )
            await asyncio.sleep(FOLLOW_SECONDS)
        judged: Judged = await self._on(self._judge_thread, self._judging.judge, decoded)
        self._publisher.put(judged.messages)
        found(judged, self._metrics)
        return judged

    async def _landed(self, unless: Callable[[], bool] = lambda: False) -> None:
        """Wait for batches on their way, first to last, as long as there are any and `unless` does not hold;
        raises what they raised.
        """
        while self._passing and not unless():
            await self._passing.popleft().task

    async def _commit(self) -> None:
        await self._publisher.flush()
        ends: Mapping[Partition, int] = await self._on(self._land_thread, self._lander.commit)
        courtesy = {TopicPartition(*partition): end for partition, end in ends.items()}
        # For lag monitors only: a group that is rebalancing takes none, and nothing depends on it.
        asyncio.create_task(self._courtesy(courtesy))  # noqa: RUF006

    async def _courtesy(self, offsets: Mapping[TopicPartition, int]) -> None:
        with contextlib.suppress(KafkaError, RuntimeError):
            await self._app.consumer.courtesy_commit(offsets)

    async def _flush(self) -> None:
        """Judge, land and commit what has been read; on a conflict drop it, it has been landed elsewhere."""
        async with self._turn:
            try:
                if self._intake.due_in() is not None:
                    await self._begin()
                await self._landed()
                await self._commit()
            except Conflict:
                await self._drop()

    async def _drop(self) -> None:
        """Let go of what has not landed, to be read again after a seek."""
        # At once, before anybody else has a turn: what follows must not land on what is lost.
        self._intake.stop()
        self._intake.clear()
        while self._passing:
            with contextlib.suppress(Conflict):
                await self._landed()
        await self._on(self._land_thread, self._lander.abort)

    async def _learn(self, fetches: Sequence[Fetch]) -> None:
        await self._on(self._judge_thread, self._judging.learn, fetches)

    @staticmethod
    async def _on(thread: ThreadPoolExecutor, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(thread, call, *arguments)

    # Telling

    async def _report(self) -> None:
        """Keep the gauges up to date."""
        while True:
            await asyncio.sleep(1.0)
            read = dict(self._intake.next)
            places = self._places
            landed = sum(
                self._lander.landed.get(each, places[each].land if each in places else offset)
                for each, offset in read.items()
            )
            self._metrics.offsets(sum(read.values()), landed, self._log_end(read))
            references = self._judging.references
            for record in REFERENCES.values():
                newest = references.newest(record)
                at = newest / 1e6 if newest is not None else None
                self._metrics.references(record.name, references.count(record), at)

    def _log_end(self, read: Mapping[Partition, int]) -> int:
        end = 0
        for partition, offset in read.items():
            with contextlib.suppress(Exception):  # a partition that was just taken away
                offset = max(offset, self._app.consumer.highwater(TopicPartition(*partition)) or 0)
            end += offset
        return end

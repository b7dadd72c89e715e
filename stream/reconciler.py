"""The reconciler's process: one is active, the others stand by with their state up to date.

    ticks ──► custody.tick          lake ──► engine ──► lake ──► custody.findings
    (only the active one)           (a step is settled at least every HEARTBEAT_SECONDS)

Who is alive is told by the lake: a standby that sees no new step for TAKEOVER_SECONDS by its own clock
becomes active. On one machine a lock tells sooner. Should two be active, one of them loses the race for the
next step and stands by.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from rules.reconciler.given import StepOutput
from schemas.errors import SekishoError
from sinks.findings import history_messages
from sinks.lake import Conflict
from sinks.reconciler_metrics import ReconcilerMetrics
from stream.ends import Ends
from stream.publish import Publisher
from stream.reconciling import Halted, Reconciling
from stream.settings import Settings
from stream.state_folder import ActiveLock
from stream.ticks import Ticker

_log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
HEARTBEAT_SECONDS = 10.0
TAKEOVER_SECONDS = 20.0
SNAPSHOT_SECONDS = 300.0


class ReconcilerProcess:
    """`run` returns when `stop` was called, and raises what makes going on impossible."""

    def __init__(
        self,
        settings: Settings,
        reconciling: Reconciling,
        metrics: ReconcilerMetrics,
        lock: ActiveLock,
        snapshot: Callable[[], None],
        tick_seconds: float,
    ) -> None:
        """`snapshot` copies the state; `tick_seconds` 0 sends no ticks."""
        self._lock = lock
        self._reconciling = reconciling
        self._metrics = metrics
        self._snapshot = snapshot
        self._publisher = Publisher(settings)
        self._ticker = Ticker(settings, tick_seconds) if tick_seconds else None
        self._ends = Ends(settings)
        self._thread = ThreadPoolExecutor(1, "reconciling")
        self._stopping = asyncio.Event()
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, ready: Callable[[], None]) -> None:
        """Reconcile until `stop`. `ready` is called once the state is up to date with what was settled.

        Raises SekishoError in one line for people, anything else for a bug.
        """
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._publisher.start()
            await self._ends.start()
            tasks.append(self._task(self._publisher.watch()))
            tasks.append(self._task(self._publisher.run()))
            if self._ticker is not None:
                await self._ticker.start()
                tasks.append(self._task(self._ticker.run()))
            work = self._task(self._work(ready))
            tasks.append(work)
            await asyncio.wait({work, self._end}, return_when=asyncio.FIRST_COMPLETED)
            if self._end.done():
                self._end.result()
        finally:
            self._stopping.set()
            self._end.cancel()  # nobody waits for it any more
            for task in tasks:
                task.cancel()
            await self._close()

    def stop(self) -> None:
        """Settle what has landed if active, and let `run` return."""
        self._reconciling.halted = True
        self._stopping.set()

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self._fail(error)
            except asyncio.CancelledError:
                if not self._stopping.is_set():  # aiokafka raises it where its own tasks have ended
                    self._fail(SekishoError("the Kafka client broke off; start again, nothing is lost"))
                raise

        return asyncio.create_task(guarded())

    def _fail(self, error: Exception) -> None:
        if not self._end.done():
            self._end.set_exception(error)

    async def _close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)
        for stop in (self._ticker.stop if self._ticker else None, self._ends.stop, self._publisher.stop):
            if stop is not None:
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await asyncio.wait_for(stop(), 2.0)

    # Standing by and being active

    async def _work(self, ready: Callable[[], None]) -> None:
        with contextlib.suppress(Halted):
            await self._follow_or_settle(ready)

    async def _follow_or_settle(self, ready: Callable[[], None]) -> None:
        step = await self._follow()
        ready()
        while not self._stopping.is_set():
            if step is None or await self._is_alone(step):
                self._lock.take()
                try:
                    await self._be_active()
                except Conflict:
                    self._lock.distrust()
            step = await self._follow()

    async def _is_alone(self, step: int) -> bool:
        """Stand by while new steps appear; whether none did for long enough."""
        seen = time.monotonic()
        while not self._stopping.is_set():
            if self._lock.take():
                return True
            latest = await self._follow()
            if latest != step:
                step, seen = latest or 0, time.monotonic()
            elif time.monotonic() - seen > TAKEOVER_SECONDS:
                return True
            await self._pause(POLL_SECONDS)
        return False

    async def _be_active(self) -> None:
        """Settle step after step until told to stop; raises Conflict when another one has settled."""
        self._metrics.active(True)
        if self._ticker is not None:
            self._ticker.active.set()
        try:
            await self._publish_last()
            await self._settle_for_ever()
        finally:
            self._metrics.active(False)
            if self._ticker is not None:
                self._ticker.active.clear()

    async def _settle_for_ever(self) -> None:
        settled = kept = time.monotonic()
        while True:
            is_last = self._stopping.is_set()
            is_due = time.monotonic() - settled > HEARTBEAT_SECONDS
            has_settled = await self._turn(is_due or is_last, is_last)
            if has_settled:
                settled = time.monotonic()
            if settled - kept > SNAPSHOT_SECONDS:
                await self._keep_snapshot()
                kept = time.monotonic()
            if not (has_settled and self._reconciling.behind):
                if is_last:
                    return
                await self._pause(POLL_SECONDS)

    async def _turn(self, is_due: bool, is_last: bool) -> bool:
        """Settle a step of what is new, or an empty one where that is due; whether there was one."""
        ends = await self._ends.ask()
        if ends is None:
            return False
        began = time.monotonic()
        at = datetime.now(UTC)
        output: StepOutput | None = await self._on(self._reconciling.turn, ends, at, is_due, is_last)
        if output is None:
            return False
        self._metrics.step(output, time.monotonic() - began, time.time())
        self._publisher.put(history_messages(output.history.filter(output.published)))
        await self._publisher.flush()
        return True

    async def _keep_snapshot(self) -> None:
        try:
            await self._on(self._snapshot)
        except SekishoError as error:
            _log.warning("no snapshot of the state, the next one will do: %s", error)

    async def _publish_last(self) -> None:
        """Publish again what the last step said, which a crash may have kept from being told."""
        history = await self._on(self._reconciling.last_history)
        self._publisher.put(history_messages(history))
        await self._publisher.flush()

    async def _follow(self) -> int | None:
        """The lake's last step, which the state then covers; None where nothing was ever settled."""
        settled = await self._on(self._reconciling.follow)
        return None if settled is None else settled.step

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _on(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

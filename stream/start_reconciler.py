"""Everything around the reconciler's process: topics, lake, rules, state, metrics, signals."""

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from aiokafka.errors import KafkaError as AIOKafkaError

from rules.judge import Judge
from rules.reconciler.step import Reconciler
from rules.reconciler.views import compile_all
from rules.rule import Rule, Status, load_all
from rules.suppressions import load_suppressions
from schemas.errors import SekishoError
from schemas.events import EVENTS
from sinks.findings import TOPIC as FINDINGS
from sinks.lake import Lake
from sinks.reconciler_metrics import ReconcilerMetrics
from stream import known, memory
from stream.reconciler import ReconcilerProcess
from stream.reconciling import Reconciling
from stream.settings import Settings
from stream.start import existing_topics
from stream.state_folder import ActiveLock, StateFolder, claim
from stream.topics import TICK


def run(settings: Settings, state: Path | None, tick_seconds: float) -> None:
    """Run a reconciler until SIGTERM or Ctrl-C.

    Raises SekishoError when it cannot start, or cannot go on.
    """
    rules, suppressions = load_all(settings.rules), load_suppressions(settings.rules)
    compile_all(rules)  # a state that cannot be opened is thrown away: a rule must not be why
    make = partial(Reconciler, rules=rules, suppressions=suppressions, judge=Judge(rules))
    logging.basicConfig(level=settings.log, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    memory.tune()
    existing_topics(settings, [*EVENTS, FINDINGS, *([TICK] if tick_seconds else [])])
    lake = Lake.open(settings.lake)
    with claim(lake.path, state) as folder, contextlib.closing(ActiveLock(lake.path)) as lock:
        _run(settings, lake, folder, lock, tick_seconds, rules, make)


def _run(
    settings: Settings,
    lake: Lake,
    folder: StateFolder,
    lock: ActiveLock,
    tick_seconds: float,
    rules: Sequence[Rule],
    make: Callable[[Path], Reconciler],
) -> None:
    settled = lake.settled()
    step, version = (settled.step, settled.raw_version) if settled else (0, 0)
    engine = folder.open(make, lambda engine: engine.settled_step <= step and engine.position <= version)
    experimental = [rule.id for rule in rules if rule.status is Status.EXPERIMENTAL]
    with (
        folder.watched(),
        contextlib.closing(Reconciling(lake, engine, experimental)) as reconciling,
    ):
        known.load(engine.references, lake, lake.offsets())  # a state that has covered commits needs them
        gc.freeze()
        metrics = ReconcilerMetrics((rule.id, rule.severity) for rule in rules)
        address = settings.metrics_address
        served = f", metrics at http://{address[0]}:{metrics.serve(*address)}/metrics" if address else ""
        about = f"sekisho reconciler of {settings.lake} at {settings.brokers}: {len(rules)} rules{served}"

        async def work() -> None:
            process = ReconcilerProcess(
                settings, reconciling, metrics, lock, lambda: folder.snapshot(engine), tick_seconds
            )
            loop = asyncio.get_running_loop()
            for sign in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(sign, process.stop)
            await process.run(lambda: print(about, flush=True))

        try:
            asyncio.run(work())
        except AIOKafkaError as error:
            raise SekishoError(f"Kafka: {error}; see sekisho doctor, then start again") from error

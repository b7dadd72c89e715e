"""Everything around a worker: topics, lake, rules, metrics, signals, and one line when it cannot go on."""

import asyncio
import contextlib
import fcntl
import gc
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from aiokafka.errors import KafkaError as AIOKafkaError
from kafka.admin import KafkaAdminClient
from kafka.errors import KafkaError

from rules.judge import Judge
from rules.rule import load_all
from rules.suppressions import load_suppressions
from schemas.errors import SekishoError
from schemas.loops import loops
from schemas.reference import REFERENCES
from sinks.findings import TOPIC as FINDINGS
from sinks.lake import Lake
from sinks.metrics import Metrics
from stream import known, memory, topic_ids
from stream.judging import Judging
from stream.landing import Lander
from stream.publish import away
from stream.settings import Settings
from stream.topics import TICK, create_missing
from stream.worker import TOPICS, Worker

PROGRESS_SECONDS = 1.0
SWITCH_SECONDS = 0.0005  # Python's 5 ms are what judging waits each time another thread has the interpreter


def run(settings: Settings) -> None:
    """Run a worker until SIGTERM or Ctrl-C.

    Raises SekishoError when it cannot start, or cannot go on.
    """
    rules, suppressions = load_all(settings.rules), load_suppressions(settings.rules)
    logging.basicConfig(level=settings.log, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    memory.tune()
    sys.setswitchinterval(SWITCH_SECONDS)
    load_compiled()
    with _alone(settings):
        ids = topics(settings)
        lake = Lake.open(settings.lake)
        judge = Judge(rules)
        metrics = Metrics((rule.id, rule.severity) for rule in judge.rules.values())
        judging = Judging(judge, ids, suppressions)
        lander = Lander(lake, settings, metrics)
        landed = lander.offsets()
        topic_ids.check(lake.path, ids, landed, settings.accepted_holes)
        known.load(judging.references, lake, landed)
        gc.freeze()
        served = _serve(settings, metrics)
        try:
            asyncio.run(_work(settings, judging, lander, metrics, f"{len(rules)} rules{served}"))
        except AIOKafkaError as error:
            raise SekishoError(f"Kafka: {error}; see sekisho doctor, then start again") from error


def load_compiled() -> None:
    """Load what numba compiles, where it is there, before records wait for it."""
    for module in ("schemas.json_flat", "rules.probe"):
        loops(module)


async def _work(settings: Settings, judging: Judging, lander: Lander, metrics: Metrics, about: str) -> None:
    worker = Worker(settings, judging, lander, metrics)
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, worker.stop)

    def ready() -> None:
        versions = sum(judging.references.count(record) for record in REFERENCES.values())
        print(
            f"sekisho worker of group {settings.group} reads {settings.brokers} into {settings.lake}: "
            f"{versions:,} reference versions, {about}",
            flush=True,
        )

    progress = asyncio.create_task(_progress(lander)) if sys.stderr.isatty() else None
    try:
        await worker.run(ready)
    finally:
        if progress is not None:
            progress.cancel()


async def _progress(lander: Lander) -> None:
    """One line on the terminal that says how fast records land."""
    before, since = lander.rows_landed, time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        if lander.rows_landed != before:
            now = time.monotonic()
            rate = (lander.rows_landed - before) / (now - since)
            print(
                f"\r\x1b[K{lander.rows_landed:,} landed, {rate:,.0f}/s", end="", file=sys.stderr, flush=True
            )
            before, since = lander.rows_landed, now


def _serve(settings: Settings, metrics: Metrics) -> str:
    address = settings.metrics_address
    if address is None:
        return ""
    return f", metrics at http://{address[0]}:{metrics.serve(*address)}/metrics"


def topics(settings: Settings) -> dict[str, str | None]:
    """The id of every topic the worker reads, null where the brokers have none.

    As `existing_topics`; only ticks may be missing.
    """
    found = existing_topics(settings, [topic for topic in (*TOPICS, FINDINGS) if topic != TICK])
    return {topic: found[topic] for topic in TOPICS if topic in found}


def existing_topics(settings: Settings, needed: Sequence[str]) -> dict[str, str | None]:
    """The ids of all topics there are, null where the brokers have none; creates what is missing.

    Waits for a broker. Raises SekishoError when none answers in time, and when one of the topics `needed` is
    missing and `partitions` does not say how to create it.
    """
    deadline = time.monotonic() + settings.broker_away_seconds
    while True:
        try:
            with KafkaAdminClient(**settings.kafka_python(), bootstrap_timeout_ms=2000) as admin:
                if settings.partitions:
                    create_missing(admin, [name for name in needed if name != TICK], settings.partitions)
                    create_missing(admin, [TICK], 1)
                found = {topic["name"]: topic for topic in admin.describe_topics(list(admin.list_topics()))}
                break
        except KafkaError as error:
            if not error.retriable and time.monotonic() < deadline - settings.broker_away_seconds + 1:
                raise SekishoError(f"{settings.brokers} refuses: {error}; see sekisho doctor") from error
            if time.monotonic() > deadline:
                raise away(settings) from error
            time.sleep(0.5)
    missing = [topic for topic in needed if topic not in found]
    if missing:
        raise SekishoError(
            f"topics are missing: {', '.join(missing)}; create them, or start with --partitions N"
        )
    return {name: topic.get("topic_id") for name, topic in found.items()}


@contextlib.contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Refuse a second worker with one instance id: Kafka would fence the first, which does not notice."""
    if not settings.instance_id:
        yield
        return
    folder = Path(settings.lake) / "_workers"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"{_plain(settings.instance_id)}.lock").open("w")
    except OSError as error:
        raise SekishoError(f"{folder} cannot be written: {error}; check its owner and the disk") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SekishoError(
                f"a worker with --instance-id {settings.instance_id} already runs on this lake; give "
                "this one another"
            ) from None
        yield


def _plain(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-_." else "_" for sign in name)

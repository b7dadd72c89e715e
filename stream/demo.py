"""`sekisho demo`: broker, simulated data centre, workers, reconciler, and whether all planted is found."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rules.rule import load_all
from schemas.errors import SekishoError, UsageError
from sinks.lake import Lake
from stream.embedded import EmbeddedBroker, unavailable_reason
from stream.outcome import Outcome, rows
from stream.processes import Group, Process
from stream.scan import scan
from stream.settings import connection as kafka_options
from stream.simulation import files, shipping
from stream.simulation.simulator import Settings, Simulation, simulate

LANDING_SECONDS = 150.0
SETTLING_SECONDS = 90.0
POLL_SECONDS = 0.5
PARTITIONS = 4
SESSION_SECONDS = 8  # the embedded broker makes the first member wait for half of it

Stage = Callable[[str, int | None], Callable[[int], None]]
"""Begins a stage, given its name and total (None: unknown); what it returns is told the steps done."""


def run(folder: Path, settings: Settings, workers: int, stage: Stage, broker: str | None = None) -> Outcome:
    """Runs the demo in `folder`, which is made anew; `broker` names one to use in place of the embedded one.

    Without any broker the same records are judged from files.

    Raises:
        UsageError: the folder holds something else than an earlier demo.
        SekishoError: a process ended, or did not do its work in time.
    """
    _clear(folder)
    outcome = Outcome(str(folder / "lake"), broker or "embedded")
    with _timed(outcome, "simulate"):
        stage("simulating", None)
        simulation = simulate(settings)
        files.write_story(simulation.story(), folder)
    outcome.shipped = simulation.size
    reason = None if broker else unavailable_reason()
    if reason is not None:
        outcome.broker = f"none: {reason}"
        _from_files(folder, simulation, outcome, stage)
    elif broker is not None:
        _through(broker, folder, simulation, workers, outcome, stage)
    else:
        with EmbeddedBroker(folder / "broker.log") as embedded:
            _through(embedded.address, folder, simulation, workers, outcome, stage)
    outcome.compare(simulation.incidents)
    return outcome


def _clear(folder: Path) -> None:
    """Only what an earlier demo made is thrown away."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / files.STORY).is_file():
            raise UsageError(f"{folder} holds something else than a demo: give another --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


@contextlib.contextmanager
def _timed(outcome: Outcome, name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    outcome.seconds[name] = round(time.monotonic() - began, 2)


def _from_files(folder: Path, simulation: Simulation, outcome: Outcome, stage: Stage) -> None:
    with _timed(outcome, "ship"):
        files.write(simulation.messages(), folder / "records", stage("writing files", simulation.size))
    total = sum(file.stat().st_size for file in (folder / "records").iterdir())
    with _timed(outcome, "land"):
        step = stage("judging files", total)
        scan(folder / "records", folder / "lake", load_all(), simulation.until, step)


def _through(
    address: str, folder: Path, simulation: Simulation, workers: int, outcome: Outcome, stage: Stage
) -> None:
    """Ships everything, then lets the processes catch up: the embedded broker's ends hold only at rest."""
    options = kafka_options(address)
    with _timed(outcome, "ship"):
        shipping.prepare(options, PARTITIONS)
        shipping.ship(simulation.messages(), options, progress=stage("shipping", simulation.size))
        shipping.tick(simulation.until, options)
    outcome.shipped += 1
    lake = folder / "lake"
    Lake.open(lake)
    with _timed(outcome, "land"), Group(_worker(folder, address, n + 1) for n in range(workers)) as group:
        outcome.workers = workers
        _until_landed(lake, outcome.shipped, group, stage("landing", outcome.shipped))
    with _timed(outcome, "settle"), Group([_reconciler(folder, address)]) as group:
        stage("settling", None)
        _until_settled(lake, simulation.until, group)


def _worker(folder: Path, address: str, number: int) -> Process:
    return Process(
        "a worker", folder / f"worker-{number}.log",
        "worker", "--brokers", address, "--lake", str(folder / "lake"), "--group", "sekisho-demo",
        "--metrics", "off", "--partitions", str(PARTITIONS), "--commit-seconds", "1",
        "--session-seconds", str(SESSION_SECONDS),
    )  # fmt: skip


def _reconciler(folder: Path, address: str) -> Process:
    """It sends no tick: the records' time is simulated, and the last tick of that time was shipped."""
    return Process(
        "the reconciler", folder / "reconciler.log",
        "reconciler", "--brokers", address, "--lake", str(folder / "lake"), "--metrics", "off",
        "--partitions", str(PARTITIONS), "--tick-seconds", "0",
    )  # fmt: skip


def _until_landed(lake: Path, total: int, workers: Group, progress: Callable[[int], None]) -> None:
    deadline, landed = time.monotonic() + LANDING_SECONDS, 0
    while landed < total:
        workers.check()
        if time.monotonic() > deadline:
            raise SekishoError(
                f"only {landed:,} of {total:,} records landed within {LANDING_SECONDS:.0f} s; "
                f"see the workers' logs in {lake.parent}"
            )
        time.sleep(POLL_SECONDS)
        now = _count(lake, "SELECT count(*) FROM raw")
        progress(now - landed)
        landed = now


def _until_settled(lake: Path, until: int, reconciler: Group) -> None:
    """Until the last tick has been read; asked to stop, the reconciler settles what else has landed."""
    deadline = time.monotonic() + SETTLING_SECONDS
    while _count(lake, "SELECT epoch_us(max(latest_broker_time)) FROM watermark") < until:
        reconciler.check()
        if time.monotonic() > deadline:
            raise SekishoError(
                f"the reconciler did not settle what landed within {SETTLING_SECONDS:.0f} s; "
                f"see its log in {lake.parent}"
            )
        time.sleep(POLL_SECONDS)


def _count(lake: Path, query: str) -> int:
    """One number of the lake; 0 until there is one."""
    with contextlib.suppress(SekishoError):
        return int(rows(lake, query)[0][0] or 0)
    return 0

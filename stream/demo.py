"""`sekisho demo`: broker, simulated data centre, workers, lake and findings, and whether all is found."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rules.judge import Judge
from rules.rule import load_all
from schemas.errors import SekishoError, UsageError
from sinks.lake import Lake
from sinks.views import connect
from stream.embedded import EmbeddedBroker, unavailable_reason
from stream.scan import scan
from stream.settings import PREFIX
from stream.settings import connection as kafka_options
from stream.simulation import files, shipping
from stream.simulation.incident import Incident
from stream.simulation.simulator import Settings, Simulation, simulate

LANDING_SECONDS = 150.0
POLL_SECONDS = 0.5
PARTITIONS = 4
SESSION_SECONDS = 8  # the embedded broker makes the first member wait for half of it


@dataclass(frozen=True)
class Finding:
    """One finding, and the planted incident it shows (None: nobody planted it)."""

    rule_id: str
    severity: str
    subject: str
    events: int
    sentence: str | None


@dataclass
class Outcome:
    """What a demo did. `seconds` by stage; `missing` was planted and not found."""

    lake: str
    broker: str
    workers: int = 0
    shipped: int = 0
    landed: int = 0
    rejected: int = 0
    twice: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    missing: list[Incident] = field(default_factory=list)
    later: list[Incident] = field(default_factory=list)

    @property
    def unplanted(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.sentence is None]

    @property
    def ok(self) -> bool:
        """Every record landed once, and exactly what was planted was found."""
        complete = self.landed == self.shipped and self.twice == 0
        return complete and not self.missing and not self.unplanted


Stage = Callable[[str, int | None], Callable[[int], None]]
"""Begins a stage, given its name and total (None: unknown); what it returns is told the steps done."""


def run(folder: Path, settings: Settings, workers: int, stage: Stage, broker: str | None = None) -> Outcome:
    """Runs the demo in `folder`, which is made anew; `broker` names one to use in place of the embedded one.

    Without any broker the same records are judged from files.

    Raises:
        UsageError: the folder holds something else than an earlier demo.
        SekishoError: a worker ended or did not land everything in time.
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
    _judge(outcome, simulation.incidents)
    return outcome


def sekisho(*arguments: str) -> list[str]:
    """The command that runs a verb with this Python."""
    return [sys.executable, "-c", "from stream.cli import main; main()", *arguments]


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
        judge = Judge(load_all())
        scan(folder / "records", folder / "lake", judge, simulation.until, stage("judging files", total))


def _through(
    address: str, folder: Path, simulation: Simulation, workers: int, outcome: Outcome, stage: Stage
) -> None:
    """Ships everything, then lets the workers catch up: the embedded broker's ends hold only at rest."""
    options = kafka_options(address)
    with _timed(outcome, "ship"):
        shipping.prepare(options, PARTITIONS)
        shipping.ship(simulation.messages(), options, progress=stage("shipping", simulation.size))
    Lake.open(folder / "lake")
    with _timed(outcome, "land"), _Workers(folder, address, workers) as running:
        outcome.workers = workers
        _until_landed(folder / "lake", simulation.size, running, stage("landing", simulation.size))


class _Workers:
    """Worker processes that share one group; ended in good order on leaving."""

    def __init__(self, folder: Path, address: str, count: int) -> None:
        self._logs = [folder / f"worker-{number}.log" for number in range(1, count + 1)]
        self._command = sekisho(
            "worker", "--brokers", address, "--lake", str(folder / "lake"), "--group", "sekisho-demo",
            "--metrics", "off", "--partitions", str(PARTITIONS), "--commit-seconds", "1",
            "--session-seconds", str(SESSION_SECONDS),
        )  # fmt: skip
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "_Workers":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        for path in self._logs:
            with path.open("wb") as log:
                process = subprocess.Popen(  # noqa: S603
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=kept
                )
            self._processes.append(process)
        return self

    def check(self) -> None:
        """Raises SekishoError when one has ended."""
        for process, log in zip(self._processes, self._logs, strict=True):
            if process.poll() is not None:
                lines = [line for line in log.read_text(errors="replace").split("\n") if line.strip()]
                said = lines[-1].strip() if lines else "it said nothing"
                raise SekishoError(f"a worker ended with status {process.returncode}: {said} (see {log})")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process, log in zip(self._processes, self._logs, strict=True):
            try:
                status = process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
            if status != 0 and kind is None:
                raise SekishoError(f"a worker ended with status {status} when asked to stop; see {log}")


def _until_landed(lake: Path, total: int, workers: _Workers, progress: Callable[[int], None]) -> None:
    deadline, landed = time.monotonic() + LANDING_SECONDS, 0
    while landed < total:
        workers.check()
        if time.monotonic() > deadline:
            raise SekishoError(
                f"only {landed:,} of {total:,} records landed within {LANDING_SECONDS:.0f} s; "
                f"see the workers' logs in {lake.parent}"
            )
        time.sleep(POLL_SECONDS)
        now = _landed(lake)
        progress(now - landed)
        landed = now


def _landed(lake: Path) -> int:
    """Rows of raw; 0 until a worker has made the lake."""
    with contextlib.suppress(SekishoError):
        return int(_rows(lake, "SELECT count(*) FROM raw")[0][0])
    return 0


def _rows(lake: Path | str, query: str) -> Sequence[Sequence[Any]]:
    with contextlib.closing(connect(lake)) as connection:
        return connection.execute(query).fetchall()


def _judge(outcome: Outcome, incidents: Sequence[Incident]) -> None:
    """Holds what is in the lake against what was planted."""
    counts = """
        SELECT count(*), count(*) FILTER (disposition = 'rejected'),
          count(*) - count(DISTINCT (topic, "partition", "offset")) FROM raw"""
    outcome.landed, outcome.rejected, outcome.twice = _rows(outcome.lake, counts)[0]
    planted = {(i.rule_id, i.subject): i for i in incidents if i.needs is None}
    found = "SELECT rule_id, severity, subject, events FROM finding ORDER BY rule_id, subject"
    for rule_id, severity, subject, events in _rows(outcome.lake, found):
        incident = planted.pop((rule_id, subject), None)
        sentence = None if incident is None else incident.sentence
        outcome.findings.append(Finding(rule_id, severity, subject, events, sentence))
    outcome.missing = list(planted.values())
    outcome.later = [incident for incident in incidents if incident.needs is not None]


def queries() -> list[tuple[str, str]]:
    """What to look at next: a question, and SQL that answers it."""
    return [
        (
            "what was found, and in how many records",
            "SELECT severity, rule_id, subject, events, message FROM finding ORDER BY rule_id, subject",
        ),
        (
            "the record behind a finding, byte for byte as it came",
            "SELECT f.rule_id, decode(r.value) AS record FROM finding_event f JOIN raw r "
            "ON r.topic = f.topic AND r.partition = f.partition AND r.offset = f.offset "
            "WHERE f.rule_id = 'flag.access.restricted_country'",
        ),
        (
            "who used most, and with whose papers",
            "SELECT p.legal_name, a.party_id, count(*) AS allocations, sum(a.accelerators) AS accelerators "
            "FROM allocation a JOIN party p ON p.party_id = a.party_id AND p.version = a.party_version "
            "WHERE a.action = 'allocated' GROUP BY ALL ORDER BY accelerators DESC LIMIT 10",
        ),
        (
            "what could not be read, and why",
            "SELECT topic, reason, decode(payload) AS record FROM dead_letter",
        ),
    ]

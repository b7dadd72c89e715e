"""Slurm accounting: `sacct` text, and the JSON of `sacct --json` and slurmrestd.

A job that got accelerators becomes an allocation (allocated at its start, released at its end) and a
placement (started, stopped). Text is `sacct --parsable2` or `--parsable` with its heading, whatever the
delimiter, or without heading the 26 columns in which Open XDMoD's shredder asks for them.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from schemas.errors import UsageError
from schemas.sources.local_time import LocalTimeError, instant
from schemas.sources.mapping import Event, LeftOut, Mapping, Options, event

XDMOD = [
    "jobid", "jobidraw", "cluster", "partition", "qos", "account", "group", "gid", "user", "uid", "submit",
    "eligible", "start", "end", "elapsed", "exitcode", "state", "nnodes", "ncpus", "reqcpus", "reqmem",
    "reqtres", "alloctres", "timelimit", "nodelist", "jobname",
]  # fmt: skip
NEEDED = ("jobid", "user", "start", "end", "state", "alloctres")
NO_TIME = {"", "Unknown", "None", "N/A"}
NO_NODES = {"", "None assigned", "(null)"}
UNFINISHED = {
    "PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT",
    "STOPPED",
}  # fmt: skip
_GPU_TRES = re.compile(r"gres[/:]gpu(?:[:/](?P<type>[^=:,]+))?[=:](?P<count>[0-9]+)")
_GRES_DETAIL = re.compile(r"gpu(?::(?P<type>[^:(]+))?:(?P<count>[0-9]+)(?:\(.*\))?")

REASONS = {
    "no_accelerators": "the job was given no accelerators",
    "accelerators_unknown": "the job asked for accelerators, but the record does not say how many it got",
    "not_started": "the job has not started, or never did",
    "step": "a step of a job, which belongs to its job",
    "heading": "a heading repeated within the file",
    "columns": "the line does not have as many columns as the heading",
    "not_utf8": "the line is not UTF-8",
    "no_job": "no job id",
    "malformed": "a job whose fields are not of the types that Slurm gives them",
    "no_cluster": "no cluster is named; name it with --cluster",
    "time_invalid": "a time that is not one",
    "time_ambiguous": "a local time that clocks showed twice",
    "time_nonexistent": "a local time that clocks never showed",
    "ends_before_start": "the job ends before it starts",
}


@dataclass(frozen=True)
class Accelerators:
    """How many, and of which type where it is one and named."""

    count: int
    model: str | None


@dataclass(frozen=True)
class Job:
    """What both shapes say of a job; times as in the log: text, or seconds since 1970. None: not said."""

    where: str
    job: str
    cluster: str | None
    user: str | None
    start: str | int | None
    end: str | int | None
    finished: bool
    nodes: str | None
    accelerators: Accelerators | str | None
    """None: it got none. A text: the reason why that is not known."""


def read(files: Sequence[Path], options: Options) -> Iterator[Event | LeftOut]:
    for file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UsageError(f"cannot read {file}: {error.strerror}") from error
        jobs = _json_jobs(file, content) if content.lstrip()[:1] == b"{" else _text_jobs(file, content)
        for job in jobs:
            if isinstance(job, LeftOut):
                yield job
            else:
                yield from _events(job, options)


MAPPING = Mapping("Slurm accounting: sacct text, sacct --json, slurmrestd", read, REASONS)


# One job to events


def _events(job: Job, options: Options) -> Iterator[Event | LeftOut]:
    cluster = job.cluster or options.cluster
    if job.start is None or job.start in NO_TIME or job.start == 0:
        yield LeftOut(job.where, "not_started")
        return
    if job.accelerators is None or isinstance(job.accelerators, str):
        yield LeftOut(job.where, job.accelerators or "no_accelerators")
        return
    if cluster is None:
        yield LeftOut(job.where, "no_cluster")
        return
    try:
        start = _time(job.start, options)
    except LocalTimeError as error:
        yield LeftOut(job.where, error.reason)
        return
    identity = _identity(job, cluster, start)
    yield _allocation(job, identity, start, "allocated")
    yield _placement(job, identity, start, "started")
    if not job.finished:
        return
    try:
        end = _time(job.end, options)
        if end < start:
            raise LocalTimeError("ends_before_start")
    except LocalTimeError as error:
        yield LeftOut(f"{job.where} (its end)", error.reason)
        return
    yield _allocation(job, identity, end, "released")
    yield _placement(job, identity, end, "stopped")


def _identity(job: Job, cluster: str, start: datetime) -> dict[str, Any]:
    """What all events of a run share. A requeued job runs again under its id, from another start."""
    several = job.nodes is not None and re.search(r"[\[,]", job.nodes) is not None
    return {
        "source": f"slurm/{cluster}",
        "allocation_id": f"slurm/{cluster}/{job.job}",
        "principal": f"slurm/{cluster}:{job.user}" if job.user else None,
        "node": None if several else job.nodes,
        "nodelist": job.nodes if several else None,  # unknown to the contract: kept in raw only
        "run": f"{job.job}/{start.strftime('%Y%m%dT%H%M%SZ')}",
    }


def _allocation(job: Job, identity: dict[str, Any], at: datetime, action: str) -> Event:
    assert isinstance(job.accelerators, Accelerators)
    shared = {name: value for name, value in identity.items() if name != "run"}
    return event(
        "allocation",
        at,
        event_id=f"{identity['run']}/{action}",
        **shared,
        action=action,
        model=job.accelerators.model,
        accelerators=job.accelerators.count,
        requested_by=identity["principal"],
    )


def _placement(job: Job, identity: dict[str, Any], at: datetime, action: str) -> Event:
    shared = {name: value for name, value in identity.items() if name != "run"}
    return event(
        "placement",
        at,
        event_id=f"{identity['run']}/{action}",
        **shared,
        action=action,
        workload_id=identity["allocation_id"],
        reason="scheduler" if action == "started" else None,
    )


def _time(value: str | int | None, options: Options) -> datetime:
    """Raises `LocalTimeError` where it is no instant, and `UsageError` where a zone is needed."""
    if value is None or value in NO_TIME or value == 0:
        raise LocalTimeError("time_invalid")
    if isinstance(value, int) or value.isdecimal():
        try:
            return datetime.fromtimestamp(int(value), UTC)
        except (ValueError, OverflowError, OSError):
            raise LocalTimeError("time_invalid") from None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise LocalTimeError("time_invalid") from None
    if time.tzinfo is not None:
        return time.astimezone(UTC)
    if options.timezone is None:
        raise UsageError(
            "the times of this log carry no zone; name the cluster's with --timezone, as America/New_York"
        )
    return instant(time, options.timezone)


# Accelerators


def _of(found: Sequence[tuple[str | None, int]]) -> Accelerators | None:
    total = sum(count for _, count in found)
    types = {kind for kind, _ in found}
    return Accelerators(total, types.pop() if len(types) == 1 else None) if total else None


def tres(text: str) -> Accelerators | None:
    """`billing=12,gres/gpu=2,gres/gpu:h100=2`: the untyped entry is the total where it stands."""
    found = [(m["type"], int(m["count"])) for part in text.split(",") if (m := _GPU_TRES.fullmatch(part))]
    typed = [(kind, count) for kind, count in found if kind is not None and count]
    total = sum(count for kind, count in found if kind is None)
    if total and total != sum(count for _, count in typed):
        return Accelerators(total, None)
    return _of(typed)


# Text


def _text_jobs(file: Path, content: bytes) -> Iterator[Job | LeftOut]:
    lines = content.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    if not lines:
        return
    first = lines[0].rstrip(b"\r").decode("utf-8", "replace")
    delimiter, columns, body = _heading(file, first)
    for number, line in enumerate(lines, 1):
        where = f"{file}:{number}"
        if body and line == lines[0]:
            if number > 1:
                yield LeftOut(where, "heading")
            continue
        try:
            text = line.rstrip(b"\r").decode("utf-8")
        except UnicodeDecodeError:
            yield LeftOut(where, "not_utf8")
            continue
        values = text.split(delimiter) if body else text.split(delimiter, len(columns) - 1)
        if len(values) != len(columns):
            yield LeftOut(where, "columns")
        else:
            yield _text_job(where, dict(zip(columns, values, strict=True)))


def _heading(file: Path, first: str) -> tuple[str, list[str], bool]:
    """(delimiter, column names in lower case, whether the first line is a heading)."""
    found = re.match(r"[A-Za-z]\w*(\W+)", first)
    if found:
        columns = [name.strip().lower() for name in first.split(found[1])]
        if "jobid" in columns or "jobidraw" in columns:
            lacking = [name for name in NEEDED[1:] if name not in columns]
            if lacking:
                raise UsageError(f"{file} lacks the column {lacking[0]}; ask sacct for it with --format")
            return found[1], columns, True
    if first.count("|") >= len(XDMOD) - 1:
        return "|", XDMOD, False
    raise UsageError(f"{file} is no sacct output; write it with sacct --parsable2 and its heading, or --json")


def _text_job(where: str, row: dict[str, str]) -> Job | LeftOut:
    job = row.get("jobidraw") or row.get("jobid") or ""
    if "." in job:
        return LeftOut(where, "step")
    if not job:
        return LeftOut(where, "no_job")
    nodes = row.get("nodelist", "")
    placed = "nodelist" not in row or nodes not in NO_NODES
    state = row["state"].split(" ")[0].rstrip("+")
    return Job(
        where=where,
        job=job,
        cluster=row.get("cluster") or None,
        user=row["user"] or None,
        start=row["start"] if placed and state != "PENDING" else None,
        end=row["end"],
        finished=state not in UNFINISHED,
        nodes=None if nodes in NO_NODES else nodes,
        accelerators=tres(row["alloctres"]) or _asked(row.get("reqtres", ""), placed),
    )


def _asked(request: str, placed: bool) -> str | None:
    """The reason to give where nothing says what a job got: it may have asked for accelerators."""
    return "accelerators_unknown" if "gres/gpu" in request and placed else None


# JSON


def _json_jobs(file: Path, content: bytes) -> Iterator[Job | LeftOut]:
    try:
        reply = json.loads(content)
        jobs = reply["jobs"]
        assert isinstance(jobs, list)
    except (ValueError, KeyError, AssertionError, RecursionError):
        raise UsageError(f"{file} has no list of jobs; write it with sacct --json") from None
    for number, row in enumerate(jobs):
        where = f"{file}: jobs[{number}]"
        if not isinstance(row, dict) or not isinstance(row.get("job_id"), int) or not row["job_id"]:
            yield LeftOut(where, "no_job")
            continue
        try:
            yield _json_job(where, row)
        except (AttributeError, KeyError, TypeError, ValueError):
            yield LeftOut(where, "malformed")


def _json_job(where: str, row: dict[str, Any]) -> Job:
    """A job of the accounting database (sacct --json) or of the controller (slurmrestd /slurm/…/jobs)."""
    of_database = isinstance(row.get("time"), dict)
    times = row["time"] if of_database else row
    state = row.get("state", {}).get("current") if of_database else row.get("job_state")
    states = {state} if isinstance(state, str) else set(state or ())
    nodes = row.get("nodes") or ""
    placed = nodes not in NO_NODES and "PENDING" not in states
    return Job(
        where=where,
        job=str(row["job_id"]),
        cluster=row.get("cluster") or None,
        user=row.get("user" if of_database else "user_name") or None,
        start=_number(times.get("start" if of_database else "start_time")) if placed else None,
        end=_number(times.get("end" if of_database else "end_time")),
        finished=bool(states) and not states & UNFINISHED,
        nodes=nodes if nodes not in NO_NODES else None,
        accelerators=_database_accelerators(row) if of_database else _controller_accelerators(row),
    )


def _number(value: Any) -> int | None:
    """A number, plain or as {"set": …, "infinite": …, "number": …}."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set") and not value.get("infinite") else None
    return value if isinstance(value, int) else None


def _database_accelerators(row: dict[str, Any]) -> Accelerators | str | None:
    allocated = row.get("tres", {}).get("allocated", [])
    parts = [f"{part['type']}/{part['name']}={part['count']}" for part in allocated if part.get("name")]
    found = tres(",".join(parts)) or tres(row.get("used_gres") or "")
    asked = json.dumps(row.get("tres", {}).get("requested", [])) + str(row.get("submit_line") or "")
    return found or ("accelerators_unknown" if re.search(r"--gpus|--gres[= ]gpu|\"gpu", asked) else None)


def _controller_accelerators(row: dict[str, Any]) -> Accelerators | str | None:
    """What each node gave; else the allocated TRES; else the request, where Slurm grants it to the letter."""
    found = [
        _GRES_DETAIL.fullmatch(part) for node in row.get("gres_detail") or () for part in node.split(",")
    ]
    given = _of([(match["type"], int(match["count"])) for match in found if match])
    given = given or tres(row.get("tres_alloc_str") or "") or tres(row.get("tres_per_job") or "")
    if given:
        return given
    each, nodes = tres(row.get("tres_per_node") or ""), _number(row.get("node_count"))
    if each and nodes:
        return Accelerators(each.count * nodes, each.model)
    others = ("tres_per_node", "tres_per_socket", "tres_per_task", "tres_req_str")
    return "accelerators_unknown" if any("gpu" in (row.get(name) or "") for name in others) else None

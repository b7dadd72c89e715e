"""Who logs in to what: sessions within the allocations, calls within the sessions, and refusals."""

from dataclasses import dataclass

import numpy as np

from schemas.events import ACCESS
from stream.simulation.clock import MINUTE, SECOND
from stream.simulation.columns import AT, Columns, collect
from stream.simulation.fleet import SITE
from stream.simulation.plan import Allocation, zipf
from stream.simulation.world import BASTION, GATEWAY, IAM, Fields, World

_AGENTS = (
    "OpenSSH_9.6p1", "sekai-cli/2.14.1 (linux)", "python-requests/2.32.3", "kubectl/v1.31.4", "curl/8.5.0",
    "vscode-server/1.96", "jupyterlab/4.3.4",
)  # fmt: skip
_OPERATIONS = ("inference",) * 12 + (
    "metrics",
    "metrics",
    "admin",
    "job_submit",
    "object_put",
    "weight_export",
)


@dataclass(frozen=True)
class Sessions:
    """int64 arrays, one entry a session: index of its allocation, µs of opening and closing."""

    of: np.ndarray
    opened: np.ndarray
    closed: np.ndarray

    def __len__(self) -> int:
        return len(self.of)


def accesses(
    world: World, rng: np.random.Generator, planned: list[Allocation], count: int, start: int, end: int
) -> Columns:
    """`count` accesses between start and end (µs), one in eighty of them refused."""
    calls = count - count // 80
    columns = _denied(world, rng, count if not planned or calls < 3 else count // 80, start, end)
    if planned and calls >= 3:
        sessions = _sessions(rng, planned, min(2 * len(planned), calls // 3), end)
        for name, values in _within(rng, planned, sessions, calls - 2 * len(sessions)).items():
            columns[name].extend(values)
    return columns


def _sessions(rng: np.random.Generator, planned: list[Allocation], count: int, end: int) -> Sessions:
    of = np.sort(rng.integers(0, len(planned), count))
    first = np.array([a.start + 90 * SECOND for a in planned], np.int64)[of]
    last = np.array([min(a.end - 30 * SECOND, end - SECOND) for a in planned], np.int64)[of]
    opened = first + (rng.random(count) * 0.7 * (last - first)).astype(np.int64)
    closed = opened + ((0.1 + 0.9 * rng.random(count)) * (last - opened)).astype(np.int64)
    return Sessions(of, opened, closed)


def _within(rng: np.random.Generator, planned: list[Allocation], sessions: Sessions, calls: int) -> Columns:
    """Every session opens and closes; the calls are shared out with a long tail."""
    each, count = np.arange(len(sessions)), len(sessions)
    weights = rng.pareto(1.6, count) + 0.1
    of_call = np.repeat(each, rng.multinomial(calls, weights / weights.sum()))
    length = (sessions.closed - sessions.opened)[of_call]
    called = sessions.opened[of_call] + (rng.random(calls) * length).astype(np.int64)
    at = np.concatenate([sessions.opened, called, sessions.closed]) // 1000 * 1000
    columns = _session_columns(rng, planned, sessions, np.concatenate([each, of_call, each]))
    operations = [_OPERATIONS[i] for i in rng.integers(0, len(_OPERATIONS), calls).tolist()]
    sizes = np.clip(rng.lognormal(8.5, 2.0, calls), 0, 4e9).astype(np.int64).tolist()
    columns["action"] = ["opened"] * count + ["call"] * calls + ["closed"] * count
    columns["operation"] = ["login"] * count + operations + ["logout"] * count
    columns["bytes_out"] = [None] * count + sizes + [None] * count
    for name in ("mfa", "user_agent"):  # known when a session is opened, and not said again
        columns[name][count:] = [None] * (len(at) - count)
    columns[AT] = at.tolist()
    columns["event_id"] = _hex(rng, len(at), 8)
    return columns


def _session_columns(
    rng: np.random.Generator, planned: list[Allocation], sessions: Sessions, session_of: np.ndarray
) -> Columns:
    """What all events of a session share; `session_of` is the session of each event."""
    picks = rng.integers(0, 1 << 30, len(sessions)).tolist()
    rows: list[Fields] = []
    for index, pick, session in zip(sessions.of.tolist(), picks, _uuids(rng, len(sessions)), strict=True):
        a = planned[index]
        service = pick % 10 < 6
        accounts = a.tenant.services if service else a.tenant.people
        method = "brokered" if a.tenant.broker_id and pick % 3 else ("direct", "remote")[pick // 3 % 2]
        rows.append(
            {
                "source": GATEWAY if service else (IAM, BASTION)[pick // 11 % 2],
                "principal": accounts[pick // 13 % len(accounts)],
                "allocation_id": a.allocation_id,
                "authorization_id": None if service else a.permit.authorization_id,
                "site_id": None if service else SITE,  # the gateway knows the allocation only
                "node": None if service else a.nodes[pick % len(a.nodes)].name,
                "session_id": session.replace("-", "")[:16] if service else session,
                "method": method,
                "broker_id": a.tenant.broker_id if method == "brokered" else None,
                "source_ip": _address(pick),
                "source_country": a.tenant.countries[pick // 17 % len(a.tenant.countries)],
                "mfa": None if service else True,
                "user_agent": _AGENTS[pick // 19 % len(_AGENTS)],
            }
        )
    gathered = collect(ACCESS.name, rows)
    index = session_of.tolist()
    return {name: [column[i] for i in index] for name, column in gathered.items()}


def _denied(world: World, rng: np.random.Generator, count: int, start: int, end: int) -> Columns:
    """Log-ins that were refused: known accounts, no allocation; often from far away."""
    ranks = zipf(rng, len(world.tenants), count).tolist()
    picks = rng.integers(0, 1 << 30, count).tolist()
    times = (start + (rng.random(count) * (end - start - MINUTE)).astype(np.int64)) // 1000 * 1000
    rows: list[Fields] = []
    for rank, pick, at, event in zip(ranks, picks, times.tolist(), _hex(rng, count, 8), strict=True):
        people = world.tenants[rank].people
        rows.append(
            {
                AT: at,
                "event_id": event,
                "source": IAM,
                "principal": people[pick % len(people)],
                "action": "denied",
                "method": "remote",
                "source_ip": _address(pick),
                "source_country": ("JP", "US", "RU", "CN", "BR", "DE")[pick % 6],
                "mfa": False,
                "operation": "login",
            }
        )
    return collect(ACCESS.name, rows)


def _address(pick: int) -> str:
    """In the ranges that are reserved for documentation and for benchmarks (RFC 5737, RFC 2544)."""
    network = ("192.0.2", "198.51.100", "203.0.113", "198.18.7", "198.19.40")[pick // 23 % 5]
    return f"{network}.{pick // 29 % 254 + 1}"


def _hex(rng: np.random.Generator, count: int, size: int) -> list[str]:
    """`count` random strings of `size` bytes each, in hexadecimal."""
    digits, width = rng.bytes(count * size).hex(), 2 * size
    return [digits[i : i + width] for i in range(0, count * width, width)]


def _uuids(rng: np.random.Generator, count: int) -> list[str]:
    return [f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}" for h in _hex(rng, count, 16)]

"""The accelerators of the simulated sites: nodes of eight, their serials, and which nodes are free."""

from collections import deque
from dataclasses import dataclass, field

from schemas.errors import UsageError

SITE = "ishikari-1"
SISTER = "tomakomai-2"
NODE_SIZE = 8
INCIDENT_NODES = 64
INCIDENT_MODEL = "NVIDIA B200"
SMALLEST = 1_024
"""Fewer accelerators leave no room for the planted incidents."""

_MIX = (("NVIDIA H100 SXM", 0.19), ("NVIDIA H200 SXM", 0.10), ("NVIDIA H20", 0.05))
CONTROLLED = ("NVIDIA H100 SXM", "NVIDIA H200 SXM", INCIDENT_MODEL)
_SHORT = {"NVIDIA H100 SXM": "h100", "NVIDIA H200 SXM": "h200", "NVIDIA H20": "h20", "NVIDIA B200": "b200"}
ECCN = {"NVIDIA H100 SXM": "3A090.a", "NVIDIA H200 SXM": "3A090.a", "NVIDIA B200": "3A090.a"}


@dataclass(frozen=True)
class Node:
    name: str
    model: str
    site: str
    serials: tuple[str, ...]


@dataclass
class Fleet:
    """All nodes, and those that nothing runs on. `reserved` is left to the planted incidents."""

    nodes: list[Node] = field(default_factory=list)
    free: dict[str, deque[Node]] = field(default_factory=dict)
    reserved: deque[Node] = field(default_factory=deque)

    @property
    def accelerators(self) -> int:
        """At the main site."""
        return sum(len(node.serials) for node in self.nodes if node.site == SITE)


def build(accelerators: int) -> Fleet:
    """`accelerators` at the main site, rounded up to whole nodes, and a twentieth of it at its sister."""
    if accelerators < SMALLEST:
        raise UsageError(f"--accelerators {accelerators} is too few to simulate: give at least {SMALLEST}")
    total = -(-accelerators // NODE_SIZE)
    counts = [(model, max(1, int(total * share))) for model, share in _MIX]
    counts.append((INCIDENT_MODEL, total - sum(count for _, count in counts)))
    fleet = Fleet()
    for model, count in counts:
        fleet.nodes.extend(_nodes(model, SITE, count, len(fleet.nodes)))
    fleet.free = {model: deque(n for n in fleet.nodes if n.model == model) for model, _ in counts}
    fleet.reserved = deque(fleet.free[INCIDENT_MODEL].pop() for _ in range(INCIDENT_NODES))
    fleet.nodes.extend(_nodes(INCIDENT_MODEL, SISTER, max(1, total // 20), len(fleet.nodes)))
    return fleet


def _nodes(model: str, site: str, count: int, first: int) -> list[Node]:
    short, place = _SHORT[model], site[:3] + site[-1]
    return [
        Node(
            f"{place}-{short}-r{number // 4:03d}-n{number % 4}",
            model,
            site,
            tuple(_serial(NODE_SIZE * number + slot) for slot in range(NODE_SIZE)),
        )
        for number in range(first, first + count)
    ]


def _serial(number: int) -> str:
    """Thirteen digits that grow by lot, as board serials do."""
    return f"165{24 + number // 60_000 % 8}{1 + number // 1_500 % 40:02d}{number:06d}"

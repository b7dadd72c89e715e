"""A stage for one planted incident: a small tenant of its own with one allocation from start to end.

Everything on it is in order until a builder of `incidents` changes one thing, so that the one finding
it expects is the only one.
"""

from dataclasses import dataclass, field

from schemas.events import ACCESS, ALLOCATION, PLACEMENT
from stream.simulation.clock import DAY, MINUTE, SECOND, iso
from stream.simulation.columns import ARRIVAL, AT
from stream.simulation.fleet import INCIDENT_MODEL, NODE_SIZE, SITE, Node
from stream.simulation.world import (
    IAM,
    IAM_REALM,
    KUBE,
    METHODS,
    SLURM,
    SLURM_REALM,
    Fields,
    World,
    add_party,
    add_source,
)


@dataclass
class Stage:
    """Rows by name (`allocated`, `started`, `opened`, `call`, `closed`, `stopped`, `released`) to be changed;
    `extra` rows and `references` to be added. `start` and `end` bound its allocation (µs)."""

    world: World
    start: int
    end: int
    party: list[Fields] = field(init=False)
    authorization: Fields = field(init=False)
    node: Node = field(init=False)
    assets: list[Fields] = field(init=False)
    rows: dict[str, tuple[str, Fields]] = field(init=False)

    def __post_init__(self) -> None:
        self.number = self.world.number()
        self.party = self.new_party()
        self.party_id: str = self.party[0]["party_id"]
        self.account = self.bind(SLURM_REALM, self.party_id)
        self.person = self.bind(IAM_REALM, self.party_id)
        self.node, self.assets = self.new_node()
        self.authorization = self._authorize()
        self.rows = self.allocation(f"isk1-x{self.number}", list(self.node.serials), self.start, self.end)

    # --- who and what ---

    @property
    def name(self) -> str:
        return str(self.party[0]["legal_name"])

    @property
    def allocation_id(self) -> str:
        return str(self.rows["allocated"][1]["allocation_id"])

    @property
    def authorization_id(self) -> str:
        return str(self.authorization["authorization_id"])

    def new_party(self) -> list[Fields]:
        """All versions of a further party that is in order."""
        before = len(self.world.references["party"])
        add_party(self.world, "end_user", "JP", None)
        return self.world.references["party"][before:]

    def set_party(self, **fields: object) -> None:
        for version in self.party:
            version.update(fields)

    def bind(self, realm: str, party_id: str, principal: str | None = None) -> str:
        """Binds a principal (a new one unless named) to the party and returns it."""
        number = self.world.number()
        principal = principal or f"{realm}:x{number:06d}"
        self.world.references["principal"].append(
            {
                "binding_id": f"BND-{number:07d}",
                "version": 1,
                "valid_from": iso(self.world.start - 20 * DAY),
                "principal": principal,
                "party_id": party_id,
                "kind": "human",
            }
        )
        return principal

    def new_node(self) -> tuple[Node, list[Fields]]:
        """A node that nobody else uses, and the asset records of its accelerators."""
        node = self.world.fleet.reserved.popleft()
        wanted = set(node.serials)
        return node, [asset for asset in self.world.references["asset"] if asset["serial"] in wanted]

    def new_source(self, name: str, streams: list[str]) -> str:
        source = f"{name}/{SITE}"
        add_source(self.world, source, streams)
        return source

    def _authorize(self) -> Fields:
        """Covers everything this tenant does; lists are null, so that one limit at a time can be set."""
        record: Fields = {
            "authorization_id": f"AUTH-{self.world.number():06d}",
            "version": 1,
            "valid_from": iso(self.world.start - 40 * DAY),
            "valid_to": iso(self.world.end + 200 * DAY),
            "kind": "license",
            "party_ids": [self.party_id],
            "models": [INCIDENT_MODEL],
            "methods": list(METHODS),
            "max_accelerators": 2 * NODE_SIZE,
        }
        self.world.references["authorization"].append(record)
        return record

    # --- what happens ---

    def row(self, name: str) -> Fields:
        return self.rows[name][1]

    def change(self, *names: str, **fields: object) -> None:
        for name in names:
            self.row(name).update(fields)

    def allocation(
        self, allocation_id: str, serials: list[str], start: int, end: int, suffix: str = ""
    ) -> dict[str, tuple[str, Fields]]:
        """The seven rows of one allocation, in order of time; `suffix` sets their names apart."""
        common: Fields = {
            "allocation_id": allocation_id,
            "authorization_id": self.authorization_id,
            "site_id": SITE,
            "node": self.node.name,
        }
        slurm = common | {
            "source": SLURM,
            "principal": self.account,
            "model": INCIDENT_MODEL,
            "cluster": "isk1",
        }
        taken = {
            "accelerators": len(serials),
            "serials": serials,
            "requested_by": self.account,
            "state": "RUNNING",
        }
        workload = f"wl-{allocation_id}"
        kube = common | {
            "source": KUBE,
            "party_id": self.party_id,
            "workload_id": workload,
        }
        session = {"session_id": f"{allocation_id}-s1", "method": "remote", "source_country": "JP"}
        access = (
            common
            | session
            | {"source": IAM, "principal": self.person, "source_ip": "192.0.2.77", "mfa": True}
        )
        middle = (start + end) // 2 // 1000 * 1000
        steps: list[tuple[str, str, int, Fields]] = [
            ("allocated", ALLOCATION.name, start, slurm | taken),
            (
                "started",
                PLACEMENT.name,
                start + 20 * SECOND,
                kube | {"serials": serials, "reason": "scheduler"},
            ),
            ("opened", ACCESS.name, start + 3 * MINUTE, access | {"operation": "login"}),
            ("call", ACCESS.name, middle, access | {"operation": "inference", "bytes_out": 18_204}),
            ("closed", ACCESS.name, end - 3 * MINUTE, access | {"operation": "logout"}),
            ("stopped", PLACEMENT.name, end - 30 * SECOND, kube),
            ("released", ALLOCATION.name, end, slurm | {"state": "COMPLETED"}),
        ]
        return {
            name + suffix: (stream, self.timed(fields | {"action": name}, f"{allocation_id}.{name}", at))
            for name, stream, at, fields in steps
        }

    @staticmethod
    def timed(fields: Fields, event_id: str, at: int, lag: int = SECOND) -> Fields:
        return fields | {"event_id": event_id, AT: at, ARRIVAL: at + lag}

    def add(self, name: str, like: str, at: int, changes: Fields, lag: int = SECOND) -> Fields:
        """A further row like an existing one, at its own time."""
        stream, fields = self.rows[like]
        event_id = f"{self.allocation_id}.{name}"
        self.rows[name] = (stream, self.timed(fields, event_id, at, lag) | changes)
        return self.rows[name][1]

    def beats(self, source: str, start: int, end: int) -> list[Fields]:
        """A log-in is refused at `source` every five minutes from start to a minute before end (µs).

        They arrive when they happen: what a silence is counted from is then the same by either clock.
        """
        refused: Fields = {"action": "denied", "source": source, "session_id": None}
        refused |= {"allocation_id": None, "authorization_id": None}
        times = range(end - MINUTE, start, -5 * MINUTE)[::-1]
        kind = source.partition("/")[0]
        return [
            self.add(f"{kind}-beat{number}", "opened", at, refused, lag=0) for number, at in enumerate(times)
        ]

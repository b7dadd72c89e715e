"""Who and what there is before anything happens: sites, parties, accounts, authorizations, assets, emitters.

Everything here is in order: verified, screened, covered. What is wrong is planted by `incidents`.
"""

from dataclasses import dataclass, field
from random import Random
from typing import Any

from stream.simulation import fleet as fleets
from stream.simulation.clock import DAY, HOUR, iso
from stream.simulation.fleet import CONTROLLED, ECCN, SISTER, SITE, Fleet
from stream.simulation.names import END_USES, account, company

Fields = dict[str, Any]

SLURM, KUBE, POWER = f"slurm/{SITE}", f"kube/{SITE}", f"power/{SITE}"
IAM, BASTION, GATEWAY = f"iam/{SITE}", f"bastion/{SITE}", f"apigw/{SITE}"
_STREAMS = {
    SLURM: ["allocation"],
    KUBE: ["placement"],
    POWER: ["placement"],
    IAM: ["access"],
    BASTION: ["access"],
    GATEWAY: ["access"],
}
SLURM_REALM, IAM_REALM = "slurm-isk1", "iam-isk1"
_COUNTRIES = ("JP",) * 10 + ("US", "US", "KR", "DE", "GB", "FR", "NL", "CA", "AU", "SG")
METHODS = ("direct", "brokered", "remote")


@dataclass
class Authorization:
    """What a tenant may do; `cap` bounds the accelerators open at once (None: no cap)."""

    authorization_id: str
    models: tuple[str, ...]
    cap: int | None
    sister: bool
    open: int = 0


@dataclass
class Tenant:
    party_id: str
    name: str
    broker_id: str | None
    countries: tuple[str, ...]
    schedulers: list[str] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    services: list[str] = field(default_factory=list)
    authorizations: list[Authorization] = field(default_factory=list)


@dataclass
class World:
    """Reference records by name (each a list of versions in order) and what the workload draws from."""

    start: int
    end: int
    random: Random
    fleet: Fleet
    references: dict[str, list[Fields]]
    rescreened: int
    tenants: list[Tenant] = field(default_factory=list)
    numbered: int = 0

    @property
    def principals(self) -> int:
        return len(self.references["principal"])

    def number(self) -> int:
        """A number that no other id of this world has."""
        self.numbered += 1
        return self.numbered


def build(
    seed: int,
    start: int,
    end: int,
    accelerators: int,
    tenants: int,
    accounts: int,
    rescreened: int = 7 * DAY,
) -> World:
    """A world of `tenants` end users with about `accounts` accounts each; times in µs."""
    names = ("party", "principal", "authorization", "site", "asset", "source")
    records: dict[str, list[Fields]] = {name: [] for name in names}
    fleet, random = fleets.build(accelerators), Random(seed)  # noqa: S311
    world = World(start, end, random, fleet, records, rescreened)
    _sites(world)
    brokers = [_company(world, "broker", None).party_id for _ in range(3 + tenants // 200)]
    for _ in range(2 + tenants // 200):
        _company(world, "reseller", None)
    for _ in range(tenants):
        broker = world.random.choice(brokers) if world.random.random() < 0.25 else None
        tenant = _company(world, "end_user", broker)
        add_accounts(world, tenant, max(3, round(accounts * world.random.uniform(0.6, 1.4))))
        _authorize(world, tenant, tenants)
        world.tenants.append(tenant)
    _assets(world)
    for source, streams in _STREAMS.items():
        add_source(world, source, streams)
    return world


def add_party(world: World, role: str, country: str, broker_id: str | None) -> Fields:
    """Adds the versions of one verified and screened party and returns the first, without its screening.

    The first version is the onboarding; each screening is a further version, the first of them less than
    a week before the start, the others `world.rescreened` apart.
    """
    random, onboarded = world.random, world.start - world.random.randrange(60, 900) * DAY
    party: Fields = {
        "party_id": f"P-{world.number():06d}",
        "version": 1,
        "valid_from": iso(onboarded),
        "status": "verified",
        "role": role,
        "legal_name": company(random, country),
        "country": country,
        "hq_country": country,
        "incorporated_on": f"{random.randrange(1985, 2023)}-{random.randrange(1, 13):02d}-15",
        "brokers": [broker_id] if broker_id else [],
        "verified_at": iso(onboarded),
        "review_due_at": iso(world.end + random.randrange(20, 300) * DAY),
        "end_use": random.choice(END_USES),
        "model_training": random.random() < 0.6,
        "documents": [
            {
                "kind": "registry_extract",
                "sha256": random.randbytes(32).hex(),
                "expires_at": iso(world.end + 400 * DAY),
            }
        ],
    }
    screened = world.start - random.randrange(1, 7 * DAY // HOUR) * HOUR
    times = [onboarded, *range(screened, world.end, world.rescreened)]
    for version, at in enumerate(times, 1):
        screening = {
            "screened_at": iso(at),
            "screening_list": "csl",
            "screening_disposition": "clear",
        }
        world.references["party"].append(party | {"version": version, "valid_from": iso(at)} | screening)
    return party


def add_source(world: World, source: str, streams: list[str]) -> Fields:
    """An emitter that must be heard of every hour, and numbers what it says."""
    record: Fields = {
        "source": source,
        "version": 1,
        "valid_from": iso(world.start - 400 * DAY),
        "streams": streams,
        "site_id": source.partition("/")[2],
        "realm": SLURM_REALM if streams == ["allocation"] else IAM_REALM,
        "silence_limit_s": 3600,
        "sequenced": True,
    }
    world.references["source"].append(record)
    return record


def add_accounts(world: World, tenant: Tenant, count: int) -> None:
    """Two in five accounts of the scheduler, two in five of people, the rest of services."""
    for index in range(count):
        number = world.number()
        if index % 5 in (0, 3):
            bind(world, tenant.schedulers, f"{SLURM_REALM}:{account(world.random, number)}", tenant, "human")
        elif index % 5 in (1, 4):
            bind(world, tenant.people, f"{IAM_REALM}:{account(world.random, number)}", tenant, "human")
        else:
            bind(world, tenant.services, f"{IAM_REALM}:svc-{number:06d}", tenant, "service")


def bind(world: World, group: list[str], principal: str, tenant: Tenant, kind: str) -> None:
    group.append(principal)
    world.references["principal"].append(
        {
            "binding_id": f"BND-{world.number():07d}",
            "version": 1,
            "valid_from": iso(world.start - world.random.randrange(30, 60) * DAY),
            "principal": principal,
            "party_id": tenant.party_id,
            "kind": kind,
        }
    )


def _company(world: World, role: str, broker_id: str | None) -> Tenant:
    country = world.random.choice(_COUNTRIES)
    party = add_party(world, role, country, broker_id)
    abroad = tuple(sorted({"JP", country, world.random.choice(_COUNTRIES)}))
    return Tenant(party["party_id"], party["legal_name"], broker_id, abroad)


def _authorize(world: World, tenant: Tenant, tenants: int) -> None:
    """One or two authorizations; their caps are what the largest tenants run into."""
    for _ in range(1 if world.random.random() < 0.7 else 2):
        random = world.random
        models = tuple(sorted(random.sample(CONTROLLED, random.choice((1, 2, 3)))))
        if random.random() < 0.2:
            models = (*models, "NVIDIA H20")
        cap = None if random.random() < 0.1 else 64 * random.choice((2, 4, 8, 16, 24))
        if tenants > 1000:  # with very many tenants it is the few large ones that carry the load
            cap = None
        sister = random.random() < 0.5
        permit = Authorization(f"AUTH-{world.number():06d}", models, cap, sister)
        tenant.authorizations.append(permit)
        world.references["authorization"].append(
            {
                "authorization_id": permit.authorization_id,
                "version": 1,
                "valid_from": iso(world.start - random.randrange(30, 60) * DAY),
                "valid_to": iso(world.end + random.randrange(100, 500) * DAY),
                "kind": random.choice(("license", "veu", "nlr", "contract")),
                "party_ids": [tenant.party_id],
                "models": list(models),
                "site_ids": [SITE, SISTER] if sister else [SITE],
                "methods": list(METHODS),
                "remote_countries": list(tenant.countries),
                "max_accelerators": cap,
                "conditions": [
                    {
                        "condition_id": "annual-report",
                        "due_at": iso(world.end + 90 * DAY),
                        "met_at": None,
                    }
                ],
            }
        )


def _sites(world: World) -> None:
    operator = add_party(world, "integrator", "JP", None)
    for site, power in ((SITE, 24_000.0), (SISTER, 3_500.0)):
        world.references["site"].append(
            {
                "site_id": site,
                "version": 1,
                "valid_from": iso(world.start - 800 * DAY),
                "country": "JP",
                "region": "Hokkaido",
                "operator_party_id": operator["party_id"],
                "it_power_kw": power,
            }
        )


def _assets(world: World) -> None:
    supplier = add_party(world, "integrator", "US", None)["party_id"]
    for number, node in enumerate(world.fleet.nodes):
        received = iso(world.start - (400 - number % 300) * DAY)
        for serial in node.serials:
            world.references["asset"].append(
                {
                    "serial": serial,
                    "version": 1,
                    "valid_from": received,
                    "model": node.model,
                    "lot_id": f"LOT-{serial[3:7]}-{number // 64:03d}",
                    "supplier_party_id": supplier,
                    "received_at": received,
                    "site_id": node.site,
                    "eccn": ECCN.get(node.model),
                    "status": "installed",
                }
            )

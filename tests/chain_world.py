"""A small closed world for `tests.chains`: parties, accounts, licences, sites, hardware and sources."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.broken import quoted, written
from tests.chain_writer import DAY, HOUR, MINUTE, Record, Writer
from tests.generate import KH
from tests.plain.tables import IDS, REFERENCES

PARTIES = [f"P-{number}" for number in range(12)]
BROKERS = ["B-0", "B-～1", "B-\U0001f6422"]
PRINCIPALS = [f"slurm:u{number}" for number in range(16)]
AUTHORIZATIONS = [f"A-{number}" for number in range(9)]
SITES = ["S-1", "S-2", "S-3", "地点"]
MODELS = ["NVIDIA H100", "NVIDIA H200", "AMD MI300X", "NVIDIA H20", "NVIDIA H100"]
SOURCES = {
    "allocation": ["slurm/a", "slurm/～b", "slurm/\U0001f642c"],
    "access": ["iam", "iam/ß", "slurm/a"],
    "placement": ["placer", "k8s/～", "slurm/a"],
}
QUIET = ["quiet/1", "quiet/2", "quiet/3"]
"""Sources that speak seldom."""


@dataclass
class World:
    """The time of the events, and the versions made so far, in the order of their files."""

    writer: Writer
    allocations: int
    start: int = 0
    span: int = 0
    versions: dict[str, list[Record]] = field(default_factory=lambda: {kind: [] for kind in REFERENCES})
    ended: list[tuple[str, Record, int]] = field(default_factory=list)
    """tombstones: kind, key, where in the file"""

    def __post_init__(self) -> None:
        self.span = self.writer.pick([8 * HOUR, 2 * DAY, 12 * DAY, 20 * DAY])
        self.start = KH - self.writer.pick([self.span // 2 // MINUTE * MINUTE, 40 * DAY])

    @property
    def blocks(self) -> int:
        """Groups of four serials: nearly as many as there are allocations."""
        return max(1, self.allocations * 4 // 5)

    def midst(self) -> int:
        """A minute of the events' time, or a microsecond beside it."""
        return self.writer.near(self.start + self.writer.minutes(0, self.span // MINUTE))

    def add(self, kind: str, /, **fields: object) -> Record:
        """A version with a number of its own, in force from long before unless said."""
        record: Record = {"version": len(self.versions[kind]), "valid_from": self.start - 90 * DAY, **fields}
        self.versions[kind].append(record)
        return record

    def end(self, kind: str, at: int, *key: str) -> None:
        """A tombstone here in the file."""
        stone = {**dict(zip(IDS[kind], key, strict=True)), "tombstone_at": at}
        self.ended.append((kind, stone, len(self.versions[kind])))


def populate(world: World) -> None:
    """Make all versions."""
    for make in (parties, principals, authorizations, sites, assets, sources, screening):
        make(world)


def parties(world: World) -> None:
    writer = world.writer
    usual = {"status": "verified", "screening_disposition": "clear", "role": "end_user"}
    odd: list[Callable[[], Record]] = [
        lambda: {"status": writer.pick(["pending", "suspended", "offboarded"])},
        lambda: {"hq_country": writer.pick(["CN", "hk", "Hk", "ru", "KH", "kh"])},
        lambda: {"parent_hq_country": writer.pick(["CN", "HK", "MO"])},
        lambda: {"hq_country": None},
        lambda: {"screened_at": world.midst() - 30 * DAY},
        lambda: {"screened_at": None},
        lambda: {"screening_disposition": writer.pick(["match", "review"])},
        lambda: {"review_due_at": world.midst()},
        lambda: {"valid_to": world.midst()},
        lambda: {"valid_from": world.midst()},
        lambda: {"valid_to": world.start - 100 * DAY},
    ]
    for party in [*PARTIES, *BROKERS]:
        record = {
            **usual,
            "party_id": party,
            "hq_country": writer.pick(["JP", "US", "de"]),
            "screened_at": world.start - 5 * DAY,
            "review_due_at": writer.pick([None, world.start + 90 * DAY]),
            "brokers": writer.pick([None, [], [BROKERS[0]], [BROKERS[0], BROKERS[1]], [PARTIES[0]]]),
        }
        world.add("party", **record, **({} if writer.chance(0.7) else {"valid_to": None}))
        if writer.chance(0.25):
            world.versions["party"][-1].update(writer.pick(odd)())
        if writer.chance(0.15):  # suspended for a time, or for good
            since = world.midst()
            until = writer.pick([None, since + 2 * HOUR, world.midst()])
            status = writer.pick(["suspended", "verified"])
            world.add("party", **{**record, "status": status, "valid_from": since, "valid_to": until})
        if writer.chance(0.07):
            world.end("party", world.midst(), party)
            if writer.chance(0.5):
                world.add("party", **{**record, "valid_from": world.midst()})
    for party in writer.rng.sample(PARTIES, 2):  # known late, in force from before: overrides what was
        world.add(
            "party", party_id=party, **{**usual, "status": "suspended"}, valid_from=world.midst(), version=900
        )


def principals(world: World) -> None:
    writer = world.writer
    for number, principal in enumerate(PRINCIPALS):
        party = PARTIES[number % len(PARTIES)]
        bound = {"binding_id": f"b{number}", "principal": principal, "party_id": party, "kind": "human"}
        world.add("principal", **bound)
        dice = writer.rng.random()
        if dice < 0.1:
            other = writer.pick([*PARTIES, "P-none"])
            world.add("principal", **{**bound, "binding_id": f"c{number}", "party_id": other})
        elif dice < 0.2:  # another owner from then on
            world.add("principal", **{**bound, "party_id": writer.pick(PARTIES), "valid_from": world.midst()})
        elif dice < 0.25:
            world.end("principal", world.midst(), f"b{number}")
        elif dice < 0.3:
            world.versions["principal"][-1]["valid_to"] = world.midst()


def authorizations(world: World) -> None:
    writer = world.writer
    odd: list[Callable[[], Record]] = [
        lambda: {"party_ids": writer.pick([[], PARTIES[:4], BROKERS])},
        lambda: {"models": writer.pick([[], ["H100"], ["nvidia-h200", "amd mi300x"]])},
        lambda: {"site_ids": writer.pick([[], SITES[:1], SITES[2:]])},
        lambda: {"methods": writer.pick([[], ["direct"], ["brokered", "remote"]])},
        lambda: {"remote_countries": writer.pick([[], ["JP"], ["hk", "US"]])},
        lambda: {"valid_to": world.midst()},
        lambda: {"valid_from": world.midst()},
        lambda: {"conditions": [{"condition_id": "C-1", "due_at": world.midst(), "met_at": world.midst()}]},
        lambda: {"conditions": [{"due_at": world.midst()}, {"condition_id": "C|2"}]},
    ]
    for name in AUTHORIZATIONS:
        cap = writer.pick([None, None, 0, 16, 24, 32, 40, 48, 64, 80, 96])
        record = {
            "authorization_id": name,
            "kind": writer.pick(["license", "veu", "contract", None]),
            "party_ids": writer.pick([None, [*PARTIES, *BROKERS]]),
            "models": writer.pick([None, MODELS]),
            "site_ids": writer.pick([None, SITES]),
            "methods": writer.pick([None, ["direct", "brokered", "remote"]]),
            "remote_countries": writer.pick([None, ["JP", "US", "CN"]]),
            "max_accelerators": cap,
        }
        world.add("authorization", **record)
        if writer.chance(0.35):
            world.versions["authorization"][-1].update(writer.pick(odd)())
        if writer.chance(0.25):
            other = writer.pick([None, 8, 32, 56])
            valid = {"valid_from": world.midst(), "valid_to": writer.pick([None, world.midst()])}
            world.add("authorization", **{**record, "max_accelerators": other, **valid})
        if writer.chance(0.1):
            world.end("authorization", world.midst(), name)


def sites(world: World) -> None:
    for number, site in enumerate(SITES):
        world.add("site", site_id=site, country="JP", it_power_kw=1000.5 * number)
    if world.writer.chance(0.5):
        world.versions["site"][0]["valid_to"] = world.midst()
        world.add("site", site_id=SITES[0], country="JP", valid_from=world.midst())
    if world.writer.chance(0.3):
        world.end("site", world.midst(), SITES[1])
    world.add("site", site_id="S-late", country="US", valid_from=world.midst())


def block(world: World, number: int) -> tuple[list[str], str, str]:
    """Serials that belong together, with their site and model."""
    number %= world.blocks
    serials = [f"SN{number}-{place}" for place in range(4)]
    return serials, SITES[number % len(SITES)], MODELS[number % len(MODELS)]


def assets(world: World) -> None:
    writer = world.writer
    for number in range(world.blocks):
        serials, site, model = block(world, number)
        for serial in serials:
            record: Record = {"serial": serial, "model": model, "site_id": site, "status": "installed"}
            dice = writer.rng.random()
            if dice < 0.01:
                continue
            if dice < 0.03:
                record["status"] = writer.pick(["lost", "retired", "spare"])
            elif dice < 0.045:
                record["site_id"] = writer.pick([*SITES, None])
            elif dice < 0.06:
                record["model"] = writer.pick([*MODELS, None, model.upper()])
            elif dice < 0.075:
                record["valid_to"] = world.midst()
            world.add("asset", **record)
            if dice > 0.98:
                world.add("asset", **{**record, "site_id": writer.pick(SITES), "valid_from": world.midst()})


def sources(world: World) -> None:
    writer = world.writer
    limits = [None, 60, 120, 300, 600, 3600, 7200, 86400, 7 * 86400]
    for source in (*{name: None for names in SOURCES.values() for name in names}, *QUIET):
        if writer.chance(0.2):
            continue  # nobody told of it
        record = {
            "source": source,
            "silence_limit_s": writer.pick(limits),
            "sequenced": writer.pick([None, True, True, False]),
            "valid_from": writer.pick([world.start - 90 * DAY, world.start, world.midst()]),
        }
        world.add("source", **record)
        dice = writer.rng.random()
        if dice < 0.35:
            changed = {"silence_limit_s": writer.pick(limits), "sequenced": writer.pick([None, True, False])}
            span = {"valid_from": world.midst(), "valid_to": writer.pick([None, world.midst()])}
            world.add("source", **{**record, **changed, **span})
        elif dice < 0.5:
            world.versions["source"][-1]["valid_to"] = world.midst()
        elif dice < 0.65:
            world.end("source", world.midst(), source)
    world.add("source", source="mute/1", silence_limit_s=writer.pick(limits))
    world.add(
        "source", source="mute/2", valid_from=world.midst(), valid_to=writer.pick([None, world.midst()])
    )
    world.add("source", source="mute/3", valid_to=world.start - 90 * DAY)  # never in force
    world.add("source", source="mute/4")
    world.end("source", world.start - writer.pick([89, 90, 91]) * DAY, "mute/4")


def screening(world: World) -> None:
    for number in range(4):
        world.add("screening", list="SDN", entry_id=str(number), name="Somebody", aliases=["x"])
    world.end("screening", world.midst(), "SDN", "3")


def file(world: World, kind: str) -> list[bytes]:
    """The lines of a reference file: versions, some again or in conflict, rejections, tombstones."""
    writer, columns = world.writer, REFERENCES[kind]
    stones: dict[int, list[Record]] = {}
    for of, stone, where in world.ended:
        if of == kind:
            stones.setdefault(where, []).append(stone)
    lines = []
    for number, record in enumerate(world.versions[kind]):
        lines += [_tombstone(writer, kind, stone) for stone in stones.get(number, [])]
        lines.append(writer.line(columns, record, event=False))
        if writer.chance(0.02):
            lines.append(writer.line(columns, record, event=False))
        if writer.chance(0.01):
            lines.append(writer.line(columns, {**record, "valid_to": world.midst()}, event=False))
        if writer.chance(0.01):
            lines.append(writer.rejected(columns, record))
    return lines + [_tombstone(writer, kind, stone) for stone in stones.get(len(world.versions[kind]), [])]


def _tombstone(writer: Writer, kind: str, stone: Record) -> bytes:
    pairs = [(quoted(name), writer.maker.text(stone[name])) for name in IDS[kind]]
    pairs.append((quoted("tombstone_at"), quoted(writer.maker.spelled(stone["tombstone_at"]))))
    return written(writer.rng, pairs)

"""Random directories for `sekisho scan` whose events hang together: allocations and what happens to them.

Where `tests.generate` draws every field by itself, here most allocations are ordinary, and the odd ones are
odd in one of the ways that the deadline rules, the sweep rules and coverage look at. Times lie on a grid of
minutes, so that events meet each other and each rule's edges. Everything follows from the seed.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.chain_world import (
    AUTHORIZATIONS,
    BROKERS,
    MODELS,
    PARTIES,
    PRINCIPALS,
    QUIET,
    SITES,
    SOURCES,
    World,
    block,
    file,
    populate,
)
from tests.chain_writer import DAY, HOUR, MINUTE, SECOND, Record, Writer
from tests.generate import Generated
from tests.plain.tables import EVENTS, REFERENCES

PER_ALLOCATION = 33
QUARTER = 15 * MINUTE
LEAST, MOST = -(2**63), 2**63 - 1
COUNTRIES = ["JP", "US", "jp", "CN", "hk", "HK", "KH", "RU"]


@dataclass
class Story:
    """The events of a directory, as (stream, record) with `occurred_at` in µs."""

    writer: Writer
    world: World
    events: list[tuple[str, Record]] = field(default_factory=list)
    lines: list[tuple[int, str, bytes]] = field(default_factory=list)
    """time it is written at, stream, payload"""

    def tell(self, stream: str, at: int, /, **fields: object) -> Record:
        writer = self.writer
        source = writer.pick(QUIET) if writer.chance(0.003) else writer.pick(SOURCES[stream])
        record: Record = {"source": source, "occurred_at": at, **fields}
        self.events.append((stream, record))
        return record


@dataclass
class Turn:
    """One `allocated` event of an allocation and the time until it is released, or replaced."""

    allocation_id: str
    odd: bool
    start: int
    end: int
    identity: Record
    authorization_id: str | None
    serials: list[str]
    site_id: str
    model: str


def generate_chains(directory: Path, seed: int, events: int = 5000) -> Generated:
    """Write the files of one scan, of about so many events, into a new `directory`."""
    writer = Writer(seed)
    world = World(writer, max(4, events // PER_ALLOCATION))
    story = Story(writer, world)
    populate(world)
    for number in range(world.allocations):
        allocation(story, number)
    heartbeats(story)
    until = last_tick(story) if seed % 2 else None
    number_events(story)
    write_events(story)
    directory.mkdir(parents=True)
    for kind in REFERENCES:
        (directory / f"{kind}.ndjson").write_bytes(b"\n".join(file(world, kind)) + b"\n")
    if seed % 3:
        story.lines.sort(key=lambda line: line[0])
    else:
        writer.rng.shuffle(story.lines)
    for stream in EVENTS:
        lines = [payload for _, of, payload in story.lines if of == stream]
        (directory / f"{stream}.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    return Generated(until=None if until is None else writer.maker.spelled(until))


def allocation(story: Story, number: int) -> None:
    """All turns of one allocation id."""
    writer, world = story.writer, story.world
    odd = writer.chance(0.4)
    turns = writer.pick([1, 1, 2, 3]) if odd else 1
    start = world.start + writer.minutes(0, world.span // MINUTE)
    name = f"slurm/c/{number}" if writer.chance(0.95) else f"～\U0001f642/{number}"
    accesses = max(1, (PER_ALLOCATION - 10) // turns)
    for _ in range(turns):
        turn = draw_turn(story, number, name, odd, start)
        allocate(story, turn)
        placements(story, turn)
        for _ in range(writer.rng.randint(accesses // 2, accesses * 3 // 2)):
            access(story, turn)
        release(story, turn)
        start = writer.near(
            writer.pick([turn.end, turn.end, turn.end + MINUTE, turn.end + 2 * HOUR, turn.start + 5 * MINUTE])
        )


def draw_turn(story: Story, number: int, name: str, odd: bool, start: int) -> Turn:
    writer, world = story.writer, story.world
    serials, site, model = block(world, number)
    party = PARTIES[number % len(PARTIES)]
    principals = [one for index, one in enumerate(PRINCIPALS) if index % len(PARTIES) == PARTIES.index(party)]
    ways: list[Record] = [
        {"party_id": party},
        {"principal": principals[0]},
        {"party_id": party, "principal": "slurm:x"},
    ]
    lasts = writer.minutes(20, max(21, world.span // MINUTE // 6))
    authorization = AUTHORIZATIONS[number % len(AUTHORIZATIONS)]
    turn = Turn(name, odd, start, start + lasts, writer.pick(ways), authorization, serials, site, model)
    if odd:
        turn.end = start + writer.pick([0, 1, MINUTE, QUARTER, QUARTER + 1, 30 * MINUTE, lasts, lasts])
        if writer.chance(0.15):
            turn.identity = writer.pick([{}, {"principal": writer.pick(PRINCIPALS)}, {"party_id": "P-none"}])
        if writer.chance(0.15):
            turn.authorization_id = writer.pick([None, "A-none", *AUTHORIZATIONS])
        if writer.chance(0.2):  # of other allocations too
            borrowed = writer.rng.sample(block(world, writer.rng.randrange(world.blocks))[0], 2)
            turn.serials = writer.pick([borrowed, serials + borrowed, [*serials[:2], "SN-none"], serials[:1]])
    return turn


def allocate(story: Story, turn: Turn) -> None:
    writer = story.writer
    fields = {
        "action": "allocated",
        "allocation_id": turn.allocation_id,
        **turn.identity,
        "authorization_id": turn.authorization_id,
        "site_id": turn.site_id,
        "model": turn.model if writer.chance(0.96) else writer.pick([None, *MODELS, "X9"]),
        "accelerators": writer.pick([None, 4, 4, 8, 16]),
        "serials": turn.serials if writer.chance(0.85) else None,
        "requested_by": "anna" if writer.chance(0.3) else None,
        "broker_id": writer.pick(BROKERS) if writer.chance(0.05) else None,
    }
    if turn.odd and writer.chance(0.1):
        fields["accelerators"] = writer.pick([0, 1, 64, 2**40, MOST])
    story.tell("allocation", turn.start, **fields)
    if turn.odd and writer.chance(0.15):  # a second one at the same time or soon after
        other = {"party_id": writer.pick(PARTIES), "serials": writer.pick([None, turn.serials[:2]])}
        at = turn.start + writer.pick([0, 0, 0, 1, MINUTE])
        story.tell("allocation", at, **{**fields, "accelerators": writer.pick([1, 8]), **other})


def identity(story: Story, turn: Turn) -> Record:
    """What an event says of who and under what: often nothing, so that the allocation is asked."""
    dice = story.writer.rng.random()
    under = {"authorization_id": turn.authorization_id}
    if dice < 0.3:
        return {**turn.identity, **under}
    if dice < 0.5:
        return turn.identity
    return under if dice < 0.65 else {}


def placements(story: Story, turn: Turn) -> None:
    writer = story.writer
    for workload in range(writer.pick([1, 1, 2, 3]) if turn.odd else writer.pick([1, 1, 2])):
        offsets = [0, MINUTE, 2 * MINUTE]
        if turn.odd:
            offsets = [0, MINUTE, -MINUTE, QUARTER, -QUARTER, QUARTER + 1, -QUARTER - 1, 20 * MINUTE]
            if writer.chance(0.15):
                continue
        at = turn.start + writer.pick(offsets)
        site = writer.pick([turn.site_id] * 9 + ["S-late"]) if turn.odd else turn.site_id
        place(story, turn, at, "started", workload, site)
        for _ in range(writer.pick([0, 0, 1, 2, 4]) if turn.odd else writer.pick([0, 0, 0, 1])):
            at = within(writer, at, max(at, turn.end))
            to = writer.pick([turn.site_id, *SITES, "S-late", "S-none", None] if turn.odd else [turn.site_id])
            moved = place(story, turn, at, writer.pick(["moved", "moved", "stopped"]), workload, to)
            moved["from_site_id"] = turn.site_id
            moved["reverification_id"] = writer.pick([None, "R-1", "R-1"])
        if writer.chance(0.7):
            place(story, turn, max(at, turn.end), "stopped", workload, turn.site_id)


def place(story: Story, turn: Turn, at: int, action: str, workload: int, site: str | None) -> Record:
    writer = story.writer
    serials = turn.serials if writer.chance(0.5) else None
    if turn.odd and writer.chance(0.15):
        serials = writer.pick([[], ["SN0-0"], [*turn.serials, "SN-other"], turn.serials[:1]])
    return story.tell(
        "placement",
        at,
        action=action,
        workload_id=f"{turn.allocation_id}/{workload}",
        allocation_id=turn.allocation_id if writer.chance(0.97) else None,
        site_id=site,
        serials=serials,
        **identity(story, turn),
    )


def within(writer: Writer, low: int, high: int) -> int:
    """A minute between two times, or one of the two."""
    if writer.chance(0.1) or high - low < MINUTE:
        return writer.pick([low, high])
    return writer.near(low + writer.minutes(0, (high - low) // MINUTE))


def access(story: Story, turn: Turn) -> None:
    writer = story.writer
    at = within(writer, turn.start, turn.end)
    if turn.odd and writer.chance(0.2):
        edges = [turn.start - 1, turn.start - MINUTE, turn.end - 1, turn.end, turn.end + 1, turn.end + HOUR]
        at = writer.pick([turn.start, *edges])
    method = writer.pick(["direct", "remote", "direct", "brokered"])
    fields: Record = {
        "action": writer.pick(["opened", "opened", "call", "call", "call", "closed", "denied"]),
        "allocation_id": turn.allocation_id,
        "method": method if writer.chance(0.95) else None,
        "broker_id": writer.pick(BROKERS) if method == "brokered" and writer.chance(0.9) else None,
        "source_country": writer.pick(COUNTRIES) if writer.chance(0.05) else "JP",
        "session_id": f"s{writer.rng.randrange(10**6)}",
        **identity(story, turn),
    }
    if writer.chance(0.01):
        fields["allocation_id"] = writer.pick([None, "slurm/c/none"])
    if writer.chance(0.02):  # somebody else's
        other = [{"party_id": writer.pick([*PARTIES, *BROKERS])}, {"principal": writer.pick(PRINCIPALS)}]
        fields.update({"party_id": None, "principal": None, **writer.pick(other)})
    story.tell("access", at, **fields)


def release(story: Story, turn: Turn) -> None:
    writer = story.writer
    if turn.odd and writer.chance(0.15):
        return
    ends = [turn.end]
    if turn.odd and writer.chance(0.2):
        ends.append(turn.end + writer.pick([0, 1, HOUR, -HOUR]))
    for end in ends:
        story.tell(
            "allocation",
            end,
            action="released",
            allocation_id=turn.allocation_id,
            model=turn.model if writer.chance(0.3) else None,
            site_id=turn.site_id if writer.chance(0.3) else None,
            serials=turn.serials if writer.chance(0.2) else None,
            **identity(story, turn),
        )


def heartbeats(story: Story) -> None:
    """Quiet sources that speak just within, at and just beyond their limits."""
    writer, world = story.writer, story.world
    for source in QUIET:
        told = [one["silence_limit_s"] for one in world.versions["source"] if one["source"] == source]
        limit = writer.pick([one for one in told if one] or [3600]) * SECOND
        at = world.start + writer.minutes(0, world.span // MINUTE)
        for _ in range(writer.pick([0, 3, 8])):
            fields = {"action": "closed", "party_id": writer.pick(PARTIES)}
            story.tell("access", at, **fields)["source"] = source
            at += writer.pick([limit, limit, limit + 1, limit - 1, 2 * limit])
            if at > world.start + world.span:
                break


def last_tick(story: Story) -> int:
    """Where `--until` lies; with events about it, as far ahead as `future` asks."""
    writer, world = story.writer, story.world
    times = sorted(record["occurred_at"] for _, record in story.events)
    if writer.chance(0.5):
        return writer.near(writer.pick(times[len(times) // 4 :]) + writer.pick([0, 0, -5 * MINUTE, MINUTE]))
    until = times[-1] + writer.pick([0, 5 * MINUTE, 10 * MINUTE, HOUR, HOUR + 1, 3 * HOUR, 9 * DAY])
    sources = [writer.pick(QUIET), "quiet/future", writer.pick(SOURCES["access"])]
    for source in writer.rng.sample(sources, writer.pick([0, 1, 2, 3])):
        for _ in range(writer.pick([1, 2])):
            ahead = writer.pick([5 * MINUTE, 5 * MINUTE + 1, 6 * MINUTE, HOUR, -MINUTE])
            fields = {"action": "call", "allocation_id": f"slurm/c/{writer.rng.randrange(world.allocations)}"}
            story.tell("access", until + ahead, **fields)["source"] = source
    return until


def number_events(story: Story) -> None:
    """Give every event its event_id and, where its source counts, its number."""
    writer = story.writer
    story.events.sort(key=lambda event: event[1]["occurred_at"])
    order = list(range(len(story.events)))
    writer.rng.shuffle(order)
    by_source: dict[str, list[Record]] = {}
    for number, (_, record) in zip(order, story.events, strict=True):
        record["event_id"] = f"{writer.pick(['e', 'e', '～', chr(0x1F642)])}{number}"
        by_source.setdefault(record["source"], []).append(record)
    ends = writer.pick([*by_source, None])  # the source that counts at the ends of int64
    for source, records in by_source.items():
        if not writer.chance(0.15) or source == ends:
            count(writer, records, at_ends=source == ends and writer.chance(0.5))


def count(writer: Writer, records: list[Record], at_ends: bool) -> None:
    """Numbers in the order of time, but for holes, late ones, repeats and nulls."""
    number = LEAST if at_ends else writer.pick([1, 1, 0, -50])
    for index, record in enumerate(records):
        if at_ends and index == len(records) // 2:
            number = MOST - 2 * (len(records) - index)
        record["source_seq"] = number
        dice = writer.rng.random()
        if dice < 0.005:
            number += writer.pick([2, 2, 3, 50])
        elif dice < 0.01:
            pass  # the next event has the same
        else:
            number += 1
        number = min(number, MOST)
    if at_ends:
        records[-1]["source_seq"] = MOST
    for first, second in pairwise(records):
        dice = writer.rng.random()
        if dice < 0.01:
            first["source_seq"], second["source_seq"] = second["source_seq"], first["source_seq"]
        elif dice < 0.013:
            first["source_seq"] = None


def write_events(story: Story) -> None:
    """Every event as a line; some twice, some in conflict, some broken."""
    writer = story.writer
    for stream, record in story.events:
        put(story, stream, record)
        dice = writer.rng.random()
        if dice < 0.01:  # again, in other words and some time later
            for _ in range(writer.pick([1, 1, 2])):
                put(story, stream, record, writer.pick([0, MINUTE, HOUR, 8 * DAY]))
        elif dice < 0.014:
            for _ in range(writer.pick([1, 1, 2])):  # the second may conflict with the first alone
                stream, record = conflicting(story, stream, record)
                put(story, stream, record, *writer.pick([[], [], [HOUR]]))
                if writer.chance(0.2):
                    put(story, stream, record)
        elif dice < 0.024:
            payload = writer.rejected(EVENTS[stream], record)
            story.lines.append((record["occurred_at"], stream, payload))


def put(story: Story, stream: str, record: Record, later: int = 0) -> None:
    payload = story.writer.line(EVENTS[stream], record, event=True)
    story.lines.append((record["occurred_at"] + later, stream, payload))


def conflicting(story: Story, stream: str, record: Record) -> tuple[str, Record]:
    """The event's id on another event: other fields, another stream, up to and beyond 7 days away."""
    writer = story.writer
    changed = {**record, "node": "other"}
    dice = writer.rng.random()
    if dice < 0.2:
        action = writer.pick(["closed", "call"])
        kept = ("event_id", "occurred_at", "source", "source_seq", "party_id", "allocation_id")
        return "access", {**{name: record.get(name) for name in kept}, "action": action, "node": "other"}
    if dice < 0.4 and record.get("serials"):
        changed["serials"] = record["serials"][::-1]
    elif dice < 0.7:
        past = record["occurred_at"] - story.world.start
        shifts = [shift for shift in (7 * DAY, 7 * DAY + 1, 7 * DAY - 1, 9 * DAY) if shift <= past]
        changed["occurred_at"] -= writer.pick([*shifts, 0, MINUTE])
    return stream, changed

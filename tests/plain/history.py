"""A directory of NDJSON files to every finding and piece of coverage (contract sections 3.7 and 4)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.plain.chain import Chains
from tests.plain.completion import Completed, complete
from tests.plain.coverage import Piece, pieces
from tests.plain.deadlines import Fires, after_release, no_allocation, no_placement
from tests.plain.findings import Finding, Firing, findings
from tests.plain.landed import At, Landed, duplicates, landed
from tests.plain.references import Things
from tests.plain.scan import Scanned, scan
from tests.plain.sources import broker_times, holes, silences, watermark
from tests.plain.sweeps import Serials, id_conflicts, party_mismatch, quantity_exceeded, serials_differ


@dataclass
class History:
    """What all records together say."""

    scanned: Scanned
    duplicates: dict[At, At]
    """each duplicate's original"""
    findings: dict[tuple[str, str], Finding]
    """by rule id and subject"""
    pieces: list[Piece]
    watermark: int | None


def judge_all(directory: Path, until: int | None = None) -> History:
    """Judge all of a scan's input. `until`: µs since 1970, section 3.6."""
    return judge_records(scan(directory, until), until)


def judge_records(scanned: Scanned, until: int | None = None, reached: int | None = None) -> History:
    """Judge records. `reached`: a watermark that was reached before, and from which it does not go back."""
    same = duplicates(scanned)
    events = landed(scanned, same)
    chains = Chains(events)
    mark = watermark(scanned, events, until)
    if reached is not None:
        mark = reached if mark is None else max(mark, reached)
    firings = [
        *on_events(events, chains, scanned.things),
        *on_sources(scanned, events, until),
        *rejections(scanned),
    ]
    return History(scanned, same, findings(firings, mark), list(pieces(chains, scanned.things, mark)), mark)


def on_events(events: list[Landed], chains: Chains, things: dict[str, Things]) -> Iterator[Firing]:
    """Row rules, and the deadline and sweep rules that judge an event; each with the event's party."""
    completed = {event.at: complete(event, chains, things) for event in events}
    for fires in (rows(events, completed), *linked(events, chains, things)):
        for rule_id, subject, event, due in fires:
            party_id = completed[event.at].party_id
            yield Firing(rule_id, subject, event.at, event.t, due, party_id, event.allocation_id)


def rows(events: list[Landed], completed: dict[At, Completed]) -> Fires:
    """What fired at landing, and what does through the allocation."""
    for event in events:
        for rule_id, subject in event.judged.firings:
            yield rule_id, subject, event, None
        further = completed[event.at]
        for rule_id, subject in further.firings:
            yield rule_id, subject, event, further.due


def linked(events: list[Landed], chains: Chains, things: dict[str, Things]) -> Iterator[Fires]:
    serials = Serials(chains)
    for event in events:
        yield no_placement(event, chains)
        yield after_release(event, chains)
        yield no_allocation(event, chains)
        yield party_mismatch(event, chains, things)
        yield serials_differ(event, chains)
        yield quantity_exceeded(event, chains, things)
        yield serials.double_allocated(event)
    yield id_conflicts(events)


def on_sources(scanned: Scanned, events: list[Landed], until: int | None) -> Iterator[Firing]:
    sources, times = scanned.things["source"], broker_times(scanned, until)
    yield from holes(events, sources)
    yield from silences(events, sources, min(times, default=None), max(times, default=None))


def rejections(scanned: Scanned) -> Iterator[Firing]:
    """Every rejected record, confirmed at once."""
    for at, (_, reason) in scanned.raw.items():
        if reason is not None:
            yield Firing("gap.source.rejected", f"topic:{at[0]}|reason:{reason}", at, None)

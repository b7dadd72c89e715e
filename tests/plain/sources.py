"""Sources: holes in their numbers, their silences, and the watermark they make (3.6, section 4)."""

import datetime
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.plain.findings import Firing
from tests.plain.judge import MINUTE, SECOND
from tests.plain.landed import Landed
from tests.plain.references import Things, Tombstone
from tests.plain.scan import Scanned

LATENESS = 10 * MINUTE
DEFAULT_LIMIT = 3600 * SECOND
EPOCH = datetime.datetime(1970, 1, 1)


def by_source(events: list[Landed]) -> dict[str, list[Landed]]:
    found: dict[str, list[Landed]] = defaultdict(list)
    for event in events:
        found[event.source].append(event)
    return found


def broker_times(scanned: Scanned, until: int | None) -> list[int]:
    """Of all records read that have one: events, duplicates too, tombstones, and a last tick."""
    times = list(scanned.broker_times.values())
    times += [version.at for version in scanned.versions.values() if isinstance(version, Tombstone)]
    return times if until is None else [*times, until]


def limit(source: str, t: int, sources: Things) -> int:
    """How long a source may be silent from `t` on."""
    version = sources.in_force(source, t)
    seconds = None if version is None else version.fields["silence_limit_s"]
    return DEFAULT_LIMIT if seconds is None else int(seconds) * SECOND


def watermark(scanned: Scanned, events: list[Landed], until: int | None) -> int | None:
    """The watermark at the end of a scan's input; null where nothing was read."""
    if until is None:
        return max((event.t for event in events), default=None)
    latest = max(broker_times(scanned, until))
    marks = []
    for source, spoken in by_source(events).items():
        last = max(event.broker_time for event in spoken)
        live = latest - last <= limit(source, last, scanned.things["source"])
        times = [event.t for event in spoken if not event.judged.future]
        if live and times:
            marks.append(max(times) - LATENESS)
    return min(marks, default=until - LATENESS)


def holes(events: list[Landed], sources: Things) -> Iterator[Firing]:
    """Runs of numbers that lack between a source's lowest and highest."""
    for source, spoken in by_source(events).items():
        numbered: dict[int, list[Landed]] = defaultdict(list)
        for event in spoken:
            if event.source_seq is not None:
                numbered[event.source_seq].append(event)
        numbers = sorted(numbered)
        for low, high in pairwise(numbers):
            if high == low + 1:
                continue
            before = max(numbered[low], key=lambda event: event.place)
            after = min(numbered[high], key=lambda event: event.place)
            version = sources.in_force(source, after.t)
            if version is None or version.fields["sequenced"] is not False:
                subject = f"source:{source}|first:{low + 1}"
                yield Firing("gap.source.sequence_hole", subject, before.at, before.t, due=after.t)


def silences(
    events: list[Landed], sources: Things, earliest: int | None, latest: int | None
) -> Iterator[Firing]:
    """Spans of broker time without an event of a source that are longer than its limit at their start."""
    if earliest is None or latest is None:
        return
    spoken = by_source(events)
    named = {source for (source,) in sources.versions}
    for source in sorted(spoken.keys() | named):
        spans = sources.spans(source)
        ends = [end for _, end in spans]
        last_end = max((end for end in ends if end is not None), default=None) if None not in ends else None
        times = sorted({event.broker_time for event in spoken.get(source, [])})
        starts: list[tuple[int, int]] = [(time, time) for time in times]  # since, counted from
        if spans:
            valid_from = min(start for start, _ in spans)
            starts.insert(0, (valid_from, max(valid_from, earliest)))
            times.insert(0, valid_from)
        for number, (since, start) in enumerate(starts):
            end = times[number + 1] if number + 1 < len(times) else latest
            if last_end is not None:
                end = min(end, last_end)
            if end - start > limit(source, start, sources):
                before = None
                if not (spans and number == 0):
                    heard = [event for event in spoken[source] if event.broker_time == since]
                    before = max(heard, key=lambda event: event.place)
                yield _silence(source, since, before)


def _silence(source: str, since: int, before: Landed | None) -> Firing:
    at = (EPOCH + datetime.timedelta(microseconds=since)).isoformat(timespec="microseconds")
    subject = f"source:{source}|since:{at}Z"
    if before is None:
        return Firing("gap.source.silent", subject, None, None)
    return Firing("gap.source.silent", subject, before.at, before.t)

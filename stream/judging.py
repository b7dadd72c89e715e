"""The pure middle as the worker runs it: micro-batches in, what is to land out. One thread at a time."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from rules.judge import Judge
from rules.pipeline import Events, Landing, admit_references, admit_ticks, decode_events, judge_events
from rules.references import References
from rules.rule import Status
from rules.suppressions import Suppression, suppressed
from schemas.events import EVENTS
from schemas.record import TIME
from schemas.reference import REFERENCES
from schemas.ticks import TICK
from sinks import findings
from stream.fetches import Fetch, to_arrow
from stream.positions import Hole, Partition

REMEMBERED = 65_536  # findings that are not published again when they fire again


@dataclass(frozen=True)
class Batch:
    """One micro-batch: fetches of any partitions, in the order they were read; `since` (of `time.monotonic`)
    says when the first was."""

    fetches: Sequence[Fetch]
    rows: int
    bytes: int
    since: float


@dataclass(frozen=True)
class Decoded:
    """A micro-batch: its records and bytes of values, since when it waits, the ranges it covers, and by topic
    its events, decoded, and the fetches of all others."""

    rows: int
    bytes: int
    since: float
    ranges: Mapping[Partition, tuple[int, int]]
    holes: Sequence[Hole]
    events: Mapping[str, Events]
    others: Mapping[str, Sequence[Fetch]]


@dataclass(frozen=True)
class Judged:
    """A judged micro-batch: its records and bytes of values, what lands, the ranges it covers, findings.

    `since` is the batch's, `known` is how far each reference partition had been read when it was judged.
    """

    rows: int
    bytes: int
    since: float
    landings: Sequence[Landing]
    ranges: Mapping[Partition, tuple[int, int]]
    holes: Sequence[Hole]
    known: Mapping[Partition, int]
    messages: Sequence[findings.Message]

    @property
    def has_events(self) -> bool:
        return any(landing.record.topic in EVENTS for landing in self.landings)


class Judging:
    """Holds the reference index and the rules. One call at a time, from any thread, but for `decode`."""

    def __init__(
        self,
        judge: Judge,
        topic_ids: Mapping[str, str | None],
        suppressions: Sequence[Suppression] = (),
    ) -> None:
        self.references = References(judge.columns)
        self._judge = judge
        self._topic_ids = topic_ids
        self._suppressions = suppressions
        experimental = [rule.id for rule in judge.rules.values() if rule.status is Status.EXPERIMENTAL]
        self._experimental = pa.array(experimental, pa.string())
        self._published: OrderedDict[str, None] = OrderedDict()

    def learn(self, fetches: Iterable[Fetch]) -> None:
        """Make reference records known to the batches judged after this; what is known is skipped.

        They are read on from where the lake was at the start, without a gap.
        """
        by_topic = defaultdict(list)
        for fetch in fetches:
            if self.references.known.get((fetch.topic, fetch.partition), 0) < fetch.end:
                by_topic[fetch.topic].append(fetch)
        for topic, unknown in by_topic.items():
            self._admit(topic, unknown)
            for fetch in unknown:
                self.references.note_read(fetch.topic, fetch.partition, fetch.end)

    def lacks(self, decoded: Decoded) -> bool:
        """Whether others have landed reference records before those of the batch that are not known yet.

        They decide which of its versions are new: `judge` it when `learn` has brought them.
        """
        known: dict[Partition, int] = {}
        for fetch in chain.from_iterable(decoded.others.values()):
            place = (fetch.topic, fetch.partition)
            if fetch.topic in REFERENCES:
                if fetch.start > max(known.get(place, 0), self.references.known.get(place, 0)):
                    return True
                known[place] = fetch.end
        return False

    def decode(self, batch: Batch) -> Decoded:
        """Decode a micro-batch's events. Reads nothing that other calls change, so it may run beside them."""
        by_topic = defaultdict(list)
        for fetch in batch.fetches:
            by_topic[fetch.topic].append(fetch)
        fetched = {
            topic: to_arrow(by_topic.pop(topic), self._topic_ids) for topic in EVENTS if topic in by_topic
        }
        return Decoded(
            batch.rows,
            batch.bytes,
            batch.since,
            _ranges(batch.fetches),
            _holes(batch.fetches),
            {topic: decode_events(EVENTS[topic], rows) for topic, rows in fetched.items() if rows.num_rows},
            by_topic,
        )

    def judge(self, batch: Decoded) -> Judged:
        """Judge a micro-batch, its reference records first."""
        landings = [self._own(topic, batch.others[topic]) for topic in REFERENCES if topic in batch.others]
        known = dict(self.references.known)
        for events in batch.events.values():
            landings.append(judge_events(events, self.references, self._judge))
        if TICK.topic in batch.others:
            landings.append(admit_ticks(to_arrow(batch.others[TICK.topic], self._topic_ids)))
        messages = self._messages(landings, known)
        landed = [landing for landing in landings if landing.raw.num_rows]
        return Judged(
            batch.rows, batch.bytes, batch.since, landed, batch.ranges, batch.holes, known, messages
        )

    def _admit(self, topic: str, fetches: Sequence[Fetch]) -> Landing:
        record = REFERENCES[topic]
        landing = admit_references(record, to_arrow(fetches, self._topic_ids), self.references)
        self.references.add(record, landing.typed)
        return landing

    def _own(self, topic: str, fetches: Sequence[Fetch]) -> Landing:
        """Admit reference records that this worker lands.

        What stands behind something unknown does not count as known, or that would never be learned.
        """
        landing = self._admit(topic, fetches)
        for fetch in fetches:
            if fetch.start <= self.references.known.get((fetch.topic, fetch.partition), 0):
                self.references.note_read(fetch.topic, fetch.partition, fetch.end)
        return landing

    def _messages(
        self, landings: Iterable[Landing], known: Mapping[Partition, int]
    ) -> list[findings.Message]:
        """The findings to be told of that fired for the first time, as far as is remembered."""
        now = datetime.now(UTC)
        fresh: list[findings.Message] = []
        for landing in landings:
            ids = landing.findings["finding_id"].dictionary_encode()
            new = [name for name in ids.dictionary.to_pylist() if name not in self._published]
            if new:
                firings = landing.findings.filter(pc.is_in(ids, pa.array(new, pa.string())))
                fresh += findings.messages(firings.filter(self._told(firings, now)), known, now)
                self._published.update(dict.fromkeys(new))
        while len(self._published) > REMEMBERED:
            self._published.popitem(last=False)
        return fresh

    def _told(self, firings: pa.RecordBatch, now: datetime) -> pa.BooleanArray:
        """Which firings are published at once: not those of experimental rules, nor suppressed ones."""
        rule_ids = firings["rule_id"]
        hidden = suppressed(self._suppressions, rule_ids, firings["subject"], pa.scalar(now, TIME).value)
        return pc.invert(pc.or_(hidden, pc.is_in(rule_ids, self._experimental)))


def _ranges(fetches: Iterable[Fetch]) -> dict[Partition, tuple[int, int]]:
    ranges: dict[Partition, tuple[int, int]] = {}
    for fetch in fetches:
        extend(ranges, (fetch.topic, fetch.partition), (fetch.start, fetch.end))
    return ranges


def extend(ranges: dict[Partition, tuple[int, int]], partition: Partition, more: tuple[int, int]) -> None:
    """Lengthen a partition's range by the one that follows it."""
    start, end = ranges.get(partition, (more[0], more[0]))
    assert end == more[0], f"{partition}: offsets {end} to {more[0]} are missing or come twice"
    ranges[partition] = (start, more[1])


def _holes(fetches: Iterable[Fetch]) -> list[Hole]:
    """Offsets without a record; an empty range marks where an operator gave up a log that was lost."""
    holes = []
    for fetch in fetches:
        empty = [(fetch.start, fetch.end)] if fetch.start == fetch.end else []
        holes += [(fetch.topic, fetch.partition, start, end) for start, end in fetch.holes or empty]
    return holes

"""Two workers without Kafka: they share the partitions, and each judges by the versions it has read."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby

import pyarrow as pa

from rules.judge import Judge
from rules.pipeline import Landing, admit_references, admit_ticks, decode_events, judge_events
from rules.references import References
from schemas.events import EVENTS
from schemas.record import TIME
from schemas.reference import REFERENCES
from schemas.tables import FETCHED
from schemas.ticks import TICK
from sinks.lake import Lake
from tests.arrivals import Arrival

Partition = tuple[str, int]


def fetched(records: Sequence[Arrival]) -> pa.RecordBatch:
    """Records of one topic as FETCHED."""
    given = {
        "topic": [record.topic for record in records],
        "partition": [record.partition for record in records],
        "offset": [record.offset for record in records],
        "key": [record.key for record in records],
        "value": [record.payload for record in records],
    }
    columns = {name: pa.array(values, FETCHED.field(name).type) for name, values in given.items()}
    columns["broker_time"] = pa.array([record.broker_time for record in records], pa.int64()).cast(TIME)
    arrays = [columns.get(field.name, pa.nulls(len(records), field.type)) for field in FETCHED]
    return pa.RecordBatch.from_arrays(arrays, schema=FETCHED)


class Worker:
    """One of them."""

    def __init__(self, judge: Judge) -> None:
        self.references = References(judge.columns)
        self._judge = judge

    def learn(self, records: Sequence[Arrival]) -> None:
        """Make versions known that were read and are landed by somebody else, or later."""
        for topic, group in groupby(self._unknown(records), key=lambda record: record.topic):
            self._admit(topic, list(group))

    def _unknown(self, records: Sequence[Arrival]) -> list[Arrival]:
        known = self.references.known
        fresh = (each for each in records if each.offset >= known.get((each.topic, each.partition), 0))
        return sorted(fresh, key=lambda record: (record.topic, record.partition, record.offset))

    def judge(self, records: Sequence[Arrival]) -> list[Landing]:
        """Judge a batch, its reference records first."""
        by_topic: defaultdict[str, list[Arrival]] = defaultdict(list)
        for record in records:
            by_topic[record.topic].append(record)
        landings = [self._admit(topic, by_topic.pop(topic)) for topic in REFERENCES if topic in by_topic]
        for topic, group in by_topic.items():
            if topic == TICK.topic:
                landings.append(admit_ticks(fetched(group)))
            else:
                events = decode_events(EVENTS[topic], fetched(group))
                landings.append(judge_events(events, self.references, self._judge))
        return landings

    def _admit(self, topic: str, records: Sequence[Arrival]) -> Landing:
        landing = admit_references(REFERENCES[topic], fetched(records), self.references)
        self.references.add(REFERENCES[topic], landing.typed)
        for record in records:
            self.references.note_read(topic, record.partition, record.offset + 1)
        return landing


class Workers:
    """The two of them on one lake. Records that have arrived wait until their worker lands them."""

    def __init__(self, lake: Lake, judge: Judge, rng: random.Random) -> None:
        self._lake = lake
        self._workers = [Worker(judge), Worker(judge)]
        self._rng = rng
        self._arrived: defaultdict[Partition, list[Arrival]] = defaultdict(list)
        self._landed: defaultdict[Partition, int] = defaultdict(int)
        self._owner: dict[Partition, int] = {}

    def arrive(self, records: Sequence[Arrival]) -> None:
        for record in records:
            place = record.topic, record.partition
            self._owner.setdefault(place, self._rng.randrange(2))
            self._arrived[place].append(record)

    @property
    def ends(self) -> Mapping[Partition, int]:
        """The end offsets of the event topics."""
        return {place: len(records) for place, records in self._arrived.items() if place[0] in EVENTS}

    def rebalance(self) -> None:
        """Share the partitions anew; who takes over knows what the lake holds."""
        for place in self._owner:
            self._owner[place] = self._rng.randrange(2)
        for worker in self._workers:
            worker.learn([record for place in self._owner for record in self._reference(place, self._landed)])

    def _reference(self, place: Partition, ends: Mapping[Partition, int]) -> Sequence[Arrival]:
        return self._arrived[place][: ends[place]] if place[0] in REFERENCES else ()

    def land(self, number: int, everything: bool = False) -> bool:
        """Worker 0 or 1 lands what has arrived, or some of it; whether there was anything."""
        worker = self._workers[number]
        ends = {
            place: len(records) if everything or self._rng.random() < 0.6 else self._some(place)
            for place, records in self._arrived.items()
        }
        worker.learn(
            [
                record
                for place, owner in self._owner.items()
                if owner != number
                for record in self._reference(place, ends)
            ]
        )
        batch = list(self._batch(number, ends))
        if not batch:
            return False
        ranges = {
            place: (self._landed[place], ends[place])
            for place, owner in self._owner.items()
            if owner == number and ends[place] > self._landed[place]
        }
        transaction = self._lake.begin(datetime.now(UTC))
        for landing in worker.judge(batch):
            transaction.append(landing)
        transaction.commit(ranges, dict(worker.references.known))
        self._landed.update({place: end for place, (_, end) in ranges.items()})
        return True

    def _some(self, place: Partition) -> int:
        return self._rng.randint(self._landed[place], len(self._arrived[place]))

    def _batch(self, number: int, ends: Mapping[Partition, int]) -> Iterator[Arrival]:
        for place, owner in self._owner.items():
            if owner == number:
                yield from self._arrived[place][self._landed[place] : ends[place]]

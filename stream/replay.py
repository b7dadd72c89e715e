"""`sekisho replay`: judge a lake's history again from `raw`, with the same engine and any rules.

Every reference version the lake holds is known to every event, and time is what the lake's reconciler has
come to. So the findings that hold are those of the lake, unless rules, or the code, have changed.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rules.judge import Judge
from rules.pipeline import Landing, admit_references, admit_ticks, decode_events, judge_events
from rules.reconciler.given import Clock, StepOutput
from rules.references import References
from rules.rule import Rule
from rules.suppressions import Suppression
from schemas.errors import SekishoError, UsageError
from schemas.events import EVENTS
from schemas.reference import REFERENCES
from schemas.tables import FETCHED
from schemas.ticks import TICK
from sinks.lake import Commit, Lake, Settled, Transaction
from sinks.views import reading
from stream.judging import extend
from stream.positions import Hole, Partition
from stream.scan import COMMIT_BYTES, Summary, conclude

COMPARED = ("state", "severity", "events", "first_at", "last_at", "party_id", "allocation_id", "message")
_SHOWN = ("finding_id", "rule_id", "subject", *COMPARED)

Row = dict[str, Any]


def replay(
    source: Path,
    target: Path,
    rules: Sequence[Rule],
    suppressions: Sequence[Suppression] = (),
    progress: Callable[[int], None] = lambda _: None,
) -> Summary:
    """Judge the records of the lake `source` again, into the new lake `target`.

    What its reconciler has not settled yet is left out, unless it has settled nothing at all.

    `progress` is told the records judged as they are.

    Raises:
        UsageError: `target` is not new.
        SekishoError: there is no lake in `source`, it cannot be read, or `target` not be written.
    """
    lake = Lake.open(source, repair=False)
    again = Lake.open(target)
    if not again.is_empty() or again.settled() is not None:
        raise UsageError(f"{target} already holds records or what a reconciler wrote; replay into a new lake")
    settled = lake.settled()
    clock = Clock(settled.watermark, settled.latest_broker_time) if settled else None
    commits = _commits(lake, settled)
    replaying = _Replaying(commits, again, Judge(rules), progress)
    replaying.land(REFERENCES)
    replaying.land((*EVENTS, TICK.topic))
    output: StepOutput = conclude(again, rules, suppressions, replaying.bytes, clock=clock)
    replaying.summary.conclude(output)
    return replaying.summary


class _Replaying:
    """The records of one lake on their way into another."""

    def __init__(
        self,
        commits: Callable[[], Iterator[Commit]],
        again: Lake,
        judge: Judge,
        progress: Callable[[int], None],
    ) -> None:
        """`commits` goes through the commits of the old lake, each time the same."""
        self._commits = commits
        self._again = again
        self._judge = judge
        self._references = References(judge.columns)
        self._progress = progress
        self._until = _stand_in(commits())
        self.summary = Summary()
        self.bytes = 0

    def land(self, topics: Collection[str]) -> None:
        """Judge and land the records of these topics."""
        open_one: _Open | None = None
        for commit in self._commits():
            if open_one is None:
                open_one = _Open(self._again.begin(datetime.now(UTC)))
            for fetched in _raw(commit, topics):
                landing = self._judged(fetched)
                open_one.transaction.append(landing)
                self.summary.add(landing)
                self.bytes += fetched.nbytes
                self._progress(fetched.num_rows)
            open_one.cover(commit, topics)
            for (topic, partition), (_, end) in open_one.ranges.items():
                if topic in REFERENCES:
                    self._references.note_read(topic, partition, end)
            if open_one.transaction.bytes >= COMMIT_BYTES:
                open_one.commit(self._references)
                open_one = None
        if open_one is not None:
            open_one.commit(self._references)

    def _judged(self, fetched: pa.RecordBatch) -> Landing:
        topic = fetched["topic"][0].as_py()
        if topic == TICK.topic:
            return admit_ticks(fetched)
        if topic in EVENTS:
            events = decode_events(EVENTS[topic], fetched)
            return judge_events(events, self._references, self._judge, self._until)
        record = REFERENCES[topic]
        from_kafka = fetched["broker_time"].null_count == 0
        landing = admit_references(record, fetched, self._references, keyed=from_kafka)
        self._references.add(record, landing.typed)
        return landing


@dataclass
class _Open:
    """A transaction and what it covers."""

    transaction: Transaction
    ranges: dict[Partition, tuple[int, int]] = field(default_factory=dict)
    holes: list[Hole] = field(default_factory=list)

    def cover(self, commit: Commit, topics: Collection[str]) -> None:
        for partition, span in commit.batch.ranges.items():
            if partition[0] in topics:
                extend(self.ranges, partition, span)
        self.holes += [hole for hole in commit.batch.holes if hole[0] in topics]

    def commit(self, references: References) -> None:
        self.transaction.commit(self.ranges, references.known, self.holes)


def _commits(lake: Lake, settled: Settled | None) -> Callable[[], Iterator[Commit]]:
    """Goes through the commits up to the settled one, else through those there are now."""
    if settled is not None:
        last = settled.raw_version
    else:
        last = max((commit.version for commit in lake.commits(0)), default=0)
    return lambda: takewhile(lambda commit: commit.version <= last, lake.commits(0))


def _raw(commit: Commit, topics: Collection[str]) -> Iterator[pa.RecordBatch]:
    """The commit's records of these topics as FETCHED batches of one topic each, in order."""
    wanted = pa.array(sorted(topics), pa.string())
    for file in commit.files.get("raw", ()):
        with _told(file), pq.ParquetFile(file) as parquet:
            for group in range(parquet.num_row_groups):
                here = parquet.read_row_group(group, columns=["topic"])["topic"]
                if not pc.any(pc.is_in(here, wanted)).as_py():
                    continue
                rows = parquet.read_row_group(group, columns=FETCHED.names)
                rows = rows.select(FETCHED.names).cast(FETCHED)
                for topic in pc.unique(rows["topic"].filter(pc.is_in(rows["topic"], wanted))).to_pylist():
                    table = rows.filter(pc.equal(rows["topic"], topic)).combine_chunks()
                    yield from table.to_batches()


@contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise SekishoError(f"cannot read {file}: restore it from a copy ({error})") from error


def _stand_in(commits: Iterator[Commit]) -> int | None:
    """What stands in for broker times (µs) where files had none: the latest that any event was given.

    An event was given the lesser of its own time and the scan's last tick: the latest of these does as well.
    """
    latest = None
    for commit in commits:
        for record in EVENTS.values():
            for file in commit.files.get(record.name, ()):
                with _told(file):
                    times = pq.read_table(file, columns=["broker_time"], partitioning=None)["broker_time"]
                found = pc.max(times)
                if found.is_valid:
                    latest = found.value if latest is None else max(latest, found.value)
    return latest


@dataclass(frozen=True)
class Difference:
    """Findings that hold in one lake and not, or otherwise, in another: rows of `finding`.

    Of `changed`, each has the names of the columns that differ, and the rows before and after.
    """

    new: Sequence[Row]
    gone: Sequence[Row]
    changed: Sequence[tuple[Sequence[str], Row, Row]]
    same: int

    def __bool__(self) -> bool:
        return bool(self.new or self.gone or self.changed)

    def as_json(self) -> dict[str, Any]:
        return {
            "new": list(self.new),
            "gone": list(self.gone),
            "changed": [{"columns": names, "before": old, "after": new} for names, old, new in self.changed],
            "same": self.same,
        }


def compare(before: Path, after: Path) -> Difference:
    """How the findings that hold (provisional or confirmed) differ between two lakes.

    What only workers have said so far does not count in a lake that a reconciler has settled.
    """
    old, new = _holding(before), _holding(after)
    changed = []
    for key in sorted(old.keys() & new.keys()):
        names = [name for name in COMPARED if old[key][name] != new[key][name]]
        if names:
            changed.append((names, old[key], new[key]))
    return Difference(
        [new[key] for key in sorted(new.keys() - old.keys())],
        [old[key] for key in sorted(old.keys() - new.keys())],
        changed,
        len(old.keys() & new.keys()) - len(changed),
    )


def _holding(lake: Path) -> dict[tuple[str, str], Row]:
    with reading(lake) as views:
        found = views.sql(
            "FROM finding WHERE state IN ('provisional', 'confirmed') "
            "AND (revision > 0 OR NOT EXISTS (FROM finding_history))"
        )
        rows = [dict(zip(_SHOWN, row, strict=True)) for row in found.select(*_SHOWN).fetchall()]
    return {(row["rule_id"], row["subject"]): row for row in rows}

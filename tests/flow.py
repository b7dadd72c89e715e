"""What workers are held against: records sent to Kafka, and what the pure pipeline makes of them.

The lake is read as any Delta reader would, and compared column by column: every offset in `raw` exactly once,
every accepted record once in its table with the same join and verdicts, every firing once in `finding_event`.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from kafka.admin import KafkaAdminClient

from rules.judge import Judge
from rules.pipeline import Landing, admit_references, decode_events, judge_events
from rules.references import References
from rules.rule import load_all
from schemas.events import EVENTS
from schemas.record import TIME
from schemas.reference import REFERENCES
from schemas.tables import FETCHED, TABLES
from sinks.findings import TOPIC as FINDINGS
from stream.scan import scan
from stream.simulation.messages import Message
from stream.topics import CREATE_TIME, TIMESTAMP_TYPE, create_missing
from tests.landings import scan as read_table
from tests.ship import Shipped

BROKEN: tuple[bytes | None, ...] = (
    b"{",
    b"\xff",
    None,
    b"[]",
    b'{"event_id": 7}',
    b"null",
    b"",
    b'{"a": NaN}',
)
EVERY = 211  # one event in so many is broken
BATCH = 50_000


def make_topics(bootstrap: str, partitions: int) -> None:
    """All topics, with the time stamps of whoever sends, kept for ever."""
    kept = {TIMESTAMP_TYPE: CREATE_TIME, "retention.ms": "-1", "cleanup.policy": "delete"}
    with KafkaAdminClient(bootstrap_servers=bootstrap) as admin:
        create_missing(admin, [*EVENTS, *REFERENCES, FINDINGS], partitions, overrides=kept)


def dealt(messages: Iterable[Message], partitions: int) -> Iterator[Shipped]:
    """Messages on their partitions: reference records by key, events in turn and some of them broken."""
    for number, message in enumerate(messages):
        topic = f"custody.{message.record}"
        if topic in REFERENCES:
            place, value = zlib.crc32(message.key or b"") % partitions, message.value
        else:
            place = number % partitions
            value = message.value if number % EVERY else BROKEN[number // EVERY % len(BROKEN)]  # type: ignore[assignment]
        yield Shipped(topic, place, value, message.key, message.arrival // 1000)


class Expected:
    """Landings of everything that was sent, by topic; references first, and all known to every event."""

    def __init__(self, sent: Iterable[Shipped]) -> None:
        places: defaultdict[tuple[str, int], list[Shipped]] = defaultdict(list)
        for record in sent:
            places[record.topic, record.partition].append(record)
        self.ends = {place: len(records) for place, records in places.items()}
        self._references = References()
        self._rules = load_all()
        self._judge = Judge(self._rules)
        self.landings: defaultdict[str, list[Landing]] = defaultdict(list)
        for topic in (*REFERENCES, *EVENTS):
            for place in sorted(place for place in places if place[0] == topic):
                for fetched in _fetched(place, places[place]):
                    self.landings[topic].append(self._land(topic, fetched))

    def _land(self, topic: str, fetched: pa.RecordBatch) -> Landing:
        if topic in EVENTS:
            return judge_events(decode_events(EVENTS[topic], fetched), self._references, self._judge)
        landing = admit_references(REFERENCES[topic], fetched, self._references)
        self._references.add(REFERENCES[topic], landing.typed)
        return landing

    def unlike_scan(self, sent: Iterable[Shipped], folder: Path) -> Iterator[str]:
        """How the verdicts of `sekisho scan` on the same records differ, one line each.

        Files cannot hold tombstones, which no table holds either.
        """
        lines: defaultdict[str, list[bytes]] = defaultdict(list)
        for record in sorted(sent, key=lambda record: (record.topic, record.partition)):
            if record.value is not None:
                lines[record.topic].append(record.value + b"\n")
        source = folder / "records"
        source.mkdir()
        for topic, values in lines.items():
            (source / f"{topic.removeprefix('custody.')}.ndjson").write_bytes(b"".join(values))
        scan(source, folder / "scanned", self._rules)
        for topic in EVENTS:
            name = EVENTS[topic].name
            expected = pa.Table.from_batches([landing.typed for landing in self.landings[topic]])
            found = read(folder / "scanned", name).sort_by("offset")
            for column in ("event_id", "verdicts"):
                if not found[column].combine_chunks().equals(expected[column].combine_chunks()):
                    yield f"{name}: scan has another {column}"

    def differences(self, lake: Path) -> Iterator[str]:
        """What the lake has too much, too little or otherwise, one line each."""
        raw = read(lake, "raw")
        findings = read(lake, "finding_event")
        findings = findings.filter(findings["step"].is_null())  # what workers wrote
        for topic, landings in self.landings.items():
            name = landings[0].record.name
            expected = pa.Table.from_batches([landing.raw for landing in landings])
            yield from unlike(
                f"raw of {topic}", expected.drop(["topic_id"]), _of(raw, topic).drop(["topic_id"])
            )
            yield from unlike(
                name, pa.Table.from_batches([landing.typed for landing in landings]), read(lake, name)
            )
            fired = pa.Table.from_batches([landing.findings for landing in landings])
            yield from unlike(f"findings of {topic}", fired, _of(findings, topic))
        strange = set(pc.unique(raw["topic"]).to_pylist()) - set(self.landings)
        if strange:
            yield f"raw holds topics that nothing was sent to: {strange}"


def _fetched(place: tuple[str, int], records: Sequence[Shipped]) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(records), BATCH):
        part = records[start : start + BATCH]
        count = len(part)
        columns = [
            pa.repeat(place[0], count),
            pa.nulls(count, pa.string()),
            pa.array([place[1]] * count, pa.int32()),
            pa.array(range(start, start + count), pa.int64()),
            pa.array([(record.at or 0) * 1000 for record in part], pa.int64()).cast(TIME),
            pa.array([record.key for record in part], pa.binary()),
            pa.nulls(count, FETCHED.field("headers").type),
            pa.array([record.value for record in part], pa.binary()),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=FETCHED)


def read(lake: Path, table: str) -> pa.Table:
    """A table of the lake through its Delta log alone."""
    schema = TABLES[table]
    return read_table(lake, table).select(schema.names).cast(schema)


def _of(table: pa.Table, topic: str) -> pa.Table:
    return table.filter(pc.equal(table["topic"], topic))


def unlike(name: str, expected: pa.Table, found: pa.Table) -> Iterator[str]:
    """How a table of the lake differs from what it should hold; `ingested_at` and `dt` are not compared."""
    keys = ["topic", "partition", "offset"] + (
        ["rule_id", "subject"] if "finding_id" in expected.schema.names else []
    )
    if expected.num_rows != found.num_rows:
        yield f"{name}: {found.num_rows:,} rows instead of {expected.num_rows:,}"
        yield from _surplus(name, expected, found, keys[:3])
        return
    order = [(key, "ascending") for key in keys]
    left = expected.sort_by(order)
    right = found.select(left.schema.names).cast(left.schema).sort_by(order)
    for column in left.schema.names:
        one, other = left[column].combine_chunks(), right[column].combine_chunks()
        if not one.equals(other):
            at = next(i for i in range(len(one)) if one[i] != other[i])
            where = {key: left[key][at].as_py() for key in keys}
            yield f"{name}: {column} is {other[at].as_py()!r} instead of {one[at].as_py()!r} at {where}"


def _surplus(name: str, expected: pa.Table, found: pa.Table, keys: list[str]) -> Iterator[str]:
    counts = {}
    for what, table in (("expected", expected), ("found", found)):
        grouped = table.group_by(keys).aggregate([([], "count_all")])
        counts[what] = {tuple(row[key] for key in keys): row["count_all"] for row in grouped.to_pylist()}
    wrong = [
        (place, counts["expected"].get(place, 0), counts["found"].get(place, 0))
        for place in counts["expected"].keys() | counts["found"].keys()
        if counts["expected"].get(place) != counts["found"].get(place)
    ]
    for place, due, got in sorted(wrong)[:5]:
        yield f"{name}: {place} is there {got} times instead of {due}"
    yield f"{name}: {len(wrong):,} places differ"


def landed(lake: Path) -> Mapping[tuple[str, int], int]:
    """The next offsets as raw's log has them, without opening the lake for writing."""
    try:
        table = DeltaTable(str(lake / "raw"))
    except Exception:  # not there yet
        return {}
    offsets = {}
    for app in [f"{topic}:{number}" for topic in (*EVENTS, *REFERENCES) for number in range(64)]:
        version = table.transaction_version(app)
        if version is not None:
            topic, _, number = app.rpartition(":")
            offsets[topic, int(number)] = version
    return offsets

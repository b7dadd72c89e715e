"""Events in memory: the record batches that a broker answers a fetch with, and the fetches made of these."""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition

from stream.fetches import COLUMNS, Fetch, install
from stream.settings import Settings
from stream.simulation.messages import Encoded, Message

PARTITIONS = 4
BATCH_ROWS, BATCH_BYTES = Settings().batch_rows, Settings().batch_bytes  # of a micro-batch
FETCH_BYTES = 1 << 20  # what a fetch brings of one partition: aiokafka's default
_MAGIC, _NO_COMPRESSION = 2, 0


@dataclass(frozen=True)
class Sent:
    """A record batch of one partition, as bytes, with the offset of its first record."""

    topic: str
    partition: int
    first: int
    data: bytes


def sent(blocks: Iterable[Sequence[Encoded]]) -> list[list[Sent]]:
    """The events of some blocks in micro-batches of at most BATCH_ROWS or BATCH_BYTES, each stream in order.

    A micro-batch has of every stream the part that the stream has of its block.
    """
    next_offset: dict[tuple[str, int], int] = {}
    batches = []
    for block in blocks:
        size = sum(len(value) for stream in block for value in stream.values)
        parts = ceil(max(sum(map(len, block)) / BATCH_ROWS, size / BATCH_BYTES))
        for part in range(parts):
            batch: list[Sent] = []
            for stream in block:
                rows = range(len(stream) * part // parts, len(stream) * (part + 1) // parts)
                for partition in range(PARTITIONS):
                    batch += _record_batches(stream, rows[partition::PARTITIONS], partition, next_offset)
            batches.append(batch)
    return batches


def fetch(batch: Iterable[Sent]) -> list[Fetch]:
    """What the worker's consumer makes of record batches."""
    return [_fetch(each) for each in batch]


def count(batches: Iterable[Iterable[Fetch]]) -> int:
    """How many records there are."""
    return sum(len(each) for batch in batches for each in batch)


def alone(blocks: Iterable[Sequence[Encoded]], record: str, rows: int) -> Encoded:
    """The first events of one stream, over all blocks."""
    streams = [stream for block in blocks for stream in block if stream.record == record]
    return Encoded(
        record,
        np.concatenate([stream.arrivals for stream in streams])[:rows],
        [key for stream in streams for key in stream.keys][:rows],
        [value for stream in streams for value in stream.values][:rows],
    )


def gathered(messages: Iterable[Message]) -> list[Encoded]:
    """Messages of any records as streams, each in the order given."""
    streams: dict[str, list[Message]] = {}
    for message in messages:
        streams.setdefault(message.record, []).append(message)
    return [
        Encoded(name, np.array([m.arrival for m in of]), [m.key for m in of], [m.value for m in of])
        for name, of in streams.items()
    ]


def _record_batches(
    stream: Encoded, rows: range, partition: int, next_offset: dict[tuple[str, int], int]
) -> Iterator[Sent]:
    topic = f"custody.{stream.record}"
    while rows:
        first = next_offset.get((topic, partition), 0)
        builder = DefaultRecordBatchBuilder(_MAGIC, _NO_COMPRESSION, False, -1, -1, -1, FETCH_BYTES)
        taken = 0
        for row in rows:
            at = int(stream.arrivals[row]) // 1000
            if builder.append(taken, at, stream.keys[row], stream.values[row], []) is None:
                break
            taken += 1
        assert taken, "an event larger than a fetch"
        data = bytearray(builder.build())
        struct.pack_into(">q", data, 0, first)  # as the broker does
        yield Sent(topic, partition, first, bytes(data))
        next_offset[topic, partition] = first + taken
        rows = rows[taken:]


def _fetch(batch: Sent) -> Fetch:
    install()
    partition = TopicPartition(batch.topic, batch.partition)
    records = fetcher.PartitionRecords(
        partition,
        fetcher.MemoryRecords(batch.data),
        None,
        batch.first,
        COLUMNS,
        None,
        True,
        fetcher.READ_COMMITTED,
    )
    (found,) = records
    return found

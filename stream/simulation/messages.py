"""Columns and reference records as Kafka messages: numbered, encoded, in order of arrival."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from schemas.reference import REFERENCES
from stream.simulation.clock import isos
from stream.simulation.columns import ARRIVAL, AT, AUTO, FIELDS, SEQ, Columns
from stream.simulation.world import Fields

_CHUNK = 10_000


class Message(NamedTuple):
    """One record for the topic `custody.<record>`; `arrival` (µs) is its CreateTime."""

    record: str
    arrival: int
    key: bytes
    value: bytes


@dataclass(frozen=True)
class Encoded:
    """The messages of one stream in order of arrival: int64 µs, keys, values."""

    record: str
    arrivals: np.ndarray
    keys: list[bytes]
    values: list[bytes]

    def __len__(self) -> int:
        return len(self.values)


def number_events(streams: Mapping[str, Columns], next_seq: dict[str, int]) -> None:
    """Fills in `source_seq`: each source counts up by one over all its streams, in order of arrival.

    `next_seq` holds the next number by source and is advanced.
    """
    places: dict[str, list[tuple[int, str, int]]] = {}
    for name, columns in streams.items():
        rows = zip(columns["source"], columns[SEQ], columns[ARRIVAL], strict=True)
        for index, (source, seq, arrival) in enumerate(rows):
            if seq == AUTO:
                places.setdefault(source, []).append((arrival, name, index))
    for source, taken in places.items():
        taken.sort()
        first = next_seq.get(source, 1)
        for number, (_, name, index) in enumerate(taken, first):
            streams[name][SEQ][index] = number
        next_seq[source] = first + len(taken)


def encode(record: str, columns: Columns) -> Encoded:
    """The stream's messages. Nulls are left out, as most emitters do."""
    order = np.argsort(np.array(columns[ARRIVAL], np.int64), kind="stable")
    times = isos(np.array(columns[AT], np.int64))
    names = ("event_id", "occurred_at", "source", SEQ, *FIELDS[record][2:])
    filled: list[Sequence[Any]] = [times if name == "occurred_at" else columns[name] for name in names]
    rows, indices = list(zip(*filled, strict=True)), order.tolist()
    values: list[bytes] = []
    for begin in range(0, len(indices), _CHUNK):
        values.extend(_dumped(names, [rows[i] for i in indices[begin : begin + _CHUNK]]))
    keys = zip(
        columns["allocation_id"],
        columns.get("workload_id") or columns["principal"],
        columns["source"],
        strict=True,
    )
    texts = [(allocation or other or source).encode() for allocation, other, source in keys]
    arrivals = np.array(columns[ARRIVAL], np.int64)[order]
    return Encoded(record, arrivals, [texts[i] for i in order.tolist()], values)


def _dumped(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[bytes]:
    """Each row as JSON. orjson leaves several kilobytes allocated behind every value: one copy sheds them."""
    dumps = orjson.dumps
    lines = b"\n".join(
        [
            dumps({name: value for name, value in zip(names, row, strict=True) if value is not None})
            for row in rows
        ]
    )
    return lines.split(b"\n") if lines else []


def references(records: Mapping[str, Sequence[Fields]], arrival: int) -> Iterator[Message]:
    """Every version of every reference record, with the id as key; all arrive at once."""
    for record in REFERENCES.values():
        for fields in records.get(record.name, ()):
            key = "|".join(str(fields[part]) for part in record.key).encode()
            value = orjson.dumps({name: value for name, value in fields.items() if value is not None})
            yield Message(record.name, arrival, key, value)


def merged(streams: Sequence[Encoded]) -> Iterator[Message]:
    """The messages of all streams in order of arrival."""
    arrivals = np.concatenate([stream.arrivals for stream in streams])
    which = np.repeat(np.arange(len(streams)), [len(stream) for stream in streams])
    index = np.concatenate([np.arange(len(stream)) for stream in streams])
    order = np.argsort(arrivals, kind="stable")
    for at, stream, i in zip(
        arrivals[order].tolist(), which[order].tolist(), index[order].tolist(), strict=True
    ):
        chosen = streams[stream]
        yield Message(chosen.record, at, chosen.keys[i], chosen.values[i])

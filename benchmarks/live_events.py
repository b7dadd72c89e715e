"""The bench profile's events as if they happened now: records made beforehand, filled in when sent.

A producer that makes each record when it is sent takes two fifths of a core at 100,000 a second, which the
worker beside it lacks. Here only times, and places within a batch, are written into bytes that are there.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from rules.growing import ranges
from stream.partitioner import partitions_of
from stream.simulation import bench, world
from stream.simulation.bench import Bench
from stream.simulation.clock import DAY, micros
from stream.simulation.messages import Encoded

Ints = npt.NDArray[np.int64]
Batches = dict[tuple[str, int], bytes]

BATCH_RECORDS = 1 << 9
"""Records in a batch at most: less than the megabyte that a broker takes. The places of so many take two
bytes (KIP-98: zigzag, base 128), and those of the first `_NEAR` one."""
_NEAR = 1 << 6

_TIME = b'"occurred_at":"'
_SENT_LENGTH = len("2026-03-02T00:00:00.000")
_TIME_LENGTH = len("2026-03-02T00:00:00.000000")
_ID = b'{"event_id":"'
_ROUND_LENGTH = 4
_ROUND = b"0" * _ROUND_LENGTH + b"-"
_PLACE_AT = 2  # in a record behind its length: attributes and timestamp delta come first
_HEADER = struct.Struct(">qiibI")
_CHECKED = struct.Struct(">hiqqqhii")
_MAGIC = 2


def bench_of_today() -> Bench:
    """The world of the bench profile with papers that are in order for the next twenty days."""
    start = micros(datetime.now(UTC)) - DAY
    accelerators, tenants, accounts = bench.ACCELERATORS, bench.TENANTS, bench.ACCOUNTS
    end = start + bench.PAPERS
    made = world.build(bench.SEED, start, end, accelerators, tenants, accounts, rescreened=bench.PAPERS)
    return Bench(made, {})


class LiveEvents:
    """Events in order of arrival, numbered from 0, in so many partitions of each topic.

    At R events a second, event i is sent at second i / R and happened at second at[i] / R, at that time or
    before. What holds between the times of one block's events holds between these. Numbers go round: each
    round has event ids of its own, and everything else again.
    """

    def __init__(self, blocks: Iterable[Iterable[Encoded]], partitions: int) -> None:
        topics: list[str] = []
        keys: list[bytes] = []
        values: list[bytes] = []
        at: list[float] = []
        for block in blocks:
            for topic, key, value, happened in _in_order(block, len(at)):
                topics.append(topic)
                keys.append(key)
                values.append(value)
                at.append(happened)
        names = sorted(set(topics))
        self._places = [(name, partition) for name in names for partition in range(partitions)]
        place = np.array([names.index(topic) for topic in topics]) * partitions
        place += np.array(partitions_of(keys, partitions))
        order = np.argsort(place, kind="stable")  # records lie by place, then by number
        self._numbers = place[order] * len(at) + order  # ascending
        self._at = np.array(at)[order]
        pairs = [(keys[number], values[number]) for number in order.tolist()]
        self._near, self._far = (_Laid([_record(*pair, room) for pair in pairs], room) for room in (1, 2))
        self._round = 0

    def __len__(self) -> int:
        return len(self._at)

    def sent(self, first: int, last: int, start: float, rate: float) -> Iterator[Batches]:
        """Record batches of events first to last (excluded) at `rate` a second, the first of all sent at
        `start` (Unix time): at most one of each partition at a time, as brokers want it."""
        size = len(self)
        while first < last:
            round_, number = divmod(first, size)
            end = min(size, number + last - first)
            self._begin_round(round_)
            yield from self._part(number, end, start + round_ * size / rate, rate)
            first += end - number

    def _begin_round(self, number: int) -> None:
        if number != self._round:
            self._near.begin_round(number)
            self._far.begin_round(number)
            self._round = number

    def _part(self, first: int, last: int, start: float, rate: float) -> Iterator[Batches]:
        """Of one round."""
        of_place = np.arange(len(self._places)) * len(self)
        lows, highs = (np.searchsorted(self._numbers, of_place + number) for number in (first, last))
        rows = ranges(lows, highs - lows)
        places = (rows - np.repeat(lows, highs - lows)) % BATCH_RECORDS
        happened = ((start + self._at[rows] / rate) * 1e6).astype("datetime64[us]")
        texts = np.datetime_as_string(happened, unit="us").astype(f"U{_TIME_LENGTH}")
        for laid, those in ((self._near, places < _NEAR), (self._far, places >= _NEAR)):
            laid.fill_in(rows[those], places[those], texts[those])
        while (lows < highs).any():
            nexts = np.minimum(lows + BATCH_RECORDS, highs)
            yield {
                self._places[place]: self._batch(int(lows[place]), int(nexts[place]))
                for place in np.flatnonzero(lows < highs).tolist()
            }
            lows = nexts

    def _batch(self, low: int, high: int) -> bytes:
        """The records that lie from `low` to `high` (excluded) as a record batch; the broker stamps it."""
        count, near = high - low, min(low + _NEAR, high)
        checked = b"".join(
            (
                _CHECKED.pack(0, count - 1, 0, 0, -1, -1, -1, count),
                self._near.records(low, near),
                self._far.records(near, high),
            )
        )
        length = _HEADER.size + len(checked) - 12  # but for its first offset and itself
        return _HEADER.pack(0, length, -1, _MAGIC, crc32c(checked)) + checked


class _Laid:
    """Records one behind the other, each with `room` bytes for its place in a batch."""

    def __init__(self, records: Sequence[bytes], room: int) -> None:
        self._room = room
        self._data = np.frombuffer(bytearray().join(records), np.uint8)
        self._ends = np.cumsum([0, *map(len, records)])
        begins = self._ends[:-1]
        self._place_at = begins + [_varint_length(record) + _PLACE_AT for record in records]
        self._time_at = begins + [record.index(_TIME) + len(_TIME) for record in records]
        self._id_at = begins + [record.index(_ID) + len(_ID) for record in records]
        # Every byte as if a time began there: written whole, ten times as fast as byte by byte.
        begin = len(self._data) - _TIME_LENGTH + 1
        self._times = np.ndarray((begin,), f"V{_TIME_LENGTH}", self._data.data, strides=(1,))

    def begin_round(self, number: int) -> None:
        """Give all events the ids of a round."""
        assert number < 10**_ROUND_LENGTH, "no more event ids"
        digits = np.frombuffer(b"%0*d" % (_ROUND_LENGTH, number), np.uint8)
        self._data[self._id_at[:, None] + np.arange(_ROUND_LENGTH)] = digits

    def fill_in(self, rows: Ints, places: Ints, times: npt.NDArray[np.str_]) -> None:
        """Write the places in their batches, and the event times, into these records."""
        self._times[self._time_at[rows]] = times.view(np.uint32).astype(np.uint8).view(self._times.dtype)
        zigzag, at = 2 * places, self._place_at[rows]
        if self._room == 1:
            self._data[at] = zigzag
        else:
            self._data[at] = zigzag & 127 | 128
            self._data[at + 1] = zigzag >> 7

    def records(self, low: int, high: int) -> bytes:
        return self._data[self._ends[low] : self._ends[high]].tobytes()


def _in_order(block: Iterable[Encoded], before: int) -> Iterator[tuple[str, bytes, bytes, float]]:
    """A block's events by arrival: topic, key, value, and when it happened (`LiveEvents`). `before` is how
    many events came before the block."""
    streams = list(block)
    arrivals = np.concatenate([stream.arrivals for stream in streams])
    order = np.argsort(arrivals, kind="stable")
    topics = [f"custody.{stream.record}" for stream in streams for _ in stream.keys]
    keys = [key for stream in streams for key in stream.keys]
    values = [value for stream in streams for value in stream.values]
    cuts = [value.index(_TIME) + len(_TIME) for value in values]
    texts = [value[cut : cut + _SENT_LENGTH].decode() for value, cut in zip(values, cuts, strict=True)]
    happened = np.array(texts, "datetime64[us]").astype(np.int64)
    at = before + np.interp(happened[order], arrivals[order], np.arange(len(order), dtype=np.float64))
    for i, when in zip(order.tolist(), at.tolist(), strict=True):
        head, tail = values[i][: cuts[i]], values[i][cuts[i] + _SENT_LENGTH :]
        value = head.replace(_ID, _ID + _ROUND, 1) + b"0" * _TIME_LENGTH + tail
        yield topics[i], keys[i], value, when


def _record(key: bytes, value: bytes, room: int) -> bytes:
    """A record of a batch of magic 2 with so many bytes for its place in it (offset delta)."""
    before = bytes(_PLACE_AT + room)  # attributes, timestamp delta, place
    body = b"".join((before, _varint(len(key)), key, _varint(len(value)), value, bytes(1)))
    return _varint(len(body)) + body


def _varint(number: int) -> bytes:
    """A number, not negative, as Kafka writes them: zigzag, seven bits a byte."""
    number *= 2
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _varint_length(data: bytes) -> int:
    """The bytes of the number that these begin with."""
    return next(at for at, byte in enumerate(data, 1) if byte < 128)

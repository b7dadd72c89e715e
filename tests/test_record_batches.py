"""Record batches to columns: the compiled way gives what aiokafka's records give, whatever the bytes."""

import contextlib
import itertools
import struct
from collections.abc import Sequence

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.structs import TopicPartition
from hypothesis import example, given

from schemas.errors import SekishoError
from stream import fetches, record_batches, unpacking
from stream.fetches import COLUMNS, ColumnRecords, KeptRecords, Unreadable
from stream.record_batches import NO_RECORDS, Headers, Kept, read, uncompressed, unread

CODECS = NO_CODEC, GZIP, SNAPPY, LZ4, ZSTD = range(5)
HEADER = 61  # bytes before a batch's records

Sent = tuple[int, bytes | None, bytes | None, Headers]

keys = st.none() | st.binary(max_size=200)
headers = st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=9)), max_size=2)
times = st.integers(-1, 2**62)
sent = st.tuples(times, keys, st.none() | st.binary(max_size=2000), st.just([]) | headers)
batches = st.lists(st.tuples(st.sampled_from(CODECS), st.lists(sent, min_size=1)), min_size=1)


def written(*made: tuple[int, list[Sent]], first: int = 7) -> bytes:
    """Batches of (codec, records), as a broker keeps them."""
    data = b""
    for codec, records in made:
        builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 24)
        for number, (at, key, value, extra) in enumerate(records):
            assert builder.append(number, at, key, value, extra) is not None
        batch = builder.build()
        struct.pack_into(">q", batch, 0, first)
        data, first = data + bytes(batch), first + len(records)
    return data


def kept(data: bytes) -> list[Kept]:
    records, found = KeptRecords(data), []
    while records.has_next():
        found.append(Kept(records.next_batch(), records.batch_bytes))
    return found


def columns(batches: Sequence[Kept]) -> pa.RecordBatch:
    return read([unread([uncompressed(batch) for batch in batches])])


def fetcher_of(data: bytes, start: int) -> ColumnRecords:
    partition = TopicPartition("t", 0)
    return ColumnRecords(
        partition, KeptRecords(data), None, start, COLUMNS, None, True, fetcher.READ_COMMITTED
    )


@pytest.fixture(params=["numba", "plain"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(record_batches, "fast", lambda: None)
    else:
        pytest.importorskip("numba")
    return str(request.param)


def test_records_come_in_order_with_all_they_bear() -> None:
    here: list[Sent] = [
        (5, b"k", None, []),
        (2**40, None, b"", [("a", b"1"), ("b", None)]),
        (0, b"", b"v", []),
    ]
    found = columns(kept(written((NO_CODEC, here), (GZIP, here[:1]))))
    found.validate(full=True)
    assert found["offset"].to_pylist() == [7, 8, 9, 10]
    assert found["timestamp"].to_pylist() == [5, 2**40, 0, 5]
    assert found["key"].to_pylist() == [b"k", None, b"", b"k"]
    assert found["value"].to_pylist() == [None, b"", b"v", None]
    assert found["headers"].to_pylist() == [
        None,
        [{"key": "a", "value": b"1"}, {"key": "b", "value": None}],
        None,
        None,
    ]


def old_format() -> bytes:
    builder = LegacyRecordBatchBuilder(1, NO_CODEC, 1 << 16)
    builder.append(0, 33, b"k", b"v")
    return bytes(builder.build())


@pytest.mark.parametrize(
    "batch",
    [written((ZSTD, [(5, b"k", b"v" * 40, [])]), first=0), old_format()],
    ids=["as today", "before KIP-98"],
)
def test_a_batch_of_a_wrong_checksum_is_corruption(batch: bytes) -> None:
    (found,) = fetcher_of(batch, 0)
    assert len(found) == 1
    for place in range(17, len(batch)):  # offset, length and format before are in none
        broken = bytearray(batch)
        broken[place] ^= 1
        with pytest.raises(CorruptRecordException):
            next(iter(fetcher_of(bytes(broken), 0)))


def test_no_batches_hold_no_records() -> None:
    assert columns([]).equals(NO_RECORDS)


def test_a_brokers_time_of_append_counts_for_all_records() -> None:
    batch = bytearray(written((NO_CODEC, [(5, None, b"a", []), (9, None, b"b", [])])))
    struct.pack_into(">h", batch, 21, 8)
    struct.pack_into(">q", batch, 35, 77)
    assert columns(kept(bytes(batch)))["timestamp"].to_pylist() == [77, 77]


def test_the_formats_before_kip_98_are_read_too() -> None:
    builder = LegacyRecordBatchBuilder(1, NO_CODEC, 1 << 16)
    builder.append(0, 33, b"k", b"v")
    builder.append(1, 34, None, None)
    found = columns(kept(bytes(builder.build())))
    assert [row["timestamp"] for row in found.to_pylist()] == [33, 34]
    assert [row["value"] for row in found.to_pylist()] == [b"v", None]


@pytest.mark.parametrize("magic", [1, 2])
def test_what_lies_before_the_offset_asked_for_is_left_out(magic: int) -> None:
    if magic == 1:
        builder = LegacyRecordBatchBuilder(1, NO_CODEC, 1 << 16)
        for offset in range(3):
            builder.append(offset, 33, None, b"%d" % offset)
        data = bytes(builder.build())
    else:
        data = written((NO_CODEC, [(33, None, b"%d" % offset, []) for offset in range(3)]), first=0)
    (found,) = fetcher_of(data, 1)
    assert (found.start, found.end, found.holes) == (1, 3, [])
    assert read([found.records])["value"].to_pylist() == [b"1", b"2"]


def test_a_batch_that_compaction_has_emptied_holds_no_records() -> None:
    batch = bytearray(written((NO_CODEC, [(33, None, b"gone", [])])))[:HEADER]
    struct.pack_into(">i", batch, 8, HEADER - 12)
    struct.pack_into(">i", batch, 57, 0)
    assert columns(kept(bytes(batch))).num_rows == 0


def test_a_header_key_that_is_not_utf8_is_escaped() -> None:
    batch = written((NO_CODEC, [(5, None, b"v", [("zz", b"1")])])).replace(b"zz", b"\xff\xfe")
    assert columns(kept(batch))["headers"].to_pylist() == [[{"key": r"\xff\xfe", "value": b"1"}]]


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_a_batch_that_takes_too_much_room_is_told_with_its_place_once_all_before_it_has_been_had(
    codec: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "MOST_BYTES", 1 << 20)
    large: tuple[int, list[Sent]] = codec, [(5, None, b"0" * (1 << 20), [])] * 2
    records = fetcher_of(written((NO_CODEC, [(5, None, b"v", [])]), large), 7)
    assert [(fetch.start, fetch.end, len(fetch)) for fetch in records] == [(7, 8, 1)]
    assert records.next_fetch_offset == 8
    with pytest.raises(Unreadable, match=r"t:0: the record batch at offset 8 .* below 10 .*-hole t:0"):
        next(fetcher_of(written(large, first=8), 8))


def test_what_takes_much_room_comes_in_several_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetches, "MOST_BYTES", 3000)
    batch: tuple[int, list[Sent]] = ZSTD, [(5, None, b"0" * 1000, [])]
    records = fetcher_of(written(*[batch] * 5), 7)
    assert [(fetch.start, fetch.end, len(fetch)) for fetch in records] == [(7, 10, 3)]
    assert records.next_fetch_offset == 10


def test_more_than_columns_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    part = unread(kept(written((NO_CODEC, [(5, None, b"v", [])]))))
    monkeypatch.setattr(record_batches, "_MOST", 2 * part.nbytes)
    assert read([part, part]).num_rows == 2
    with pytest.raises(SekishoError, match="batch-bytes"):
        read([part, part, part])


@given(batches)
@example([(codec, [(0, None, b"x" * 5000, [])]) for codec in CODECS])
def test_the_compiled_way_gives_what_aiokafka_gives(made: list[tuple[int, list[Sent]]]) -> None:
    data = written(*made)
    found = columns(kept(data))
    found.validate(full=True)
    rows = itertools.chain.from_iterable(batch.batch for batch in kept(data))
    plain = record_batches.from_rows(
        (each.offset, each.timestamp, each.key, each.headers or None, each.value) for each in rows
    )
    assert found.equals(plain)


@given(st.lists(sent, min_size=1, max_size=5), st.data())
def test_broken_bytes_are_refused_or_read_within_their_bounds(
    records: list[Sent], data: st.DataObject
) -> None:
    batch = bytearray(written((NO_CODEC, records)))
    for place in data.draw(st.lists(st.integers(HEADER, len(batch) - 1), min_size=1, max_size=4)):
        batch[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CorruptRecordException):
        columns(kept(bytes(batch))).validate(full=True)


@pytest.mark.parametrize("count", [2, 2**31 - 1, 2**32 - 1])
def test_more_records_announced_than_there_are_is_corruption(count: int) -> None:
    batch = bytearray(written((NO_CODEC, [(5, None, b"v", [])])))
    struct.pack_into(">I", batch, 57, count)
    with pytest.raises(CorruptRecordException):
        columns(kept(bytes(batch)))

"""What a compressed batch may become."""

import pytest
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode

from stream import unpacking
from stream.unpacking import LIKELY, unpacked

CODECS = {1: gzip_encode, 2: snappy_encode, 3: lz4_encode, 4: zstd_encode}


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_what_fits_exactly_is_unpacked_and_a_byte_more_is_refused(
    codec: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "MOST_BYTES", 1 << 20)
    fits = memoryview(CODECS[codec](b"0" * (1 << 20)))
    assert unpacked(codec, fits) == b"0" * (1 << 20)
    with pytest.raises(ValueError, match="more than 1 MiB"):
        unpacked(codec, memoryview(CODECS[codec](b"0" * ((1 << 20) + 1))))


@pytest.mark.parametrize("codec", [1, 3, 4])
def test_what_becomes_larger_than_is_likely_is_unpacked_too(codec: int) -> None:
    data = memoryview(CODECS[codec](b"0" * 10_000_000))
    assert LIKELY * len(data) < 10_000_000
    assert unpacked(codec, data) == b"0" * 10_000_000


def test_broken_data_are_refused(codec: int) -> None:
    data = CODECS[codec](b"some records" * 99)
    for broken in (data[:-9], b"\xff" * 99):
        with pytest.raises(ValueError, match="it is broken"):
            unpacked(codec, memoryview(broken))


def test_a_codec_that_kafka_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="it is broken"):
        unpacked(7, memoryview(b"abc"))

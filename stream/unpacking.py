"""Unpacking a compressed record batch within bounds: a few bytes can stand for gigabytes of one letter."""

import struct
from collections.abc import Callable, Mapping
from typing import Any

import cramjam
import numpy as np
from aiokafka.codec import snappy_decode

MOST_BYTES = 1 << 27
"""Of a batch when it is unpacked; producers close theirs at about 1 MiB, packed."""

LIKELY = 100
"""Times its size that a batch hardly ever exceeds: room for MOST_BYTES takes longer to make than to fill."""

_SNAPPY = 2
_INTO: Mapping[int, Callable[[Any, Any], int]] = {
    1: cramjam.gzip.decompress_into,
    3: cramjam.lz4.decompress_into,
    4: cramjam.zstd.decompress_into,
}


def unpacked(codec: int, data: memoryview) -> bytes:
    """What a batch holds behind its header, by Kafka's number of the codec.

    Raises ValueError where that is more than MOST_BYTES, or the data are not what the codec makes.
    """
    try:
        found = snappy_decode(data.tobytes()) if codec == _SNAPPY else _unpacked(_INTO[codec], data)
    except (KeyError, struct.error, cramjam.DecompressionError) as error:
        raise ValueError(f"it is broken or takes more than {MOST_BYTES >> 20} MiB ({error})") from error
    if len(found) > MOST_BYTES:  # snappy has a bound of its own, some twenty times what came
        raise ValueError(f"it takes more than {MOST_BYTES >> 20} MiB")
    return found


def _unpacked(into: Callable[[Any, Any], int], data: memoryview) -> bytes:
    likely = min(LIKELY * len(data), MOST_BYTES)
    room = np.empty(likely, dtype=np.uint8)
    try:
        size = into(data, room)
    except cramjam.DecompressionError:  # there was no room, or the data are broken: it does not say which
        if likely == MOST_BYTES:
            raise
        room = np.empty(MOST_BYTES, dtype=np.uint8)
        size = into(data, room)
    return room[:size].tobytes()

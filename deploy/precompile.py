"""Compiles the loops over bytes and keeps the result on disk, so that no worker has to: some seconds, once.

`python -m deploy.precompile`; does nothing where numba is not installed.
"""

import numpy as np
import pyarrow as pa
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from rules import keys
from rules.asof import Intervals
from rules.reconciler.runs import Entries, merge
from schemas.columns import WORTH_LOADING, decode
from schemas.events import EVENTS
from stream.record_batches import Kept, read, unread


def main() -> None:
    """Read a record batch, decode and look up as much as it takes for the compiled loops to be loaded."""
    batch = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 16)
    batch.append(0, 0, b"k", b"v", [])
    read([unread([Kept(None, memoryview(batch.build()))])])
    for record in EVENTS.values():
        decode(record, pa.array([b"{}"] * WORTH_LOADING, pa.binary()))
    names = pa.array([str(number) for number in range(keys.WORTH_LOADING)])
    held = keys.Keys()
    held.intern(names)
    ids = held.find(names)
    intervals = Intervals()
    intervals.at(ids, ids)
    intervals.until(ids, ids)
    ascending = ids.view(np.uint64)
    merge("", [Entries.of(ascending, ids, ids, ids)], None).find(ascending)


if __name__ == "__main__":
    main()

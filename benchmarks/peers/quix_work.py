"""Quix Streams, the whole work: JSON topics, `apply`, and a batching sink that writes Parquet.

python -m benchmarks.peers.quix_work
"""

from typing import Any

from quixstreams import Application, message_context
from quixstreams.sinks import BatchingSink, SinkBatch

from benchmarks.peers.meter import Meter
from benchmarks.peers.work import Judged, Work


class ParquetSink(BatchingSink):
    """Writes what was judged when Quix Streams commits a checkpoint."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    def write(self, batch: SinkBatch) -> None:
        done = False
        for item in batch:
            done = self._work.write(item.value, batch.partition, item.offset)
        if done:
            self._work.finish()


def main() -> None:
    meter = Meter()
    work = Work(meter)
    app = Application(
        broker_address=meter.brokers,
        consumer_group=f"bench-{meter.folder.name}",
        auto_offset_reset="earliest",
        loglevel="WARNING",
    )
    sink = ParquetSink(work)

    def judge(event: Any, key: Any, timestamp: int, headers: Any) -> Judged:
        judged = work.judge(message_context().topic, event, timestamp)
        if meter.seen == meter.events:
            app.stop()  # it commits a last checkpoint
        return judged

    for topic in meter.topics.values():
        frame = app.dataframe(app.topic(topic, value_deserializer="json"))
        frame.apply(judge, metadata=True).sink(sink)
    app.run()


if __name__ == "__main__":
    main()

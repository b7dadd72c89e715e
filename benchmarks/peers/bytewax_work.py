"""Bytewax, the whole work: its Kafka source, whole batches through `flat_map_batch`, a sink for Parquet.

python -m benchmarks.peers.bytewax_work
"""

from typing import Any

import orjson
from bytewax import operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from benchmarks.peers.meter import Meter
from benchmarks.peers.work import Judged, Work

Placed = tuple[Judged, int, int]
"""What was judged, its partition and its offset."""


class ParquetSink(DynamicSink[Placed], StatelessSinkPartition[Placed]):
    """The only partition of itself, since one worker runs."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "ParquetSink":
        return self

    def write_batch(self, items: list[Placed]) -> None:
        for judged, partition, offset in items:
            if self._work.write(judged, partition, offset):
                self._work.finish()


def main() -> None:
    meter = Meter()
    work = Work(meter)

    def judge(batch: list[Any]) -> list[Placed]:
        placed = []
        for message in batch:
            judged = work.judge(message.topic, orjson.loads(message.value), message.timestamp[1])
            placed.append((judged, message.partition, message.offset))
        return placed

    flow = Dataflow("bench")
    messages = op.input("events", flow, KafkaSource([meter.brokers], meter.topics.values()))
    op.output("parquet", op.flat_map_batch("judge", messages, judge), ParquetSink(work))
    run_main(flow)


if __name__ == "__main__":
    main()

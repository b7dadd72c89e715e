"""Bytewax, light: its Kafka source, whole batches through `flat_map_batch`, one look-up.

python -m benchmarks.peers.bytewax_lookup
"""

from typing import Any

import orjson
from bytewax import operators as op
from bytewax.connectors.kafka import KafkaSource
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

from benchmarks.peers.lookup import Lookup
from benchmarks.peers.meter import Meter


class Nowhere(DynamicSink[Any], StatelessSinkPartition[Any]):
    """A dataflow must have an output."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "Nowhere":
        return self

    def write_batch(self, items: list[Any]) -> None:
        pass


def main() -> None:
    meter = Meter()
    lookup = Lookup(meter)

    def judge(batch: list[Any]) -> list[Any]:
        for message in batch:
            event = orjson.loads(message.value)
            if lookup.judge(event.get("party_id"), event.get("principal"), event.get("source_country")):
                meter.report()
        return []

    flow = Dataflow("bench")
    messages = op.input("events", flow, KafkaSource([meter.brokers], meter.topics.values()))
    op.output("nowhere", op.flat_map_batch("judge", messages, judge), Nowhere())
    run_main(flow)


if __name__ == "__main__":
    main()

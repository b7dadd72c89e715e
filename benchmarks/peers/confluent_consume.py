"""The limit of librdkafka from Python: `consume(10000)` of confluent-kafka, in a loop that only counts.

python -m benchmarks.peers.confluent_consume
"""

from confluent_kafka import Consumer

from benchmarks.peers.meter import Meter


def main() -> None:
    meter = Meter()
    settings = {"bootstrap.servers": meter.brokers, "group.id": f"bench-{meter.folder.name}"}
    consumer = Consumer(settings | {"auto.offset.reset": "earliest"})
    consumer.subscribe(list(meter.topics.values()))
    while not meter.count(len(consumer.consume(10_000, 0.1))):
        pass
    meter.report()


if __name__ == "__main__":
    main()

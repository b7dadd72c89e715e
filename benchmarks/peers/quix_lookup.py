"""Quix Streams, light: JSON topics, `apply`, one look-up.

python -m benchmarks.peers.quix_lookup
"""

from typing import Any

from quixstreams import Application

from benchmarks.peers.lookup import Lookup
from benchmarks.peers.meter import Meter


def main() -> None:
    meter = Meter()
    lookup = Lookup(meter)
    app = Application(
        broker_address=meter.brokers,
        consumer_group=f"bench-{meter.folder.name}",
        auto_offset_reset="earliest",
        loglevel="WARNING",
    )

    def judge(event: dict[str, Any]) -> dict[str, Any]:
        if lookup.judge(event.get("party_id"), event.get("principal"), event.get("source_country")):
            meter.report()
        return event

    for topic in meter.topics.values():
        app.dataframe(app.topic(topic, value_deserializer="json")).apply(judge)
    app.run()


if __name__ == "__main__":
    main()

"""A Quix Streams application as its own documentation teaches it: a JSON topic, a dataframe, `apply`.

python -m benchmarks.peers.quix_app
"""

from typing import Any

from quixstreams import Application

from benchmarks.peers.meter import RESTRICTED, Meter

meter = Meter()


def judge(access: dict[str, Any]) -> dict[str, Any]:
    status = meter.statuses.get(access.get("principal") or "")
    meter.count(status != "verified" or access.get("source_country") in RESTRICTED)
    return access


def main() -> None:
    app = Application(
        broker_address=meter.brokers,
        consumer_group="bench-quix",
        auto_offset_reset="earliest",
        loglevel="WARNING",
    )
    topic = app.topic("custody.access", value_deserializer="json")
    app.dataframe(topic).apply(judge)
    app.run()


if __name__ == "__main__":
    main()

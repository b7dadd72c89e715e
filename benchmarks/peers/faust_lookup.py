"""Tutorial Faust, light: JSON Records, an agent a topic, `async for`, one look-up.

python -m benchmarks.peers.faust_lookup worker --without-web
"""

from collections.abc import AsyncIterable

import faust

from benchmarks.peers.faust_records import RECORDS, Event
from benchmarks.peers.lookup import Lookup
from benchmarks.peers.meter import Meter

meter = Meter()
lookup = Lookup(meter)
app = faust.App(
    f"bench-{meter.folder.name}",
    broker=f"kafka://{meter.brokers}",
    consumer_auto_offset_reset="earliest",
    topic_disable_leader=True,
)


async def judge(stream: AsyncIterable[Event]) -> None:
    async for event in stream:
        if lookup.judge(event.party_id, event.principal, getattr(event, "source_country", None)):
            meter.report()


for name, topic in meter.topics.items():
    app.agent(app.topic(topic, value_type=RECORDS[name]), name=name)(judge)

if __name__ == "__main__":
    app.main()

"""Tutorial Faust, the whole work: JSON Records, an agent a topic, `async for` over events.

python -m benchmarks.peers.faust_work worker --without-web
"""

from collections.abc import AsyncIterable
from typing import Any

import faust

from benchmarks.peers.faust_records import RECORDS
from benchmarks.peers.meter import Meter
from benchmarks.peers.work import Work

meter = Meter()
work = Work(meter)
app = faust.App(
    f"bench-{meter.folder.name}",
    broker=f"kafka://{meter.brokers}",
    consumer_auto_offset_reset="earliest",
    topic_disable_leader=True,
)


async def judge(stream: Any) -> None:
    events: AsyncIterable[Any] = stream.events()
    async for event in events:
        message = event.message
        judged = work.judge(message.topic, event.value.asdict(), round(message.timestamp * 1000))
        if work.write(judged, message.partition, message.offset):
            work.finish()


for name, topic in meter.topics.items():
    app.agent(app.topic(topic, value_type=RECORDS[name]), name=name)(judge)

if __name__ == "__main__":
    app.main()

"""A Faust agent as Faust's own tutorial teaches it: a JSON Record, `async for`, a look-up in a dictionary.

python -m benchmarks.peers.faust_tutorial worker --without-web
"""

from collections.abc import AsyncIterable

import faust

from benchmarks.peers.meter import RESTRICTED, Meter

meter = Meter()
app = faust.App(
    "bench-faust-tutorial",
    broker=f"kafka://{meter.brokers}",
    consumer_auto_offset_reset="earliest",
    topic_disable_leader=True,
)


class Access(faust.Record, serializer="json"):  # type: ignore[call-arg]
    event_id: str
    occurred_at: str
    source: str
    action: str
    source_seq: int | None = None
    principal: str | None = None
    party_id: str | None = None
    allocation_id: str | None = None
    authorization_id: str | None = None
    site_id: str | None = None
    node: str | None = None
    session_id: str | None = None
    method: str | None = None
    broker_id: str | None = None
    source_ip: str | None = None
    source_country: str | None = None
    mfa: bool | None = None
    operation: str | None = None
    bytes_out: int | None = None


accesses = app.topic("custody.access", value_type=Access)


@app.agent(accesses)
async def judge(stream: AsyncIterable[Access]) -> None:
    async for access in stream:
        status = meter.statuses.get(access.principal or "")
        meter.count(status != "verified" or access.source_country in RESTRICTED)


if __name__ == "__main__":
    app.main()

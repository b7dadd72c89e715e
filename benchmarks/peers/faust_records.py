"""The event records as Faust's documentation teaches to declare them."""

import faust


class Event(faust.Record, serializer="json"):  # type: ignore[call-arg]
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


class Allocation(Event):
    model: str | None = None
    accelerators: int | None = None
    serials: list[str] | None = None
    broker_id: str | None = None
    requested_by: str | None = None
    approved_by: str | None = None


class Access(Event):
    session_id: str | None = None
    method: str | None = None
    broker_id: str | None = None
    source_ip: str | None = None
    source_country: str | None = None
    mfa: bool | None = None
    operation: str | None = None
    bytes_out: int | None = None


class Placement(Event):
    workload_id: str | None = None
    from_site_id: str | None = None
    serials: list[str] | None = None
    reason: str | None = None
    reverification_id: str | None = None


RECORDS = {"allocation": Allocation, "access": Access, "placement": Placement}

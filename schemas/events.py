"""The three event streams (contract section 1)."""

from schemas.record import Field, Record, Type

_COMMON = (
    Field("event_id", required=True),
    Field("occurred_at", Type.TIME, required=True),
    Field("source", required=True),
    Field("source_seq", Type.INT),
    Field("principal"),
    Field("party_id"),
)
_PLACE = (Field("authorization_id"), Field("site_id"), Field("node"))

ALLOCATION = Record(
    "allocation",
    (
        *_COMMON,
        Field("allocation_id", required=True),
        *_PLACE,
        Field("action", required=True, enum=("allocated", "released")),
        Field("model"),
        Field("accelerators", Type.INT, minimum=0),
        Field("serials", Type.STRINGS),
        Field("broker_id"),
        Field("requested_by"),
        Field("approved_by"),
    ),
)

ACCESS = Record(
    "access",
    (
        *_COMMON,
        Field("allocation_id"),
        *_PLACE,
        Field("action", required=True, enum=("opened", "closed", "call", "denied")),
        Field("session_id"),
        Field("method", enum=("direct", "brokered", "remote")),
        Field("broker_id"),
        Field("source_ip"),
        Field("source_country"),
        Field("mfa", Type.BOOL),
        Field("operation"),
        Field("bytes_out", Type.INT, minimum=0),
    ),
)

PLACEMENT = Record(
    "placement",
    (
        *_COMMON,
        Field("allocation_id"),
        *_PLACE,
        Field("action", required=True, enum=("started", "moved", "stopped")),
        Field("workload_id", required=True),
        Field("from_site_id"),
        Field("serials", Type.STRINGS),
        Field("reason", enum=("scheduler", "power", "maintenance", "capacity", "request")),
        Field("reverification_id"),
    ),
)

EVENTS: dict[str, Record] = {record.topic: record for record in (ALLOCATION, ACCESS, PLACEMENT)}
"""Event records by topic."""

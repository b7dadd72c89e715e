"""The contract's tables of fields (sections 1 and 2), typed in by hand, in their order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One named field: `kind` is a value class of the contract's *Values* paragraph."""

    name: str
    kind: str
    required: bool = False
    enum: tuple[str, ...] | None = None
    least: int | None = None
    inner: tuple["Column", ...] = ()


def _required(name: str, kind: str = "string") -> Column:
    return Column(name, kind, required=True)


def _enum(name: str, values: str, required: bool = False) -> Column:
    return Column(name, "string", required, tuple(values.split("·")))


def _columns(kind: str, names: str) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name in names.split())


def _event(stream: str, *further: Column) -> tuple[Column, ...]:
    return (
        _required("event_id"),
        _required("occurred_at", "time"),
        _required("source"),
        Column("source_seq", "int"),
        *_columns("string", "principal party_id"),
        Column("allocation_id", "string", required=stream == "allocation"),
        *_columns("string", "authorization_id site_id node"),
        *further,
    )


def _version(*ids: str) -> tuple[Column, ...]:
    return (
        *(_required(name) for name in ids),
        _required("version", "int"),
        _required("valid_from", "time"),
        Column("valid_to", "time"),
    )


EVENTS: dict[str, tuple[Column, ...]] = {
    "allocation": _event(
        "allocation",
        _enum("action", "allocated·released", required=True),
        Column("model", "string"),
        Column("accelerators", "int", least=0),
        Column("serials", "strings"),
        *_columns("string", "broker_id requested_by approved_by"),
    ),
    "access": _event(
        "access",
        _enum("action", "opened·closed·call·denied", required=True),
        Column("session_id", "string"),
        _enum("method", "direct·brokered·remote"),
        *_columns("string", "broker_id source_ip source_country"),
        Column("mfa", "bool"),
        Column("operation", "string"),
        Column("bytes_out", "int", least=0),
    ),
    "placement": _event(
        "placement",
        _enum("action", "started·moved·stopped", required=True),
        _required("workload_id"),
        Column("from_site_id", "string"),
        Column("serials", "strings"),
        _enum("reason", "scheduler·power·maintenance·capacity·request"),
        Column("reverification_id", "string"),
    ),
}

REFERENCES: dict[str, tuple[Column, ...]] = {
    "party": (
        *_version("party_id"),
        _enum("status", "pending·verified·suspended·offboarded", required=True),
        _enum("role", "end_user·reseller·broker·integrator"),
        *_columns("string", "legal_name country hq_country parent_name parent_hq_country"),
        Column("incorporated_on", "date"),
        Column("brokers", "strings"),
        *_columns("time", "verified_at review_due_at screened_at"),
        Column("screening_list", "string"),
        _enum("screening_disposition", "clear·review·match"),
        Column("end_use", "string"),
        Column("model_training", "bool"),
        Column(
            "documents", "objects", inner=(*_columns("string", "kind sha256"), Column("expires_at", "time"))
        ),
    ),
    "principal": (
        *_version("binding_id"),
        _required("principal"),
        _required("party_id"),
        _enum("kind", "human·service·shared"),
    ),
    "authorization": (
        *_version("authorization_id"),
        _enum("kind", "license·veu·exception·nlr·contract"),
        *_columns("strings", "party_ids models site_ids methods remote_countries"),
        Column("max_accelerators", "int", least=0),
        Column("max_tpp", "number"),
        Column(
            "conditions",
            "objects",
            inner=(Column("condition_id", "string"), *_columns("time", "due_at met_at")),
        ),
    ),
    "site": (
        *_version("site_id"),
        *_columns("string", "country region operator_party_id"),
        Column("it_power_kw", "number"),
    ),
    "asset": (
        *_version("serial"),
        *_columns("string", "model lot_id supplier_party_id"),
        Column("received_at", "time"),
        *_columns("string", "site_id eccn"),
        _enum("status", "installed·spare·lost·retired"),
    ),
    "source": (
        *_version("source"),
        Column("streams", "strings"),
        *_columns("string", "site_id realm"),
        Column("silence_limit_s", "int", least=1),
        Column("sequenced", "bool"),
    ),
    "screening": (
        *_version("list", "entry_id"),
        Column("name", "string"),
        *_columns("strings", "aliases addresses countries programs"),
        *_columns("date", "start_date end_date"),
        Column("source_url", "string"),
    ),
}

IDS: dict[str, tuple[str, ...]] = {
    "party": ("party_id",),
    "principal": ("binding_id",),
    "authorization": ("authorization_id",),
    "site": ("site_id",),
    "asset": ("serial",),
    "source": ("source",),
    "screening": ("list", "entry_id"),
}
"""The id fields of each reference thing."""

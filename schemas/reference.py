"""The reference records (contract section 2): each is one immutable version of one thing."""

from schemas.record import Field, Record, Type

_VERSION = (
    Field("version", Type.INT, required=True),
    Field("valid_from", Type.TIME, required=True),
    Field("valid_to", Type.TIME),
)


def _reference(name: str, key: tuple[str, ...], *fields: Field) -> Record:
    ids = tuple(Field(part, required=True) for part in key)
    return Record(name, (*ids, *_VERSION, *fields), key)


PARTY = _reference(
    "party",
    ("party_id",),
    Field("status", required=True, enum=("pending", "verified", "suspended", "offboarded")),
    Field("role", enum=("end_user", "reseller", "broker", "integrator")),
    Field("legal_name"),
    Field("country"),
    Field("hq_country"),
    Field("parent_name"),
    Field("parent_hq_country"),
    Field("incorporated_on", Type.DATE),
    Field("brokers", Type.STRINGS),
    Field("verified_at", Type.TIME),
    Field("review_due_at", Type.TIME),
    Field("screened_at", Type.TIME),
    Field("screening_list"),
    Field("screening_disposition", enum=("clear", "review", "match")),
    Field("end_use"),
    Field("model_training", Type.BOOL),
    Field(
        "documents",
        Type.OBJECTS,
        fields=(Field("kind"), Field("sha256"), Field("expires_at", Type.TIME)),
    ),
)

PRINCIPAL = _reference(
    "principal",
    ("binding_id",),
    Field("principal", required=True),
    Field("party_id", required=True),
    Field("kind", enum=("human", "service", "shared")),
)

AUTHORIZATION = _reference(
    "authorization",
    ("authorization_id",),
    Field("kind", enum=("license", "veu", "exception", "nlr", "contract")),
    Field("party_ids", Type.STRINGS),
    Field("models", Type.STRINGS),
    Field("site_ids", Type.STRINGS),
    Field("methods", Type.STRINGS),
    Field("remote_countries", Type.STRINGS),
    Field("max_accelerators", Type.INT, minimum=0),
    Field("max_tpp", Type.NUMBER),
    Field(
        "conditions",
        Type.OBJECTS,
        fields=(Field("condition_id"), Field("due_at", Type.TIME), Field("met_at", Type.TIME)),
    ),
)

SITE = _reference(
    "site",
    ("site_id",),
    Field("country"),
    Field("region"),
    Field("operator_party_id"),
    Field("it_power_kw", Type.NUMBER),
)

ASSET = _reference(
    "asset",
    ("serial",),
    Field("model"),
    Field("lot_id"),
    Field("supplier_party_id"),
    Field("received_at", Type.TIME),
    Field("site_id"),
    Field("eccn"),
    Field("status", enum=("installed", "spare", "lost", "retired")),
)

SOURCE = _reference(
    "source",
    ("source",),
    Field("streams", Type.STRINGS),
    Field("site_id"),
    Field("realm"),
    Field("silence_limit_s", Type.INT, minimum=1),
    Field("sequenced", Type.BOOL),
)

SCREENING = _reference(
    "screening",
    ("list", "entry_id"),
    Field("name"),
    Field("aliases", Type.STRINGS),
    Field("addresses", Type.STRINGS),
    Field("countries", Type.STRINGS),
    Field("programs", Type.STRINGS),
    Field("start_date", Type.DATE),
    Field("end_date", Type.DATE),
    Field("source_url"),
)

REFERENCES: dict[str, Record] = {
    record.topic: record for record in (PARTY, PRINCIPAL, AUTHORIZATION, SITE, ASSET, SOURCE, SCREENING)
}
"""Reference records by topic."""

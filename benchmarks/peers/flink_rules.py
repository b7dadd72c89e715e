"""The contract's row rules as Flink SQL over a joined event: condition and subject by rule id and stream.

Columns of the joined event are those of its stream, `party`, the versions in force as `p_status` or
`a_site_ids`, and `party_version`, `authorization_version` and `site_version`, which are null where none is.
"""

from schemas.countries import RESTRICTED

_LEAVES = {code: until for code, until in RESTRICTED.items() if until is not None}
_STAYS = ", ".join(f"'{code}'" for code in sorted(RESTRICTED.keys() - _LEAVES.keys()))

Rules = dict[str, tuple[str, str]]
"""Rule id → condition and subject."""

PARTY = (
    "CASE WHEN party IS NOT NULL THEN 'party:' || party WHEN party_id IS NOT NULL THEN 'party:' || party_id "
    "WHEN principal IS NOT NULL THEN 'principal:' || principal "
    "WHEN allocation_id IS NOT NULL THEN 'allocation:' || allocation_id "
    "ELSE 'event:' || source || '/' || event_id END"
)
UNDER = "'authorization:' || authorization_id"
COUNTRY = "CASE WHEN UPPER(source_country) = 'HK' THEN 'CN' ELSE UPPER(source_country) END"


def rules(stream: str) -> Rules:
    """The rules that ask for one event with its versions."""
    return _IDENTITY | {"allocation": _ALLOCATION, "access": _ACCESS, "placement": _PLACEMENT}[stream]


def serial_rules(stream: str) -> Rules:
    """The rules that ask for each serial of an event, with the asset's version in force as `x_site_id`, …"""
    both: Rules = {"flag.location.asset_elsewhere": ("x_site_id <> site_id", _SERIAL)}
    return both | _SERIALS if stream == "allocation" else both


def _outside(allowed: str, value: str) -> str:
    return f"{allowed} IS NOT NULL AND {value} IS NOT NULL AND NOT ARRAY_CONTAINS({allowed}, {value})"


def _restricted(code: str) -> str:
    left = "".join(
        f" OR ({code} = '{gone}' AND occurred_at < TO_TIMESTAMP_LTZ({round(until.timestamp())}, 0))"
        for gone, until in _LEAVES.items()
    )
    return f"({code} IN ({_STAYS}){left})"


def _ids(*named: tuple[str, str]) -> str:
    return " || '|' || ".join(f"'{name}:' || {value}" for name, value in named)


_SERIAL = _ids(("serial", "serial"))
_HQ = f"({_restricted('p_hq_country')} OR {_restricted('p_parent_hq_country')})"
_CONTROLLED = "(model IS NULL OR model <> 'NVIDIA H20')"  # the catalogue's only one
_NAMES_SOMEBODY = "(party_id IS NOT NULL OR principal IS NOT NULL OR allocation_id IS NULL)"
_BROKER = (
    "party_version IS NOT NULL AND broker_id IS NOT NULL "
    "AND NOT COALESCE(ARRAY_CONTAINS(p_brokers, broker_id), FALSE)"
)

_IDENTITY: Rules = {
    "gap.identity.unknown": (f"party_version IS NULL AND {_NAMES_SOMEBODY}", PARTY),
    "flag.identity.not_verified": ("p_status <> 'verified'", PARTY),
    "gap.identity.stale": ("p_review_due_at < occurred_at", PARTY),
    "gap.identity.unscreened": (
        "party_version IS NOT NULL AND "
        "(p_screened_at IS NULL OR p_screened_at < occurred_at - INTERVAL '30' DAY)",
        PARTY,
    ),
    "flag.identity.screening_match": ("p_screening_disposition = 'match'", PARTY),
    "gap.source.clock": ("occurred_at > broker_time + INTERVAL '5' MINUTE", "'source:' || source"),
}
_ALLOCATION: Rules = {
    "flag.identity.restricted_hq": (f"action = 'allocated' AND {_CONTROLLED} AND {_HQ}", PARTY),
    "gap.identity.hq_unknown": (
        f"action = 'allocated' AND {_CONTROLLED} AND party_version IS NOT NULL AND p_hq_country IS NULL",
        PARTY,
    ),
    "flag.access.broker_unregistered": (_BROKER, f"{PARTY} || '|' || {_ids(('broker', 'broker_id'))}"),
    "flag.location.outside_authorization": (
        _outside("a_site_ids", "site_id"),
        _ids(("authorization", "authorization_id"), ("site", "site_id")),
    ),
    "gap.authorization.missing": (
        f"action = 'allocated' AND {_CONTROLLED} AND authorization_version IS NULL",
        _ids(("allocation", "allocation_id")),
    ),
    "flag.authorization.party_not_covered": (
        _outside("a_party_ids", "party"),
        _ids(("authorization", "authorization_id"), ("party", "party")),
    ),
    "flag.authorization.item_not_covered": (
        _outside("a_models", "model"),
        _ids(("authorization", "authorization_id"), ("model", "model")),
    ),
}
_ACCESS: Rules = {
    "flag.identity.restricted_hq": (_HQ, PARTY),
    "flag.access.broker_unregistered": _ALLOCATION["flag.access.broker_unregistered"],
    "gap.access.method_missing": ("action = 'opened' AND `method` IS NULL", "'source:' || source"),
    "gap.access.broker_unnamed": ("`method` = 'brokered' AND broker_id IS NULL", PARTY),
    "flag.access.restricted_country": (
        f"action <> 'denied' AND {_restricted(COUNTRY)}",
        f"{PARTY} || '|' || {_ids(('country', COUNTRY))}",
    ),
    "flag.access.country_outside_authorization": (
        f"action <> 'denied' AND {_outside('a_remote_countries', COUNTRY)}",
        _ids(("authorization", "authorization_id"), ("country", COUNTRY)),
    ),
    "flag.access.method_outside_authorization": (
        f"action <> 'denied' AND {_outside('a_methods', '`method`')}",
        _ids(("authorization", "authorization_id"), ("method", "`method`")),
    ),
    "gap.authorization.not_in_force": (
        "action <> 'denied' AND authorization_id IS NOT NULL AND authorization_version IS NULL",
        UNDER,
    ),
    "flag.authorization.party_not_covered": _ALLOCATION["flag.authorization.party_not_covered"],
}
_PLACEMENT: Rules = {
    "gap.location.site_unknown": (
        "site_id IS NULL OR site_version IS NULL",
        "COALESCE('site:' || site_id, 'source:' || source)",
    ),
    "gap.location.no_reverification": (
        "action = 'moved' AND from_site_id <> site_id AND reverification_id IS NULL",
        _ids(("workload", "workload_id")),
    ),
    "flag.location.outside_authorization": _ALLOCATION["flag.location.outside_authorization"],
    "gap.authorization.not_in_force": (
        "authorization_id IS NOT NULL AND authorization_version IS NULL",
        UNDER,
    ),
}
_SERIALS: Rules = {
    "gap.procurement.serial_unknown": ("action = 'allocated' AND asset_version IS NULL", _SERIAL),
    "flag.procurement.asset_not_installed": (
        "action = 'allocated' AND x_status IN ('lost', 'retired')",
        _SERIAL,
    ),
    "flag.procurement.model_mismatch": ("x_model <> model", _SERIAL),
}

"""The contract's row rules (section 4) as plain Python, one event at a time: what every peer runs.

Written for speed as one would without knowing of columns: each stream asks only what concerns it, models are
looked up once, and what is null is skipped first.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from benchmarks.peers.versions import Fields, References
from schemas import models
from schemas.countries import RESTRICTED, country

MINUTE = 60_000_000  # µs
AHEAD, SCREENED = 5 * MINUTE, 30 * 24 * 60 * MINUTE

Firing = tuple[str, str]
"""Rule id and subject."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNTIL: dict[str, int | None] = {
    code: None if until is None else round((until - _EPOCH).total_seconds()) * 1_000_000
    for code, until in RESTRICTED.items()
}

model_key = cache(models.model_key)
is_controlled = cache(models.is_controlled)
is_unknown = cache(models.is_unknown)


@dataclass(slots=True)
class Joined:
    """What an event's ids lead to at its time: `t` and `future`, its party, the versions in force."""

    t: int
    future: bool
    candidates: list[str]
    party: str | None
    subject: str
    p: Fields | None
    a: Fields | None
    s: Fields | None


def join(references: References, event: Fields, broker_time: int) -> Joined:
    """Resolves the party and takes the versions in force. `event["occurred_at"]` and `broker_time` are µs."""
    t = event["occurred_at"]
    candidates = references.parties_of(event, t)
    party = candidates[0] if len(candidates) == 1 else None
    return Joined(
        t,
        t - broker_time > AHEAD,
        candidates,
        party,
        _subject(event, party),
        references.parties.in_force(party, t),
        references.authorizations.in_force(event.get("authorization_id"), t),
        references.sites.in_force(event.get("site_id"), t),
    )


def judge(references: References, stream: str, event: Fields, joined: Joined) -> list[Firing]:
    """The row rules that fire as the event lands, with their subjects."""
    fired: list[Firing] = []
    allocated = stream == "allocation" and event["action"] == "allocated"
    if joined.future:
        fired.append(("gap.source.clock", f"source:{event['source']}"))
    _identity(fired, stream, event, joined, allocated)
    if stream == "access":
        _access(fired, event, joined)
    else:
        _location(fired, stream, event, joined)
    _authorization(fired, stream, event, joined, allocated)
    if stream != "access" and event.get("serials"):
        _serials(fired, references, stream, event, joined.t, allocated)
    return fired


def _subject(event: Fields, party: str | None) -> str:
    if party is not None:
        return f"party:{party}"
    for name, prefix in (("party_id", "party"), ("principal", "principal"), ("allocation_id", "allocation")):
        if event.get(name) is not None:
            return f"{prefix}:{event[name]}"
    return f"event:{event['source']}/{event['event_id']}"


def is_restricted(code: str | None, t: int) -> bool:
    """Whether the country is in the restricted set at `t` (UTC µs since the epoch); null is in no set."""
    if code is None:
        return False
    normal = country(code)
    if normal not in _UNTIL:
        return False
    until = _UNTIL[normal]
    return until is None or t < until


def _identity(fired: list[Firing], stream: str, event: Fields, joined: Joined, allocated: bool) -> None:
    p, t, subject = joined.p, joined.t, joined.subject
    if p is None:
        if joined.candidates:
            fired.append(("flag.identity.ambiguous", f"principal:{event['principal']}"))
            return
        names_somebody = event.get("party_id") is not None or event.get("principal") is not None
        if names_somebody or event.get("allocation_id") is None or allocated:
            fired.append(("gap.identity.unknown", subject))
        return
    if p["status"] != "verified":
        fired.append(("flag.identity.not_verified", subject))
    if p["review_due_at"] is not None and p["review_due_at"] < t:
        fired.append(("gap.identity.stale", subject))
    if p["screened_at"] is None or p["screened_at"] < t - SCREENED:
        fired.append(("gap.identity.unscreened", subject))
    if p["screening_disposition"] == "match":
        fired.append(("flag.identity.screening_match", subject))
    controlled = allocated and is_controlled(event.get("model"))
    restricted = is_restricted(p["hq_country"], t) or is_restricted(p["parent_hq_country"], t)
    if restricted and (stream == "access" or controlled):
        fired.append(("flag.identity.restricted_hq", subject))
    if controlled and p["hq_country"] is None:
        fired.append(("gap.identity.hq_unknown", subject))
    broker = event.get("broker_id")
    if broker is not None and stream != "placement" and broker not in (p["brokers"] or ()):
        fired.append(("flag.access.broker_unregistered", f"{subject}|broker:{broker}"))


def _access(fired: list[Firing], event: Fields, joined: Joined) -> None:
    method, action = event.get("method"), event["action"]
    if method is None and action == "opened":
        fired.append(("gap.access.method_missing", f"source:{event['source']}"))
    if method == "brokered" and event.get("broker_id") is None:
        fired.append(("gap.access.broker_unnamed", joined.subject))
    if action == "denied":
        return
    sent, a = event.get("source_country"), joined.a
    if is_restricted(sent, joined.t):
        fired.append(("flag.access.restricted_country", f"{joined.subject}|country:{country(sent or '')}"))
    if a is None:
        return
    under, allowed, methods = (
        f"authorization:{event['authorization_id']}",
        a["remote_countries"],
        a["methods"],
    )
    if sent is not None and allowed is not None and country(sent) not in allowed:
        fired.append(("flag.access.country_outside_authorization", f"{under}|country:{country(sent)}"))
    if method is not None and methods is not None and method not in methods:
        fired.append(("flag.access.method_outside_authorization", f"{under}|method:{method}"))


def _location(fired: list[Firing], stream: str, event: Fields, joined: Joined) -> None:
    site, a = event.get("site_id"), joined.a
    if stream == "placement":
        if joined.s is None:
            subject = f"source:{event['source']}" if site is None else f"site:{site}"
            fired.append(("gap.location.site_unknown", subject))
        came_from = event.get("from_site_id")
        elsewhere = came_from is not None and site is not None and came_from != site
        if elsewhere and event["action"] == "moved" and event.get("reverification_id") is None:
            fired.append(("gap.location.no_reverification", f"workload:{event['workload_id']}"))
    if a is not None and site is not None and a["site_ids"] is not None and site not in a["site_ids"]:
        subject = f"authorization:{event['authorization_id']}|site:{site}"
        fired.append(("flag.location.outside_authorization", subject))


def _authorization(fired: list[Firing], stream: str, event: Fields, joined: Joined, allocated: bool) -> None:
    a, named = joined.a, event.get("authorization_id")
    if a is None:
        if allocated and is_controlled(event.get("model")):
            fired.append(("gap.authorization.missing", f"allocation:{event['allocation_id']}"))
        asks = stream == "placement" or (stream == "access" and event["action"] != "denied")
        if asks and named is not None:
            fired.append(("gap.authorization.not_in_force", f"authorization:{named}"))
        return
    under, party, model = f"authorization:{named}", joined.party, event.get("model")
    parties = a["party_ids"]
    if stream != "placement" and party is not None and parties is not None and party not in parties:
        fired.append(("flag.authorization.party_not_covered", f"{under}|party:{party}"))
    if model is not None and a["models"] is not None and model_key(model) not in a["models"]:
        fired.append(("flag.authorization.item_not_covered", f"{under}|model:{model}"))
    if allocated:
        for condition in a["conditions"] or ():
            due, met = condition["due_at"], condition["met_at"]
            if due is not None and due < joined.t and (met is None or met > joined.t):
                subject = f"{under}|condition:{condition['condition_id'] or ''}"
                fired.append(("gap.authorization.condition_overdue", subject))


def _serials(
    fired: list[Firing], references: References, stream: str, event: Fields, t: int, allocated: bool
) -> None:
    site, model = event.get("site_id"), event.get("model")
    key = None if model is None else model_key(model)
    for serial in dict.fromkeys(event["serials"]):
        x = references.assets.in_force(serial, t)
        if x is None:
            if allocated:
                fired.append(("gap.procurement.serial_unknown", f"serial:{serial}"))
            continue
        if site is not None and x["site_id"] is not None and x["site_id"] != site:
            fired.append(("flag.location.asset_elsewhere", f"serial:{serial}"))
        if allocated and x["status"] in ("lost", "retired"):
            fired.append(("flag.procurement.asset_not_installed", f"serial:{serial}"))
        if key is not None and x["model"] is not None and model_key(x["model"]) != key:
            fired.append(("flag.procurement.model_mismatch", f"serial:{serial}"))

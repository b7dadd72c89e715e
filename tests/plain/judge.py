"""One event: its resolved columns and the row rules that fire as it lands (contract sections 3 and 4)."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.plain.references import Things, Version


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE
KH_LEFT = 1_770_076_800 * SECOND  # 2026-02-03T00:00:00Z, CTY-04 of rules/citations.toml
# Country Group D:5 (Supplement No. 1 to 15 CFR part 740, 2026-07-23), Macau, and Hong Kong as China
HQSET = _words("AF BY CD CF CN CU ER HK HT IQ IR KP LB LY MM MO NI RU SD SO SS SY VE ZW")
CATALOGUE = Path(__file__).resolve().parents[2] / "schemas" / "accelerators.csv"


def _squeeze(model: str) -> str:
    return model.lower().replace(" ", "").replace("-", "").replace("_", "")


def _catalogue() -> tuple[dict[str, str], dict[str, str]]:
    """Spelling to catalogue name, and catalogue name to class."""
    spellings, classes = {}, {}
    with CATALOGUE.open(newline="") as file:
        for row in csv.DictReader(file):
            name = row["name"]
            classes[name] = row["class"]
            spellings[_squeeze(name)] = name
            spellings[_squeeze(name.split(" ", 1)[1])] = name  # without the maker's name
    return spellings, classes


SPELLINGS, CLASSES = _catalogue()


def sku(model: str) -> str:
    """What models are compared by: the catalogue's name where it has one, else the squeezed spelling."""
    squeezed = _squeeze(model)
    return SPELLINGS.get(squeezed, squeezed)


def controlled(model: str | None) -> bool:
    return model is None or CLASSES.get(sku(model)) != "none"


def sku_unknown(model: str | None) -> bool:
    return model is None or CLASSES.get(sku(model), "unknown") == "unknown"


def country(code: str) -> str:
    upper = code.upper()
    return "CN" if upper == "HK" else upper


def restricted(code: str | None, t: int) -> bool:
    if code is None:
        return False
    return country(code) in HQSET or (country(code) == "KH" and t < KH_LEFT)


@dataclass
class Judged:
    """What the row of an accepted event says beyond its fields, and what fired."""

    party_id: str | None = None
    party_version: int | None = None
    authorization_version: int | None = None
    site_version: int | None = None
    sku_unknown: bool | None = None
    future: bool = False
    firings: set[tuple[str, str]] = field(default_factory=set)  # rule id, subject

    @property
    def verdicts(self) -> list[str]:
        return sorted({rule for rule, _ in self.firings})


def candidates(fields: dict[str, Any], t: int, things: dict[str, Things]) -> set[str]:
    """Parties with a version in force at `t` that an event's party_id, else its principal, leads to."""
    if fields["party_id"] is not None:
        named = {fields["party_id"]}
    elif fields["principal"] is not None:
        named = things["principal"].bound_parties(fields["principal"], t)
    else:
        named = set()
    return {party for party in named if things["party"].in_force(party, t) is not None}


def resolve(fields: dict[str, Any], t: int, things: dict[str, Things]) -> str | None:
    """The one party that an event's party_id, else its principal, leads to at `t`."""
    found = candidates(fields, t, things)
    return next(iter(found)) if len(found) == 1 else None


class Event:
    """An accepted event with the versions in force at its time."""

    def __init__(
        self,
        stream: str,
        fields: dict[str, Any],
        broker_time: int,
        things: dict[str, Things],
        completed: bool,
    ) -> None:
        self.stream = stream
        self.fields = fields
        self.completed = completed
        self.t: int = fields["occurred_at"]
        self.action: str = fields["action"]
        self.future = self.t - broker_time > 5 * MINUTE
        self.candidates = candidates(fields, self.t, things)
        self.party = resolve(fields, self.t, things)
        self.p = self._fields(things["party"].in_force(self.party, self.t))
        self.a = self._fields(things["authorization"].in_force(fields["authorization_id"], self.t))
        self.s = self._fields(things["site"].in_force(fields["site_id"], self.t))
        self.serials: list[str] = sorted(set(fields.get("serials") or []))
        self.x = {serial: self._fields(things["asset"].in_force(serial, self.t)) for serial in self.serials}

    @staticmethod
    def _fields(version: Version | None) -> dict[str, Any] | None:
        return None if version is None else version.fields

    def __getattr__(self, name: str) -> Any:
        """A field of the event; null where its stream has none of that name."""
        if name == "fields":
            raise AttributeError(name)
        return self.fields.get(name)

    @property
    def subject(self) -> str:
        """*party* as a subject."""
        if self.party is not None:
            return f"party:{self.party}"
        if self.party_id is not None:
            return f"party:{self.party_id}"
        if self.principal is not None:
            return f"principal:{self.principal}"
        if self.allocation_id is not None:
            return f"allocation:{self.allocation_id}"
        return f"event:{self.source}/{self.event_id}"


def _number(version: dict[str, Any] | None) -> int | None:
    return None if version is None else int(version["version"])


def judge(
    stream: str,
    fields: dict[str, Any],
    broker_time: int,
    things: dict[str, Things],
    completed: bool = False,
) -> Judged:
    """All row rules over one event.

    At landing what an allocation would add is not known yet. `completed` says that it is: the fields hold it,
    or there is none to add, and no rule waits for it (section 3.2).
    """
    event = Event(stream, fields, broker_time, things, completed)
    judged = Judged(
        party_id=event.party,
        party_version=_number(event.p),
        authorization_version=_number(event.a),
        site_version=_number(event.s),
        sku_unknown=sku_unknown(event.model) if stream == "allocation" else None,
        future=event.future,
    )
    for rules in (identity, access, location, authorization, procurement, source):
        judged.firings.update(rules(event))
    return judged


Firings = Iterator[tuple[str, str]]


def identity(event: Event) -> Firings:
    allocated = event.stream == "allocation" and event.action == "allocated"
    if not event.candidates:
        names_nobody = event.party_id is None and event.principal is None
        waits = names_nobody and event.allocation_id is not None and not allocated
        if event.completed or not waits:
            yield "gap.identity.unknown", event.subject
    if len(event.candidates) > 1:
        yield "flag.identity.ambiguous", f"principal:{event.principal}"
    p = event.p
    if p is None:
        return
    if p["status"] != "verified":
        yield "flag.identity.not_verified", event.subject
    if p["review_due_at"] is not None and p["review_due_at"] < event.t:
        yield "gap.identity.stale", event.subject
    if p["screened_at"] is None or p["screened_at"] < event.t - 30 * DAY:
        yield "gap.identity.unscreened", event.subject
    if p["screening_disposition"] == "match":
        yield "flag.identity.screening_match", event.subject
    hq = restricted(p["hq_country"], event.t) or restricted(p["parent_hq_country"], event.t)
    if hq and (event.stream == "access" or (allocated and controlled(event.model))):
        yield "flag.identity.restricted_hq", event.subject
    if allocated and p["hq_country"] is None and controlled(event.model):
        yield "gap.identity.hq_unknown", event.subject


def access(event: Event) -> Firings:
    unregistered = event.p is not None and event.broker_id not in (event.p["brokers"] or [])
    if event.stream in ("access", "allocation") and event.broker_id is not None and unregistered:
        yield "flag.access.broker_unregistered", f"{event.subject}|broker:{event.broker_id}"
    if event.stream != "access":
        return
    if event.action == "opened" and event.method is None:
        yield "gap.access.method_missing", f"source:{event.source}"
    if event.method == "brokered" and event.broker_id is None:
        yield "gap.access.broker_unnamed", event.subject
    if event.action == "denied":
        return
    code = event.source_country
    if restricted(code, event.t):
        yield "flag.access.restricted_country", f"{event.subject}|country:{country(code)}"
    if event.a is None:
        return
    under = f"authorization:{event.authorization_id}"
    allowed = event.a["remote_countries"]
    if code is not None and allowed is not None and country(code) not in [country(one) for one in allowed]:
        yield "flag.access.country_outside_authorization", f"{under}|country:{country(code)}"
    methods = event.a["methods"]
    if event.method is not None and methods is not None and event.method not in methods:
        yield "flag.access.method_outside_authorization", f"{under}|method:{event.method}"


def location(event: Event) -> Firings:
    if event.stream == "access":
        return
    site = event.site_id
    if event.stream == "placement":
        if event.s is None:
            yield (
                "gap.location.site_unknown",
                f"source:{event.source}" if site is None else f"site:{site}",
            )
        elsewhere = event.from_site_id is not None and site is not None and event.from_site_id != site
        if event.action == "moved" and elsewhere and event.reverification_id is None:
            yield "gap.location.no_reverification", f"workload:{event.workload_id}"
    if site is None:
        return
    if event.a is not None and event.a["site_ids"] is not None and site not in event.a["site_ids"]:
        yield (
            "flag.location.outside_authorization",
            f"authorization:{event.authorization_id}|site:{site}",
        )
    for serial, x in event.x.items():
        if x is not None and x["site_id"] is not None and x["site_id"] != site:
            yield "flag.location.asset_elsewhere", f"serial:{serial}"


def authorization(event: Event) -> Firings:
    a, under = event.a, f"authorization:{event.authorization_id}"
    allocated = event.stream == "allocation" and event.action == "allocated"
    if allocated and a is None and controlled(event.model):
        yield "gap.authorization.missing", f"allocation:{event.allocation_id}"
    covers = event.stream == "placement" or (event.stream == "access" and event.action != "denied")
    if covers and event.authorization_id is not None and a is None:
        yield "gap.authorization.not_in_force", under
    if a is None:
        return
    parties, models = a["party_ids"], a["models"]
    asks_party = event.stream in ("allocation", "access") and event.party is not None
    if asks_party and parties is not None and event.party not in parties:
        yield "flag.authorization.party_not_covered", f"{under}|party:{event.party}"
    asks_model = event.stream == "allocation" and event.model is not None
    if asks_model and models is not None and sku(event.model) not in [sku(one) for one in models]:
        yield "flag.authorization.item_not_covered", f"{under}|model:{event.model}"
    if allocated:
        for condition in a["conditions"] or []:
            due, met = condition["due_at"], condition["met_at"]
            if due is not None and due < event.t and (met is None or met > event.t):
                yield (
                    "gap.authorization.condition_overdue",
                    f"{under}|condition:{condition['condition_id'] or ''}",
                )


def procurement(event: Event) -> Firings:
    if event.stream != "allocation":
        return
    for serial, x in event.x.items():
        if event.action == "allocated" and x is None:
            yield "gap.procurement.serial_unknown", f"serial:{serial}"
        if event.action == "allocated" and x is not None and x["status"] in ("lost", "retired"):
            yield "flag.procurement.asset_not_installed", f"serial:{serial}"
        known = x is not None and x["model"] is not None and event.model is not None
        if known and x is not None and sku(x["model"]) != sku(event.model):
            yield "flag.procurement.model_mismatch", f"serial:{serial}"


def source(event: Event) -> Firings:
    if event.future:
        yield "gap.source.clock", f"source:{event.source}"


ROW_RULES = _words("""
    gap.identity.unknown flag.identity.ambiguous flag.identity.not_verified gap.identity.stale
    gap.identity.unscreened flag.identity.screening_match flag.identity.restricted_hq gap.identity.hq_unknown
    gap.access.method_missing gap.access.broker_unnamed flag.access.broker_unregistered
    flag.access.restricted_country flag.access.country_outside_authorization
    flag.access.method_outside_authorization gap.location.site_unknown flag.location.outside_authorization
    flag.location.asset_elsewhere gap.location.no_reverification gap.authorization.missing
    gap.authorization.not_in_force flag.authorization.party_not_covered flag.authorization.item_not_covered
    gap.authorization.condition_overdue gap.procurement.serial_unknown flag.procurement.asset_not_installed
    flag.procurement.model_mismatch gap.source.clock
""")
"""The row rules of the contract's section 4."""

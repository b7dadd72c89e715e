"""Incidents that one record with its references shows: every row rule has one at least."""

from stream.simulation.clock import DAY, MINUTE, day, iso
from stream.simulation.columns import ARRIVAL
from stream.simulation.fleet import INCIDENT_MODEL, SISTER, SITE
from stream.simulation.incident import Found, incident
from stream.simulation.stage import Stage
from stream.simulation.world import IAM_REALM, Fields

# --- who ---


@incident("gap.identity.unknown")
def _unknown(s: Stage) -> Found:
    account = f"{IAM_REALM}:contractor-{s.number:04d}"
    s.change("opened", "call", "closed", principal=account)
    return f"principal:{account}", f"{account} worked on {s.name}'s accelerators and was never onboarded."


@incident("flag.identity.ambiguous")
def _ambiguous(s: Stage) -> Found:
    shared = s.bind(IAM_REALM, s.party_id)
    other = s.new_party()[0]
    s.bind(IAM_REALM, other["party_id"], shared)
    s.change("opened", "call", "closed", principal=shared)
    return (
        f"principal:{shared}",
        f"The account {shared} belongs to {s.name} and to {other['legal_name']} at once.",
    )


@incident("flag.identity.not_verified")
def _suspended(s: Stage) -> Found:
    s.set_party(status="suspended")
    return f"party:{s.party_id}", f"{s.name} is suspended and was given accelerators all the same."


@incident("gap.identity.stale")
def _stale(s: Stage) -> Found:
    due = s.world.start - 3 * DAY
    s.set_party(review_due_at=iso(due))
    return f"party:{s.party_id}", f"{s.name} was due for review on {day(due)}; nobody has reviewed it."


@incident("gap.identity.unscreened")
def _unscreened(s: Stage) -> Found:
    last = s.world.start - 45 * DAY
    s.set_party(screened_at=iso(last))
    return f"party:{s.party_id}", f"{s.name} was last screened on {day(last)}, more than 30 days before."


@incident("flag.identity.screening_match")
def _match(s: Stage) -> Found:
    s.set_party(screening_disposition="match")
    return f"party:{s.party_id}", f"{s.name} matches an entry of a sanctions list and still runs."


@incident("flag.identity.restricted_hq")
def _headquarters(s: Stage) -> Found:
    s.set_party(hq_country="CN")
    return f"party:{s.party_id}", f"{s.name}, a Japanese company by its papers, has its headquarters in CN."


@incident("flag.identity.restricted_hq")
def _parent(s: Stage) -> Found:
    s.set_party(parent_name="Pearl Delta Holdings", parent_hq_country="HK")
    return f"party:{s.party_id}", f"{s.name} is owned by Pearl Delta Holdings of HK, which counts as CN."


@incident("gap.identity.hq_unknown")
def _no_headquarters(s: Stage) -> Found:
    s.set_party(hq_country=None)
    return f"party:{s.party_id}", f"Nobody has recorded where {s.name} has its headquarters."


# --- how ---


@incident("gap.access.method_missing")
def _no_method(s: Stage) -> Found:
    source = s.new_source("vpn", ["access"])
    s.change("opened", "call", "closed", source=source, method=None)
    s.beats(source, s.world.start, s.world.end)
    return f"source:{source}", f"{source} reports sessions without saying how they came in."


@incident("gap.access.broker_unnamed")
def _no_broker(s: Stage) -> Found:
    s.change("opened", "call", "closed", method="brokered")
    return f"party:{s.party_id}", f"{s.name} comes in through a broker that no record names."


@incident("flag.access.broker_unregistered")
def _wrong_broker(s: Stage) -> Found:
    broker = f"P-{s.world.number():06d}"
    s.change("opened", "call", "closed", method="brokered", broker_id=broker)
    return (
        f"party:{s.party_id}|broker:{broker}",
        f"{s.name} comes in through {broker}, which is not its broker.",
    )


@incident("flag.access.restricted_country")
def _restricted(s: Stage) -> Found:
    s.change("call", source_country="IR", source_ip="203.0.113.9")
    return f"party:{s.party_id}|country:IR", f"A session of {s.name} continued from an address in IR."


@incident("flag.access.restricted_country")
def _hong_kong(s: Stage) -> Found:
    s.change(
        "call", source_country="hk", source_ip="203.0.113.14", operation="weight_export", bytes_out=68_719_476
    )
    return (
        f"party:{s.party_id}|country:CN",
        f"{s.name} exported weights to an address in HK, which counts as CN.",
    )


@incident("flag.access.country_outside_authorization")
def _country(s: Stage) -> Found:
    s.authorization["remote_countries"] = ["JP", "KR"]
    s.change("call", source_country="SG", source_ip="198.51.100.31")
    sentence = f"{s.name} may work from JP and KR and worked from SG."
    return f"authorization:{s.authorization_id}|country:SG", sentence


@incident("flag.access.method_outside_authorization")
def _method(s: Stage) -> Found:
    s.authorization["methods"] = ["direct"]
    sentence = f"{s.name} may come in directly only and came in remotely."
    return f"authorization:{s.authorization_id}|method:remote", sentence


# --- where ---


@incident("gap.location.site_unknown")
def _nowhere(s: Stage) -> Found:
    s.change("started", "stopped", site_id="hakodate-9", serials=None)
    return "site:hakodate-9", f"A workload of {s.name} ran at hakodate-9, a site that nobody has registered."


@incident("flag.location.outside_authorization")
def _elsewhere(s: Stage) -> Found:
    s.authorization["site_ids"] = [SISTER]
    sentence = f"{s.name} may use {SISTER} only and was given accelerators at {SITE}."
    return f"authorization:{s.authorization_id}|site:{SITE}", sentence


@incident("flag.location.asset_elsewhere")
def _asset_moved(s: Stage) -> Found:
    s.assets[2]["site_id"] = SISTER
    serial = s.assets[2]["serial"]
    return f"serial:{serial}", f"Accelerator {serial} is booked at {SISTER} and was handed out at {SITE}."


@incident("gap.location.no_reverification")
def _moved(s: Stage) -> Found:
    to: Fields = {"from_site_id": SITE, "site_id": SISTER, "node": None}
    moves = {"action": "moved", "serials": None, "reason": "power"} | to
    s.add("moved", "started", (s.start + s.end) // 2 // 1000 * 1000, moves)
    s.change("stopped", site_id=SISTER, node=None)
    workload = s.row("moved")["workload_id"]
    return (
        f"workload:{workload}",
        f"Workload {workload} moved from {SITE} to {SISTER} and nobody checked it again.",
    )


# --- under what ---


@incident("gap.authorization.missing")
def _unauthorized(s: Stage) -> Found:
    s.change(*s.rows, authorization_id=None)
    return (
        f"allocation:{s.allocation_id}",
        f"{s.name} was given eight {INCIDENT_MODEL} under no authorization.",
    )


@incident("gap.authorization.not_in_force")
def _expired(s: Stage) -> Found:
    old = f"AUTH-{s.world.number():06d}"
    ended = s.world.start - 2 * DAY
    dates = {"authorization_id": old, "valid_to": iso(ended)}
    s.world.references["authorization"].append(s.authorization | dates)
    s.change("opened", "call", "closed", authorization_id=old)
    return f"authorization:{old}", f"{s.name} still comes in under {old}, which ended on {day(ended)}."


@incident("flag.authorization.party_not_covered")
def _not_covered(s: Stage) -> Found:
    other = s.new_party()[0]
    s.authorization["party_ids"] = [other["party_id"]]
    sentence = f"{s.name} runs under the authorization of {other['legal_name']}."
    return f"authorization:{s.authorization_id}|party:{s.party_id}", sentence


@incident("flag.authorization.item_not_covered")
def _item(s: Stage) -> Found:
    s.authorization["models"] = ["NVIDIA H100 SXM"]
    sentence = f"{s.name} may use H100 and was given {INCIDENT_MODEL}."
    return f"authorization:{s.authorization_id}|model:{INCIDENT_MODEL}", sentence


@incident("gap.authorization.condition_overdue")
def _overdue(s: Stage) -> Found:
    due = s.world.start - 5 * DAY
    s.authorization["conditions"] = [{"condition_id": "site-audit", "due_at": iso(due), "met_at": None}]
    sentence = f"The site audit that {s.name}'s authorization asks for was due on {day(due)}."
    return f"authorization:{s.authorization_id}|condition:site-audit", sentence


# --- with what ---


@incident("gap.procurement.serial_unknown")
def _serial(s: Stage) -> Found:
    serial = f"1699999{s.number:06d}"
    for name in ("allocated", "started"):
        s.change(name, serials=[*s.node.serials[:-1], serial])
    return f"serial:{serial}", f"Accelerator {serial} runs in {s.node.name} and was never received."


@incident("flag.procurement.asset_not_installed")
def _lost(s: Stage) -> Found:
    s.assets[5]["status"] = "lost"
    serial = s.assets[5]["serial"]
    return f"serial:{serial}", f"Accelerator {serial} was reported lost and was handed out to {s.name}."


@incident("flag.procurement.model_mismatch")
def _mismatch(s: Stage) -> Found:
    s.assets[0]["model"] = "NVIDIA H200 SXM"
    serial = s.assets[0]["serial"]
    return (
        f"serial:{serial}",
        f"Accelerator {serial} was bought as H200 and is handed out as {INCIDENT_MODEL}.",
    )


# --- the telemetry itself ---


@incident("gap.source.clock", state="provisional")  # no watermark reaches a time that is still to come
def _clock(s: Stage) -> Found:
    source = s.new_source("console", ["access"])
    s.change("opened", "call", "closed", source=source)
    s.beats(source, s.world.start, s.world.end)
    sent, dated = s.end - MINUTE, s.world.end + 40 * MINUTE
    refused: Fields = {"action": "denied", "allocation_id": None, "authorization_id": None}
    s.add("ahead", "opened", dated, refused | {"session_id": None})[ARRIVAL] = sent
    sentence = f"The clock of {source} jumped ahead: at {iso(sent)} it dated a record {iso(dated)}."
    return f"source:{source}", sentence

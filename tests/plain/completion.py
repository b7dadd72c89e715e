"""Row rules on events that are judged through the allocation they name (contract section 3.2)."""

from dataclasses import dataclass

from tests.plain.chain import Chains
from tests.plain.judge import judge
from tests.plain.landed import Landed
from tests.plain.references import Things


@dataclass
class Completed:
    """What an event's row says once its allocation is looked at."""

    party_id: str | None
    """the party it was judged with"""
    firings: set[tuple[str, str]]
    """rule id and subject of what did not fire at landing"""
    due: int | None = None
    """when they are decided; null: at once"""


def complete(event: Landed, chains: Chains, things: dict[str, Things]) -> Completed:
    """The event's party, and what fires beyond its verdicts."""
    lacks_party = event.party_id is None and event.principal is None
    lacks_authorization = event.authorization_id is None
    as_sent = Completed(event.judged.party_id, set())
    if event.allocated or event.allocation_id is None or not (lacks_party or lacks_authorization):
        return as_sent
    allocated = chains.in_effect(event.allocation_id, event.t)
    if allocated is None and not lacks_party:
        return as_sent
    fields = dict(event.fields)
    if allocated is not None and lacks_party:
        fields["party_id"], fields["principal"] = allocated.party_id, allocated.principal
    if allocated is not None and lacks_authorization:
        fields["authorization_id"] = allocated.authorization_id
    judged = judge(event.stream, fields, event.broker_time, things, completed=True)
    further = {firing for firing in judged.firings if firing[0] not in event.judged.verdicts}
    return Completed(judged.party_id, further, due=event.t if allocated is None else None)

"""A planted incident, and the register of their builders.

A builder changes one thing on a stage of its own and returns the subject of the finding (contract
section 4) and a sentence for people. It is registered under the rule that must find it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from stream.simulation.stage import Stage

RECONCILER = "reconciler"
"""`needs` of an incident that one record alone cannot show."""


@dataclass(frozen=True)
class Incident:
    """What must be found, and in which state once the last tick has come."""

    rule_id: str
    subject: str
    sentence: str
    needs: str | None
    state: str = "confirmed"


Found = tuple[str, str]
Builder = Callable[[Stage], Found]
BUILDERS: list[tuple[str, str | None, str, Builder]] = []


def incident(
    rule_id: str, needs: str | None = None, state: str = "confirmed"
) -> Callable[[Builder], Builder]:
    """Registers a builder."""

    def register(builder: Builder) -> Builder:
        BUILDERS.append((rule_id, needs, state, builder))
        return builder

    return register

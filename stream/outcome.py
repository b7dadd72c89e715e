"""What a demo did, and how what is in its lake compares with what was planted."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from sinks.views import connect
from stream.simulation.incident import Incident


@dataclass(frozen=True)
class Finding:
    """One finding, the first event that proves it, and the planted incident it shows.

    `sentence` is None where nobody planted it; `alone` is whether one record and the papers show it.
    """

    rule_id: str
    severity: str
    state: str
    subject: str
    events: int
    proof: str | None
    sentence: str | None
    alone: bool


@dataclass
class Outcome:
    """What a demo did. `seconds` by stage; `missing` was planted and not found, or in another state.

    `twice` counts records that landed twice, `duplicates` those that were sent twice. `coverage` is the share
    of accelerator-seconds with all four links, `reasons` the share that lacks each. `traced` is the id of an
    allocation worth a trace.
    """

    lake: str
    broker: str
    workers: int = 0
    shipped: int = 0
    landed: int = 0
    rejected: int = 0
    duplicates: int = 0
    twice: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    missing: list[Incident] = field(default_factory=list)
    coverage: float | None = None
    reasons: dict[str, float] = field(default_factory=dict)
    traced: str | None = None

    @property
    def unplanted(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.sentence is None]

    @property
    def ok(self) -> bool:
        """Every record landed once, and exactly what was planted was found."""
        complete = self.landed == self.shipped and self.twice == 0
        return complete and not self.missing and not self.unplanted

    def compare(self, incidents: Sequence[Incident]) -> None:
        """Reads the lake and holds it against what was planted."""
        self.landed, self.rejected, self.twice, self.duplicates = rows(self.lake, _COUNTS)[0]
        planted = {(i.rule_id, i.subject, i.state): i for i in incidents}
        for row in rows(self.lake, _FINDINGS):
            rule_id, severity, state, subject, events = row[:5]
            incident = planted.pop((rule_id, subject, state), None)
            sentence = None if incident is None else incident.sentence
            alone = incident is not None and incident.needs is None
            proof = _proof(*row[5:])
            self.findings.append(Finding(rule_id, severity, state, subject, events, proof, sentence, alone))
        self.missing = list(planted.values())
        self.coverage, self.reasons = _coverage(self.lake)
        self.traced = next(
            (i.subject.removeprefix("allocation:") for i in incidents if i.rule_id == _TRACED), None
        )


def rows(lake: Path | str, query: str) -> Sequence[Sequence[Any]]:
    with contextlib.closing(connect(lake)) as connection:
        return connection.execute(query).fetchall()


_TRACED = "flag.access.after_release"

_COUNTS = """
SELECT count(*), count(*) FILTER (disposition = 'rejected'),
  count(*) - count(DISTINCT (topic, "partition", "offset")), (SELECT count(*) FROM duplicate) FROM raw
"""

_FINDINGS = """
SELECT f.rule_id, f.severity, f.state, f.subject, f.events,
  e.source, e.event_id, e.occurred_at, e.topic, e."partition", e."offset"
FROM finding f LEFT JOIN (
  FROM finding_event
  QUALIFY row_number() OVER (PARTITION BY finding_id ORDER BY occurred_at, topic, "partition", "offset") = 1
) e ON e.finding_id = f.finding_id
ORDER BY f.rule_id, f.subject
"""

_COVERAGE = """
WITH weighed AS (
  SELECT reasons, accelerators::HUGEINT * (epoch_us(to_at) - epoch_us(from_at)) AS weight FROM coverage)
SELECT NULL AS reason, sum(weight) FROM weighed
UNION ALL SELECT '', sum(weight) FROM weighed WHERE len(reasons) = 0
UNION ALL SELECT reason, sum(weight) FROM weighed, unnest(reasons) AS missing(reason) GROUP BY reason
"""


def _proof(*event: Any) -> str | None:
    source, event_id, at, topic, partition, offset = event
    if topic is None:
        return None
    place = f"{topic}/{partition}/{offset}"
    return place if at is None else f"{source} {event_id} at {at.astimezone(UTC):%H:%M:%S} ({place})"


def _coverage(lake: Path | str) -> tuple[float | None, dict[str, float]]:
    """The covered share, and for each link the share that lacks it, the largest first."""
    weights: Mapping[str | None, Any] = {reason: weight or 0 for reason, weight in rows(lake, _COVERAGE)}
    total = float(weights[None])
    if not total:
        return None, {}
    shares = {reason: float(weight) / total for reason, weight in weights.items() if reason is not None}
    covered = shares.pop("")
    return covered, dict(sorted(shares.items(), key=lambda item: -item[1]))


def queries() -> list[tuple[str, str]]:
    """What to look at next: a question, and SQL that answers it."""
    return [
        (
            "what was found, and in how many records",
            "SELECT severity, rule_id, state, subject, events, message FROM finding ORDER BY rule_id",
        ),
        (
            "the record behind a finding, byte for byte as it came",
            "SELECT f.rule_id, decode(r.value) AS record FROM finding_event f JOIN raw r "
            "ON r.topic = f.topic AND r.partition = f.partition AND r.offset = f.offset "
            "WHERE f.rule_id = 'flag.access.restricted_country'",
        ),
        (
            "who used most, and with whose papers",
            "SELECT p.legal_name, a.party_id, count(*) AS allocations, sum(a.accelerators) AS accelerators "
            "FROM allocation a JOIN party p ON p.party_id = a.party_id AND p.version = a.party_version "
            "WHERE a.action = 'allocated' GROUP BY ALL ORDER BY accelerators DESC LIMIT 10",
        ),
        (
            "where coverage is lost",
            "SELECT allocation_id, reasons, sum(accelerators * epoch(to_at - from_at)) AS lost "
            "FROM coverage WHERE len(reasons) > 0 GROUP BY ALL ORDER BY lost DESC LIMIT 10",
        ),
        (
            "what could not be read, and why",
            "SELECT topic, reason, decode(payload) AS record FROM dead_letter",
        ),
    ]

"""The light work of a first look at a stream processor: one look-up, one comparison, nothing written."""

import contextlib
from pathlib import Path

from benchmarks.peers.meter import Meter
from sinks.views import connect

RESTRICTED = frozenset({"BY", "CN", "CU", "HK", "IR", "KP", "MO", "RU", "SY", "VE"})
"""Enough to look at a second field."""

_STATUSES = """
WITH party_status AS (SELECT party_id, arg_max(status, version) AS status FROM party GROUP BY party_id),
    bound AS (SELECT principal, arg_max(party_id, version) AS party_id FROM principal GROUP BY principal)
SELECT party_id, status FROM party_status
UNION ALL SELECT principal, status FROM bound JOIN party_status USING (party_id)
"""


class Lookup:
    """The status of each party, and of each principal's, by its last version, whenever the event was."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.fired = 0
        self._statuses = _statuses(meter.references)

    def judge(self, party: str | None, principal: str | None, country: str | None) -> bool:
        """Looks an event up; True when it was the last one."""
        status = self._statuses.get(party or principal or "")
        self.fired += status != "verified" or country in RESTRICTED
        return self._meter.count()


def _statuses(lake: Path) -> dict[str, str]:
    with contextlib.closing(connect(lake)) as connection:
        return dict(connection.execute(_STATUSES).fetchall())

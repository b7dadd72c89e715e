"""`sekisho triage`: what a person decides about a finding, kept beside what was found."""

import getpass
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from schemas.errors import SekishoError, UsageError
from sinks.lake import Lake
from sinks.views import reading
from stream.terminal import clean, iso, utf8

STATES = ("acknowledged", "dismissed", "escalated")
_KNOWN = "SELECT 1 FROM finding WHERE finding_id = $id LIMIT 1"
_HISTORY = 'SELECT "at", state, actor, reason FROM triage WHERE finding_id = $id ORDER BY "at", ingested_at'

Row = dict[str, Any]


@click.command("triage")
@click.option("--lake", type=click.Path(path_type=Path), required=True, help="Folder of the lake.")
@click.option("--state", type=click.Choice(STATES), help="What you decide.")
@click.option("--reason", callback=utf8, help="Why; kept with the decision.")
@click.option("--actor", callback=utf8, help="Who decides.  [default: your login name]")
@click.option("--list", "listing", is_flag=True, help="Show what was decided so far, and decide nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the decisions as one JSON array.")
@click.argument("finding", callback=utf8)
def command(
    lake: Path,
    state: str | None,
    reason: str | None,
    actor: str | None,
    listing: bool,
    as_json: bool,
    finding: str,
) -> None:
    """Record a decision about FINDING (its 32-digit id): acknowledged, dismissed or escalated, and why.

    A decision is added, never changed: the latest counts, the earlier stay. It does not touch the finding,
    whose state is what the records say. Exits 1 when there is no such finding.
    """
    finding = finding.lower()
    if listing:
        if state is not None or reason is not None:
            raise UsageError("--list decides nothing: leave --state and --reason out")
    elif state is None or reason is None or not reason.strip():
        raise UsageError(
            "say what you decide and why: --state acknowledged|dismissed|escalated --reason TEXT"
        )
    _require(lake, finding)
    if state is not None and reason is not None:
        at = datetime.now(UTC)
        row = {"finding_id": finding, "state": state, "reason": reason, "actor": _actor(actor), "at": at}
        Lake.open(lake, create=False).triage([row], at)
    _show(_decisions(lake, finding), as_json)


def _actor(given: str | None) -> str:
    if given is not None and given.strip():
        return given
    try:
        name = getpass.getuser()
        name.encode()
    except (KeyError, OSError, UnicodeEncodeError):
        raise UsageError("nobody is logged in by name here: say who decides with --actor NAME") from None
    return name


def _require(lake: Path, finding: str) -> None:
    with reading(lake) as connection:
        if connection.execute(_KNOWN, {"id": finding}).fetchone() is None:
            raise SekishoError(
                f'no finding {finding!r}; list them with sekisho sql --lake {lake} "FROM finding"'
            )


def _decisions(lake: Path, finding: str) -> list[Row]:
    """All of the finding, in order."""
    with reading(lake) as connection:
        rows = connection.execute(_HISTORY, {"id": finding}).fetchall()
    return [
        {
            "at": iso(at),
            "state": state,
            "actor": actor,
            "reason": reason,
        }
        for at, state, actor, reason in rows
    ]


def _show(decisions: Sequence[Row], as_json: bool) -> None:
    if as_json:
        print(json.dumps(decisions, ensure_ascii=False))
        return
    for decision in decisions:
        print(clean(f"{decision['at']}  {decision['state']}  by {decision['actor']}: {decision['reason']}"))
    if not decisions:
        print("nothing was decided yet")

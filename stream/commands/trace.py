"""`sekisho trace`: the custody timeline of one thing."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from sinks.trace import KINDS, Row, Trace, trace
from sinks.views import reading
from stream.terminal import STYLES, clean, iso, utf8

_LINKS = ("who", "how", "where", "under_what")


@click.command("trace")
@click.option("--lake", type=click.Path(path_type=Path), required=True, help="Folder of the lake.")
@click.option("--as", "kind", type=click.Choice(KINDS), help="What ID is, where it could be several things.")
@click.option(
    "--all", "every", is_flag=True, help="Print each call; else a session's quiet calls are one line."
)
@click.option("--json", "as_json", is_flag=True, help="Print the timeline as one JSON object.")
@click.argument("id", callback=utf8)
def command(lake: Path, kind: str | None, every: bool, as_json: bool, id: str) -> None:
    """Tell what is known of an accelerator (by its serial), party, allocation, workload, session or finding.

    In order of event time: what happened, who, how, where and under what, with the versions of the papers
    that were in force, and every finding on the way. Times are UTC. Exits 1 when nothing is known of ID.
    """
    with Console(stderr=True).status("tracing"), reading(lake) as connection:
        found = trace(connection, id, kind)
    if as_json:
        print(json.dumps(asdict(found), default=iso, ensure_ascii=False))
    else:
        console = Console(highlight=False)
        for line in lines(found, every):
            console.print(line, soft_wrap=True)


def lines(found: Trace, every: bool) -> Iterator[Text]:
    """The timeline as it is printed."""
    yield _head(found)
    day = None
    by_id = {finding["finding_id"]: finding for finding in found.findings}
    for entry in _in_order(found, every):
        at = entry["at"]
        if at is not None and at.date() != day:
            day = at.date()
            yield Text(f"\n{day}", "bold")
        yield from _paper(entry) if "lot_id" in entry else _event(entry, by_id)
    yield from _coverage(found.coverage)
    yield from _states(found)
    yield from _findings(found.findings)


def _head(found: Trace) -> Text:
    counts = Counter(event["stream"] for event in found.events)
    parts = [f"{count:,} {stream}" for stream, count in counts.items()] or ["no events"]
    return Text.assemble((f"{found.kind} {clean(found.id)}", "bold"), f"  {', '.join(parts)}")


def _in_order(found: Trace, every: bool) -> list[Row]:
    """Papers and events by time; calls without a finding are folded into the first of their session."""
    entries = [*found.papers]
    folded: dict[tuple[Any, ...], Row] = {}
    for event in found.events:
        session = _session(event)
        if every or session is None or event["findings"]:
            entries.append(event)
        elif session in folded:
            folded[session]["calls"] += 1
            folded[session]["until"] = event["at"]
            folded[session]["bytes_out"] += event["how"]["bytes_out"] or 0
        else:
            first = event | {"calls": 1, "until": event["at"], "bytes_out": event["how"]["bytes_out"] or 0}
            folded[session] = first
            entries.append(first)
    never = datetime.max.replace(tzinfo=UTC)
    return sorted(entries, key=lambda entry: entry["at"] or never)


def _session(event: Row) -> tuple[Any, ...] | None:
    """What makes calls belong together; None for what is no call."""
    if event["stream"] != "access" or event["action"] != "call":
        return None
    how, who = event["how"], event["who"]
    return event["source"], how["session_id"], event["allocation_id"], who["principal"], who["party_id_sent"]


def _event(event: Row, findings: dict[str, Row]) -> Iterator[Text]:
    at = _time(event["at"])
    if event["stream"] == "rejected":
        yield Text.assemble(f"{at}  ", ("rejected", "bold"), f"  {clean(event['reason'])}  {_place(event)}")
    else:
        what = f"{event['stream']} {event['action']}"
        yield Text.assemble(f"{at}  ", (f"{what:20}", "bold"), f"  {clean('  '.join(_subject(event)))}")
        told = [f"{link.replace('_', ' ')} {text}" for link in _LINKS if (text := _link(link, event))]
        yield Text(f"{'':17}{clean(' · '.join(told))}", "dim")
    for firing in event["findings"]:
        severity = findings.get(firing["finding_id"], {}).get("severity", "")
        yield Text.assemble(
            f"{'':17}",
            (f"▲ {severity} {firing['rule_id']}", STYLES.get(severity, "bold")),
            f"  {firing['state']}  {firing['finding_id']}",
        )


def _subject(event: Row) -> Iterator[str]:
    """What happened to what, by whose word."""
    for name in ("allocation_id", "workload_id"):
        if event[name] is not None:
            yield event[name]
    if event["accelerators"] is not None:
        yield f"{event['accelerators']:,} × {event['model'] or 'model not said'}"
    elif event["model"] is not None:
        yield event["model"]
    if event["serials"]:
        yield _some(event["serials"])
    if event.get("calls", 1) > 1:
        yield f"{event['calls']:,} calls until {_time(event['until'])}, {event['bytes_out']:,} bytes out"
    if event["future"]:
        yield "ahead of its broker's time"
    yield f"({event['source']}, {event['event_id']})"


def _link(link: str, event: Row) -> str:
    """One of the four links in words; empty where the event says nothing of it."""
    of = event[link]
    if link == "who":
        return _who(of)
    if link == "how":
        return _how(of, folded=event.get("calls", 1) > 1)
    if link == "where":
        parts = [
            _versioned(of["site_id"], of["site_version"]),
            of["node"],
            of["from_site_id"] and f"from {of['from_site_id']}",
        ]
        parts += [event["reason"], event["reverification_id"]]
        return " ".join(part for part in parts if part)
    through = of.get("through_allocation")
    return (
        f"{through} (through the allocation)"
        if through
        else _versioned(of["authorization_id"], of["authorization_version"])
    )


def _who(who: Row) -> str:
    if who.get("through_allocation"):
        return f"{who['through_allocation']} (through the allocation)"
    party = _versioned(who["party_id"], who["party_version"]) or "unresolved"
    named = who["principal"] or who["party_id_sent"]
    return f"{party} ({named})" if named and named != who["party_id"] else party


def _how(how: Row, folded: bool) -> str:
    said = [("method", ""), ("broker_id", "broker "), ("session_id", "session "), ("source_ip", "from ")]
    said += [("source_country", ""), ("requested_by", "requested by "), ("approved_by", "approved by ")]
    parts = [f"{word}{how[name]}" for name, word in said if how[name] is not None]
    if how["mfa"] is not None:
        parts.append("mfa" if how["mfa"] else "no mfa")
    if not folded:
        parts += [how["operation"]] if how["operation"] else []
        parts += [f"{how['bytes_out']:,} bytes out"] if how["bytes_out"] is not None else []
    return " ".join(parts)


def _versioned(name: str | None, version: int | None) -> str:
    if name is None:
        return ""
    return f"{name} v{version}" if version is not None else f"{name} (not in force)"


def _paper(paper: Row) -> Iterator[Text]:
    said = (paper["model"], paper["lot_id"], paper["supplier_party_id"], paper["site_id"], paper["status"])
    text = clean(" ".join(part for part in said if part))
    until = f" until {paper['until']:%Y-%m-%d}" if paper["until"] is not None else ""
    yield Text.assemble(
        f"{_time(paper['at'])}  ", (f"{'asset v' + str(paper['version']):20}", "bold"), f"  {text}{until}"
    )


def _coverage(pieces: Sequence[Row]) -> Iterator[Text]:
    if not pieces:
        return
    yield Text("\ncoverage", "bold")
    for piece in pieces:
        missing = ", ".join(reason.replace("_", " ") for reason in piece["reasons"])
        told, style = (f"missing {missing}", "yellow") if missing else ("covered", "green")
        span = f"{_time(piece['from_at'])} – {_time(piece['to_at'])}"
        seconds = (piece["to_at"] - piece["from_at"]) / timedelta(seconds=1)
        yield Text.assemble(f"{span}  {piece['accelerators']:,} × {seconds:,.0f} s  ", (told, style))


def _states(found: Trace) -> Iterator[Text]:
    """What was thought of a finding, and what people decided."""
    if found.states:
        yield Text("\nstates", "bold")
    for state in found.states:
        old = f"  supersedes {state['supersedes']}" if state["supersedes"] is not None else ""
        told = f"{state['revision']}  {state['state']}  events {state['events']:,}{old}"
        yield Text(f"{_stamp(state['detected_at'])}  {told}")
    if found.triage:
        yield Text("\ntriage", "bold")
    for decision in found.triage:
        told = clean(f"{decision['state']}  by {decision['actor']}: {decision['reason']}")
        yield Text(f"{_stamp(decision['at'])}  {told}")


def _findings(findings: Iterable[Row]) -> Iterator[Text]:
    head = False
    for finding in findings:
        if not head:
            head = True
            yield Text("\nfindings", "bold")
        severity = finding["severity"]
        yield Text.assemble(
            (f"{severity:8} {finding['rule_id']}", STYLES.get(severity, "bold")),
            f"  {finding['state']}  {clean(finding['subject'])}  events {finding['events']:,}",
            f"  {finding['finding_id']}",
        )
        yield Text(f"         {clean(finding['message'] or '')}", "dim")


def _some(serials: Sequence[str]) -> str:
    more = f" and {len(serials) - 2:,} more" if len(serials) > 2 else ""
    return f"{' '.join(serials[:2])}{more}"


def _place(event: Row) -> str:
    return f"{event['topic']}/{event['partition']}/{event['offset']}"


def _time(at: datetime | None) -> str:
    return f"{at.astimezone(UTC):%H:%M:%S.%f}" if at is not None else " " * 15


def _stamp(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

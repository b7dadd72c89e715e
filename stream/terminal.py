"""What the verbs that people read share: colours of severities, times, and text that others wrote."""

from datetime import UTC, datetime

import click

from schemas.errors import UsageError

STYLES = {"critical": "bold red", "high": "red", "medium": "yellow", "low": "cyan", "info": "dim"}
"""rich styles by severity, the worst first."""


def clean(text: str) -> str:
    """`text` with everything that could steer a terminal written out: sources and people choose it freely."""
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def iso(at: datetime) -> str:
    """An aware time in UTC to the microsecond, as findings write it."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def utf8(_: click.Context, param: click.Parameter, text: str | None) -> str | None:
    """Option callback: the text, if it is such as a lake can hold; else UsageError."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise UsageError(f"{param.human_readable_name} is not UTF-8: write it in UTF-8") from None
    return text

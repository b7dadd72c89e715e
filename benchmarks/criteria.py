"""What was asked of a figure, and whether it was met."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def at_most(what: str, limit: float, found: float | None, unit: str) -> dict[str, Any]:
    """One entry of a result's "criteria"; `found` None is not met."""
    met = found is not None and found <= limit
    return {"what": what, "limit": limit, "found": found, "unit": unit, "met": met}


def show_criteria(criteria: Sequence[dict[str, Any]]) -> None:
    """Prints a table."""
    table = Table("asked", "at most", "found", "met")
    for each in criteria:
        found = "–" if each["found"] is None else f"{each['found']:,} {each['unit']}"
        table.add_row(
            each["what"], f"{each['limit']:,} {each['unit']}", found, "yes" if each["met"] else "NO"
        )
    Console().print(table)

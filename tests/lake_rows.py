"""Rows of a lake as plain values: tables as any Delta reader reads them, and the views of views.sql."""

import datetime
from pathlib import Path
from typing import Any

from sinks.views import connect
from tests.landings import scan as read_table

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
PARTITION = 1 << 40
"""The plain implementation knows topic and offset alone: partitions follow each other, each so long."""


def place(row: dict[str, Any], prefix: str = "") -> tuple[str, int]:
    """The topic of a row, and partition and offset in one number; in a scan it is the offset."""
    return row[f"{prefix}topic"], row[f"{prefix}partition"] * PARTITION + row[f"{prefix}offset"]


def plain(value: Any) -> Any:
    """Times as microseconds since 1970, also inside lists and structs."""
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // datetime.timedelta(microseconds=1)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def rows(lake: Path, table: str) -> list[dict[str, Any]]:
    """All rows of a lake table, read as any Delta reader would."""
    read = read_table(lake, table)
    return [plain(row) for row in read.to_pylist()]


def view_rows(lake: Path, *views: str) -> list[list[dict[str, Any]]]:
    """All rows of some views, as of one moment."""
    connection = connect(lake)
    try:
        read = [connection.sql(f'FROM "{view}"').to_arrow_table().to_pylist() for view in views]
    finally:
        connection.close()
    return [[plain(row) for row in found] for found in read]

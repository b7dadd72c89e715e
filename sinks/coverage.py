"""How much of the allocated accelerator time has all four links, and what is missing in the rest.

Everything is in accelerator-seconds: one accelerator for one second.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa

from rules.asof import FOREVER, Segments, flatten
from schemas.errors import UsageError
from schemas.models import model_key
from schemas.record import TIME

GROUPS = ("site", "party", "model", "day")

Name = str | date | None

_MOST_DAYS = 10_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_PIECES = """
SELECT site_id AS site, party_id AS party, model, accelerators, reasons,
  greatest(from_at, make_timestamptz($since)) AS from_at, least(to_at, make_timestamptz($until)) AS to_at
FROM coverage
WHERE from_at < make_timestamptz($until) AND to_at > make_timestamptz($since)
"""

_INSTALLED = """
SELECT site_id AS site, NULL AS party, model, 1 AS accelerators, NULL AS reasons, from_at, to_at
FROM installed
"""

_BY_DAY = """
SELECT * REPLACE (greatest(from_at, day) AS from_at, least(to_at, day + INTERVAL 1 DAY) AS to_at) FROM (
  SELECT *, unnest(range(date_trunc('day', from_at), to_at, INTERVAL 1 DAY)) AS day FROM ({pieces}))
"""

_SUMS = """
SELECT {name}, reasons, min(from_at),
  sum(accelerators::DOUBLE * (epoch_us(to_at) - epoch_us(from_at))) / 1e6
FROM ({pieces}) GROUP BY 1, 2
"""

# The version in force is the one with the highest number; should two bear it, the lowest coordinates count.
_ASSETS = """
SELECT dense_rank() OVER (ORDER BY serial) AS number, epoch_us(valid_from) AS starts,
  coalesce(epoch_us(least(valid_to, ended_at)), $forever) AS ends, status, site_id, model
FROM asset WHERE version IS NOT NULL
ORDER BY number, version, "partition" DESC, "offset" DESC
"""


@dataclass(frozen=True)
class Share:
    """Accelerator-seconds of one group; `name` is None for what has none, and for the whole."""

    name: Name
    allocated: float
    covered: float
    installed: float | None
    """None where it is not known whose the installed accelerators are: of parties."""

    @property
    def coverage(self) -> float | None:
        """Covered over allocated; None where nothing was allocated."""
        return self.covered / self.allocated if self.allocated else None

    @property
    def utilisation(self) -> float | None:
        """Allocated over installed; None where nothing was installed."""
        return self.allocated / self.installed if self.installed else None


@dataclass(frozen=True)
class Missing:
    """Accelerator-seconds of the pieces that lack exactly these links."""

    links: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Report:
    """Coverage from `since`, else from the first piece on (None: there is none), up to `until`."""

    since: datetime | None
    until: datetime | None
    watermark: datetime | None
    """How far the lake is settled; None where it is not at all."""
    whole: Share
    groups: list[Share]
    missing: list[Missing]


@dataclass(frozen=True)
class _Sum:
    name: Name
    reasons: tuple[str, ...]
    first: datetime
    seconds: float


def report(
    connection: duckdb.DuckDBPyConnection, by: str, since: int | None = None, until: int | None = None
) -> Report:
    """Coverage as the views of a lake tell it.

    Args:
        connection: as `sinks.views.connect` gives it.
        by: one of GROUPS.
        since: from this time on (µs); else from the first piece.
        until: up to this time (µs), but no further than the watermark.

    Raises:
        UsageError: by day, and there are too many.
    """
    (settled,) = connection.execute(
        "SELECT epoch_us(getvariable('settled_watermark')::TIMESTAMPTZ)"
    ).fetchall()[0]
    end = settled if until is None or settled is None else min(settled, until)
    span = {"since": 0 if since is None else since, "until": end or 0}
    if by == "day":
        _refuse_ages(connection, span)
    pieces = _sums(connection, _PIECES, by, span)
    start = since
    if start is None and pieces:
        start = _micros(min(piece.first for piece in pieces))
    installed: list[_Sum] = []
    if start is not None and end is not None and start < end:
        connection.register("installed", _installed(connection, start, end))
        installed = _sums(connection, _INSTALLED, by, {})
        connection.unregister("installed")
    return Report(
        _time(start),
        _time(end),
        _time(settled),
        _share(None, pieces, installed),
        _groups(by, pieces, installed),
        _missing(pieces),
    )


def _refuse_ages(connection: duckdb.DuckDBPyConnection, span: dict[str, int]) -> None:
    """One event with a clock far off makes millions of days."""
    days = f"SELECT date_diff('day', min(from_at), max(to_at)) FROM ({_PIECES})"  # noqa: S608
    ((count,),) = connection.execute(days, span).fetchall()
    if (count or 0) > _MOST_DAYS:
        raise UsageError(
            f"that is {count:,} days: choose at most {_MOST_DAYS:,} of them with --since and --until"
        )


def _sums(connection: duckdb.DuckDBPyConnection, pieces: str, by: str, span: dict[str, int]) -> list[_Sum]:
    if by == "day":
        pieces = _BY_DAY.format(pieces=pieces)
    name = "day::DATE" if by == "day" else by
    rows = connection.execute(_SUMS.format(name=name, pieces=pieces), span).fetchall()
    return [_Sum(name, tuple(reasons or ()), first, seconds) for name, reasons, first, seconds in rows]


def _installed(connection: duckdb.DuckDBPyConnection, start: int, end: int) -> pa.Table:
    """When assets had the status `installed` between two times: `site_id`, `model`, `from_at`, `to_at`."""
    rows = connection.sql(_ASSETS, params={"forever": FOREVER}).to_arrow_table()
    number, starts, ends = (rows[name].to_numpy() for name in ("number", "starts", "ends"))
    spans = flatten(Segments(number, starts, ends, np.arange(rows.num_rows)))
    status = np.asarray(rows["status"].to_numpy() == "installed", bool)
    spans = spans[status[spans.values] & (spans.starts < end) & (spans.ends > start)]
    return pa.table(
        {
            **{name: rows[name].take(pa.array(spans.values)) for name in ("site_id", "model")},
            "from_at": pa.array(np.maximum(spans.starts, start), TIME),
            "to_at": pa.array(np.minimum(spans.ends, end), TIME),
        }
    )


def _groups(by: str, pieces: list[_Sum], installed: list[_Sum]) -> list[Share]:
    """One share per group: days in order, of others those with the most allocated first."""
    names: dict[object, Name] = {}
    grouped: dict[object, tuple[list[_Sum], list[_Sum]]] = defaultdict(lambda: ([], []))
    for index, sums in enumerate((pieces, installed if by != "party" else [])):
        for item in sorted(sums, key=lambda item: str(item.name)):
            key = model_key(item.name) if by == "model" and isinstance(item.name, str) else item.name
            names.setdefault(key, item.name)
            grouped[key][index].append(item)
    shares = [
        _share(names[key], mine, None if by == "party" else there) for key, (mine, there) in grouped.items()
    ]
    if by == "day":
        return sorted(shares, key=lambda share: str(share.name))
    return sorted(shares, key=lambda share: (-share.allocated, str(share.name)))


def _share(name: Name, pieces: list[_Sum], installed: list[_Sum] | None) -> Share:
    return Share(
        name,
        _total(pieces),
        _total(piece for piece in pieces if not piece.reasons),
        None if installed is None else _total(installed),
    )


def _total(sums: Iterable[_Sum]) -> float:
    return sum(item.seconds for item in sums)


def _missing(pieces: list[_Sum]) -> list[Missing]:
    """What lacks which links, the most first."""
    seconds: dict[tuple[str, ...], float] = defaultdict(float)
    for piece in pieces:
        if piece.reasons and piece.seconds:
            seconds[piece.reasons] += piece.seconds
    return [Missing(*item) for item in sorted(seconds.items(), key=lambda item: (-item[1], item[0]))]


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def _time(micros: int | None) -> datetime | None:
    return None if micros is None else _EPOCH + timedelta(microseconds=micros)

"""`sekisho reconciler`: find what takes more than one record, or the passing of time."""

from pathlib import Path
from typing import Any

import click

from schemas.errors import UsageError
from sinks.metrics import DEFAULT_HOST, DEFAULT_PORT
from stream.early_stop import stops_at_once
from stream.settings import load, options

METRICS = f"{DEFAULT_HOST}:{DEFAULT_PORT + 1}"  # a worker may run beside it
DEFAULTS = {"metrics": METRICS}
NAMES = (
    *("brokers", "lake", "rules", "security_protocol", "sasl_mechanism", "sasl_username"),
    *("ssl_ca", "ssl_certificate", "ssl_key", "metrics", "broker_away_seconds", "partitions", "log"),
)


@click.command("reconciler")
@options(NAMES, DEFAULTS)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    help="Folder of the working state, which may be deleted at any time.  [default: in the lake]",
)
@click.option(
    "--tick-seconds",
    type=float,
    default=10.0,
    show_default=True,
    help="Send a tick this often; 0 sends none.",
)
def command(config: Path | None, state: Path | None, tick_seconds: float, **given: Any) -> None:
    """Settle findings: judge what lands together with what landed before, and what failed to come.

    One reconciler of a lake is active; start more, and they stand by and take over. What it has worked out
    can be made again from the lake at any time. It reads Kafka for nothing but the ends of the event topics,
    and writes ticks to custody.tick and changes of findings to custody.findings. All options but --state and
    --tick-seconds are also variables and names in the --config file, as with the worker. SIGTERM settles what
    has landed and exits 0.
    """
    if not 0 <= tick_seconds < float("inf"):
        raise UsageError(f"--tick-seconds: {tick_seconds} is not a number of seconds, or 0")
    with stops_at_once():
        from stream.start_reconciler import run

        run(load(given, config, defaults=DEFAULTS), state, tick_seconds)

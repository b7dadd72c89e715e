"""`sekisho worker`: read, judge and land."""

from pathlib import Path
from typing import Any

import click

from stream.early_stop import stops_at_once
from stream.settings import load, options


@click.command("worker")
@options()
def command(config: Path | None, **given: Any) -> None:
    """Read the custody topics, judge every event, land it in the lake and publish what fires.

    Workers of one group share the partitions; start as many as you like. Every option is also a variable
    (--batch-rows is SEKISHO_BATCH_ROWS) and a name in the --config file (batch_rows); an option goes before a
    variable, a variable before the file. SIGTERM lands what was read, leaves the group and exits 0. When the
    lake or the brokers fail for good the worker says why in one line and exits 1: nothing that was read is
    lost, start it again.
    """
    with stops_at_once():
        # Faust and the engines take a second to import, which --help need not wait for.
        from stream.start import run

        run(load(given, config))

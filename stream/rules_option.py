"""`--rules`, as the commands take it that are given no settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from rules.rule import ROOT


def rules_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command `root`, the folder of its rules; SEKISHO_RULES names it for workers, too."""
    return click.option(
        "--rules",
        "root",
        type=click.Path(path_type=Path),
        default=ROOT,
        envvar="SEKISHO_RULES",
        help="Folder of the rules and suppressions.  [default: those built in]",
    )(function)

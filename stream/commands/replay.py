"""`sekisho replay`: judge history again, and say what would be found otherwise."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rules.rule import load_all
from rules.suppressions import load_suppressions
from stream import memory
from stream.commands.scan import show
from stream.replay import Difference, compare, replay
from stream.rules_option import rules_option
from stream.terminal import clean

_SHOWN = 20  # differences of a kind on the terminal


@click.command("replay")
@click.option("--lake", type=click.Path(path_type=Path), required=True, help="Folder of the lake; unchanged.")
@rules_option
@click.option(
    "--out", type=click.Path(path_type=Path), help="Keep the lake that is made, in this new folder."
)
@click.option("--diff", is_flag=True, help="Show which findings would be new, gone or changed.")
@click.option("--check", is_flag=True, help="The same, and exit with 1 where there are any.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(lake: Path, root: Path, out: Path | None, diff: bool, check: bool, as_json: bool) -> None:
    """Judge a lake's records again, from what was read, in the light of all reference data.

    With --rules a change of rules can be tried on history before it goes live. Only findings that hold
    (provisional or confirmed) are compared.
    """
    memory.tune()
    with tempfile.TemporaryDirectory(prefix="sekisho-") as folder:
        target = out or Path(folder) / "lake"
        console = Console(stderr=True)
        columns = (TextColumn("judging"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
            task = bar.add_task("judging", total=None)
            known = load_all(root), load_suppressions(root)
            summary = replay(lake, target, *known, lambda n: bar.advance(task, n))
        difference = compare(lake, target) if diff or check else None
    if as_json:
        result: dict[str, Any] = vars(summary)
        if difference is not None:
            result = {**result, "difference": difference.as_json()}
        print(json.dumps(result, default=str))
    elif difference is not None:
        _show(difference)
    else:
        show(summary)
    if check and difference:
        sys.exit(1)


def _show(difference: Difference) -> None:
    for name, rows in (("new", difference.new), ("gone", difference.gone)):
        click.echo(f"{name}: {len(rows):,}")
        for row in rows[:_SHOWN]:
            told = f"{row['rule_id']}  {row['subject']}  {row['state']}, {row['events']:,} events"
            click.echo(f"  {clean(told)}")
    click.echo(f"changed: {len(difference.changed):,}")
    for names, old, new in difference.changed[:_SHOWN]:
        what = ", ".join(f"{name} {old[name]} -> {new[name]}" for name in names)
        click.echo(f"  {clean(new['rule_id'])}  {clean(new['subject'])}  {clean(what)}")
    click.echo(f"the same: {difference.same:,}")

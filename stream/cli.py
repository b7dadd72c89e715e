"""`sekisho`: finds the verb's module, runs it, and turns errors into one line and an exit status."""

import importlib
import pkgutil
import sys

import click

from schemas.errors import SekishoError
from stream import commands


class Verbs(click.Group):
    """Commands named after their module, imported only when used: `sekisho --help` stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"stream.commands.{cmd_name}").command
        return command


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="sekisho")
def sekisho() -> None:
    """Chain-of-custody telemetry for AI data centres."""


def main() -> None:
    """Entry point. Exit status: 0 success, 1 a negative answer or a failure, 2 wrong use."""
    try:
        sekisho.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)
    except SekishoError as error:
        print(f"sekisho: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)

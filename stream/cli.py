"""`sekisho`: finds the verb's module, runs it, and turns errors into one line and an exit status."""

import errno
import importlib
import os
import pkgutil
import select
import sys
from typing import NoReturn

import click

from schemas.errors import SekishoError
from stream import commands, jemalloc
from stream.terminal import clean

WITH_JEMALLOC = {"reconciler"}
"""The verbs whose DuckDB is at its limit for long. A worker gains nothing by it."""


class Verbs(click.Group):
    """Commands named after their module, imported only when used: `sekisho --help` stays instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(module.name for module in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"stream.commands.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            if _reader_is_gone():
                raise
            raise SekishoError(f"a connection has failed ({error}): start again") from error
        finally:
            print(end="", flush=True)  # what cannot be written is told here, not when Python ends


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="sekisho")
def sekisho() -> None:
    """Chain-of-custody telemetry for AI data centres."""


def main() -> None:
    """Entry point. Exit status: 0 success, 1 a negative answer or a failure, 2 wrong use."""
    if WITH_JEMALLOC.intersection(sys.argv[1:2]):
        jemalloc.use()
    try:
        sekisho.main(prog_name="sekisho", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(_usage(error), error.exit_code)
    except click.exceptions.Abort:
        sys.exit(130)
    except SekishoError as error:
        _fail(str(error), error.exit_code)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # click and rich make 1 of it
            _leave_output()
            sys.exit(0)
        raise
    except UnicodeEncodeError as error:
        cannot = error.object[error.start : error.end]
        _leave_output()
        _fail(f"{cannot!a} is not {error.encoding}: write it in UTF-8, or set PYTHONIOENCODING=utf-8")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _leave_output()
        _fail(f"cannot write: {error.strerror}; make room")


def _usage(error: click.ClickException) -> str:
    """One line of what click says, in several, of wrong use."""
    text = " ".join(error.format_message().split()).removesuffix(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{text}; see {context.command_path} --help" if context else text


def _fail(text: str, status: int = 1) -> NoReturn:
    print(f"sekisho: {clean(text)}", file=sys.stderr)
    sys.exit(status)


def _reader_is_gone() -> bool:
    output = select.poll()
    output.register(1, 0)
    return bool(output.poll(0))


def _leave_output() -> None:
    """Lets go of a standard output that takes no more, with what is still to be written to it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

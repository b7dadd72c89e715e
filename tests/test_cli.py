"""The command line itself: every error is one line, and what reads its output may go away."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from stream.cli import main

RUN = "from stream.cli import main; main()"


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN, *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["scan"], "sekisho: Missing option '--in'; see sekisho scan --help"),
        (["nothing"], "sekisho: No such command 'nothing'; see sekisho --help"),
        (["rules", "show"], "sekisho: Missing argument 'ID'; see sekisho rules show --help"),
        (["--nothing"], "sekisho: No such option: --nothing; see sekisho --help"),
        (
            ["simulate", "--rate", "x"],
            "sekisho: Invalid value for '--rate': 'x' is not a valid float range; ",
        ),
    ],
)
def test_wrong_use_is_told_in_one_line(arguments: list[str], line: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(line) and done.stderr.endswith(" --help\n")
    assert done.stderr.count("\n") == 1


def test_without_a_verb_the_help_is_shown() -> None:
    done = run()
    assert done.returncode == 2 and "Usage: sekisho" in done.stderr and "scan" in done.stderr


@pytest.mark.parametrize("arguments", [["rules", "list"], ["rules", "list", "--json"], ["--help"]])
def test_a_reader_that_goes_away_is_no_failure(arguments: list[str]) -> None:
    """One verb prints through rich, one through print, and click prints the help."""
    with subprocess.Popen(["true"], stdin=subprocess.PIPE) as reader:
        reader.wait()
        done = run(*arguments, stdout=reader.stdin)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_broken_connection_to_anything_else_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "argv", ["sekisho", "rules", "list"])
    monkeypatch.setattr("stream.commands.rules.load_all", broken)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["rules", "list"], ["rules", "list", "--json"]])
def test_an_output_that_is_full_is_told_in_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(*arguments, stdout=full)
    assert (done.returncode, done.stderr) == (
        1,
        "sekisho: cannot write: No space left on device; make room\n",
    )


def test_an_output_that_cannot_be_encoded_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run("rules", "show", "gap.identity.unknown", stdout=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (
        1,
        "sekisho: '\\u2026' is not ascii: write it in UTF-8, or set PYTHONIOENCODING=utf-8\n",
    )


def test_what_others_wrote_cannot_steer_the_terminal_of_an_error(tmp_path: Path) -> None:
    done = run("trace", "--lake", str(tmp_path / "\x1b[31m"), "X")
    assert done.returncode == 1 and "\\u001b[31m" in done.stderr and "\x1b" not in done.stderr

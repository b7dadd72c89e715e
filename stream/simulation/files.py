"""Simulated messages as files that `sekisho scan` reads."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.reference import REFERENCES
from stream.simulation.messages import Message

STORY = "incidents.json"
STEP = 1_000  # messages between two reports of progress

Progress = Callable[[int], None]


def write(messages: Iterable[Message], directory: Path, progress: Progress = lambda _: None) -> int:
    """Writes `<record>.ndjson` files, lines in the order given; returns how many lines.

    Raises:
        SekishoError: the directory cannot be written.
    """
    count = 0
    with _told(directory), ExitStack() as stack:
        directory.mkdir(parents=True, exist_ok=True)
        files: dict[str, BinaryIO] = {
            record.name: stack.enter_context((directory / f"{record.name}.ndjson").open("wb"))
            for record in (*EVENTS.values(), *REFERENCES.values())
            if record.name != "screening"
        }
        for count, message in enumerate(messages, 1):
            file = files[message.record]
            file.write(message.value)
            file.write(b"\n")
            if count % STEP == 0:
                progress(STEP)
    return count


def write_story(story: Mapping[str, Any], directory: Path) -> None:
    """Writes what was planted to `incidents.json`. Raises SekishoError: the directory cannot be written."""
    with _told(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / STORY).write_bytes(orjson.dumps(story, option=orjson.OPT_INDENT_2) + b"\n")


@contextmanager
def _told(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SekishoError(
            f"{directory} cannot be written: {error.strerror}; choose another --out"
        ) from error

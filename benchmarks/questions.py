"""The questions of `docs/questions.md`, as they stand there."""

import re
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "questions.md"

_BLOCK = re.compile(r"^## (\d+)\. (.*?)\n.*?^```sql\n(?:-- ([a-z, ]+)\n)?(.*?)^```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Question:
    """One question in words, the names that stand for values in it, and its SELECT."""

    number: int
    words: str
    parameters: tuple[str, ...]
    sql: str


def read() -> list[Question]:
    """All questions, in order."""
    found = _BLOCK.findall(DOCUMENT.read_text())
    return [
        Question(int(number), words, tuple(names.split(", ")) if names else (), sql.strip().rstrip(";"))
        for number, words, names, sql in found
    ]

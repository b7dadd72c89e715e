"""What the rules cite, with how far each statement can be relied on (`citations.toml`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rules.rule import ROOT, read_toml
from schemas.errors import SekishoError

MARKS = {"C": "confirmed", "S": "secondary source", "R": "recalled, to be verified", "P": "proposed"}


@dataclass(frozen=True)
class Citation:
    """A statement that rules cite by its id; `mark` is one of MARKS."""

    id: str
    text: str
    mark: str
    source: str

    def __str__(self) -> str:
        return f"{self.id} [{self.mark}] {self.text} ({self.source})"


def load_citations(root: Path = ROOT) -> Mapping[str, Citation]:
    """The statements by id, from `root`/citations.toml, or from Sekisho's own where `root` has none.

    Raises:
        SekishoError: the file cannot be read or is no TOML, or an entry lacks its text, source or mark.
    """
    path = root / "citations.toml"
    if not path.exists():
        path = ROOT / "citations.toml"
    document = read_toml(path)
    found: dict[str, Citation] = {}
    for name, entry in document.items():
        if name == "as_of":
            continue
        if (
            not isinstance(entry, dict)
            or set(entry) != {"text", "mark", "source"}
            or entry["mark"] not in MARKS
        ):
            raise SekishoError(f"{path}: {name} must have text, source and a mark of {', '.join(MARKS)}")
        found[name] = Citation(name, entry["text"], entry["mark"], entry["source"])
    return found

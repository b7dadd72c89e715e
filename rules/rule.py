"""One rule: a TOML file read into a frozen, checked value.

The file's layout is described in docs/writing-a-rule.md. Everything that decides what a rule finds is its
*logic* (`Rule.logic`); its SHA-256 goes into every finding and is pinned by `rules.lock`.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from rules import vocabulary
from rules.parameters import Parameter, read_parameter
from schemas.errors import SekishoError, UsageError
from schemas.events import EVENTS

ROOT = Path(__file__).parent
SUPPRESSIONS = "suppressions"
"""The folder beside the links' that holds no rules but what is not to be told (`rules.suppressions`)."""

STREAMS = tuple(record.name for record in EVENTS.values())
_ID = re.compile(r"(gap|flag)\.([a-z]+)\.([a-z0-9_]+)")


class RuleError(SekishoError):
    """A rule file that cannot be used; the text names the file and the fault."""


class Kind(StrEnum):
    """What a rule looks at (contract section 4)."""

    ROW = "row"  # one event with its joined records
    DEADLINE = "deadline"  # an absence, decided when the watermark passes
    SWEEP = "sweep"  # more than one record, or a longer span


class Status(StrEnum):
    """experimental: recorded, pages nobody. stable: recorded and published. deprecated: no longer judged."""

    EXPERIMENTAL = "experimental"
    STABLE = "stable"
    DEPRECATED = "deprecated"


class Severity(StrEnum):
    INFO = "info"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True)
class InForce:
    """When the rule's basis in law or guidance applies; information for the reader, never a switch.

    `codified` says that regulation text carries it, `enforced` that the agency enforces it: the two differ
    for what is left of the AI Diffusion rule.
    """

    codified: bool
    enforced: bool
    from_: date | None = None
    to: date | None = None


@dataclass(frozen=True)
class RuleTest:
    """One timeline and the exact set of `rule_id subject` lines that must fire on it."""

    name: str
    timeline: str
    fires: tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """A rule as its file states it. `path` is where it came from and no part of its identity."""

    id: str
    version: int
    title: str
    kind: Kind
    severity: Severity
    status: Status
    streams: tuple[str, ...]
    citations: tuple[str, ...]
    in_force: InForce
    parameters: tuple[Parameter, ...]
    condition: str
    each: str | None
    subject: tuple[str, ...]
    message: str
    known_gaps: tuple[str, ...]
    what_to_do: str
    tests: tuple[RuleTest, ...]
    path: Path

    @property
    def finding_kind(self) -> str:
        """`gap` or `flag`, the first part of the id."""
        return self.id.split(".")[0]

    @property
    def link(self) -> str:
        """The custody link, the second part of the id."""
        return self.id.split(".")[1]

    @cached_property
    def logic(self) -> dict[str, object]:
        """What decides which findings the rule makes; layout and comments of the condition do not count.

        The definitions of the macros it calls are part of it: another country set is another logic.
        """
        condition = vocabulary.canonical(self.condition)
        return {
            "kind": self.kind,
            "streams": sorted(self.streams),
            "each": self.each,
            "condition": condition,
            "subject": list(self.subject),
            "parameters": {
                p.name: {"type": p.type, "value": p.value, "unit": p.unit} for p in self.parameters
            },
            "macros": {name: vocabulary.MACROS[name] for name in vocabulary.macros_used(condition)},
        }

    @cached_property
    def sha256(self) -> str:
        """Hex SHA-256 of the logic as canonical JSON (sorted keys, no spaces)."""
        return hashlib.sha256(orjson.dumps(self.logic, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def render(self, subject: str) -> str:
        """The message of a finding: `{subject}` and `{parameter}` of the template filled in."""
        return subject.join(self.around_subject)

    @cached_property
    def around_subject(self) -> tuple[str, ...]:
        """The message, parameters filled in, as what stands before, between and behind its `{subject}`."""
        message = self.message
        for parameter in self.parameters:
            message = message.replace("{" + parameter.name + "}", parameter.text)
        return tuple(message.split("{subject}"))


def read_toml(path: Path) -> dict[str, Any]:
    """The table that a file holds. Raises RuleError: it cannot be read or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RuleError(
            f"{path}: cannot be read ({error.strerror}); make it a file or take it away"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RuleError(f"{path}: is not TOML ({error}); correct the file") from None


def load(path: Path) -> Rule:
    """Reads one rule file.

    Raises:
        RuleError: the file cannot be read, is no TOML, lacks a field, has an unknown one, or one of the
            wrong type or value.
    """
    reader = _Reader(read_toml(path), str(path))
    rule = _rule(reader, path)
    reader.refuse_rest()
    return rule


def load_all(root: Path = ROOT) -> tuple[Rule, ...]:
    """Every rule under `root`/<link>/, sorted by id.

    Raises:
        RuleError: a file cannot be used, or two files hold one id.
        UsageError: the folder is not there, or holds no rule.
    """
    rules = sorted((load(path) for path in paths(root)), key=lambda rule: rule.id)
    for one, other in pairwise(rules):
        if one.id == other.id:
            raise RuleError(f"{other.path}: {one.path} already holds the rule {one.id}; give it another id")
    return tuple(rules)


def paths(root: Path = ROOT) -> list[Path]:
    """The rule files under `root`, sorted. Raises UsageError: the folder is not there, or holds none."""
    found = sorted(path for path in root.glob("*/*.toml") if path.parent.name != SUPPRESSIONS)
    if not found:
        raise UsageError(f"{root} holds no rules; give a folder that holds <link>/<rule id>.toml")
    return found


def _rule(reader: "_Reader", path: Path) -> Rule:
    rule_id = reader.text("id")
    if not _ID.fullmatch(rule_id):
        raise reader.fault("id", "is not gap.<link>.<name> or flag.<link>.<name>")
    parameters = reader.table("parameters", optional=True)
    return Rule(
        id=rule_id,
        version=reader.positive("version"),
        title=reader.text("title"),
        kind=Kind(reader.choice("kind", list(Kind))),
        severity=Severity(reader.choice("severity", list(Severity))),
        status=Status(reader.choice("status", list(Status))),
        streams=reader.texts("streams", among=STREAMS),
        citations=reader.texts("citations"),
        in_force=_in_force(reader),
        parameters=tuple(read_parameter(name, parameters[name], reader.where) for name in sorted(parameters)),
        condition=reader.text("condition"),
        each=reader.choice("each", list(vocabulary.EACH), optional=True) or None,
        subject=reader.texts("subject"),
        message=reader.text("message"),
        known_gaps=reader.texts("known_gaps", empty=True),
        what_to_do=reader.text("what_to_do"),
        tests=_tests(reader),
        path=path,
    )


def _in_force(reader: "_Reader") -> InForce:
    inner = _Reader(reader.table("in_force"), f"{reader.where}: in_force")
    result = InForce(
        codified=inner.boolean("codified"),
        enforced=inner.boolean("enforced"),
        from_=inner.day("from"),
        to=inner.day("to"),
    )
    inner.refuse_rest()
    return result


def _tests(reader: "_Reader") -> tuple[RuleTest, ...]:
    tests = []
    for number, table in enumerate(reader.tables("tests"), 1):
        inner = _Reader(table, f"{reader.where}: test {number}")
        tests.append(RuleTest(inner.text("name"), inner.text("timeline"), inner.texts("fires", empty=True)))
        inner.refuse_rest()
    return tuple(tests)


class _Reader:
    """Takes typed values out of one TOML table, remembering which names it has not been asked for."""

    def __init__(self, table: Mapping[str, object], where: str) -> None:
        self.where = where
        self._rest = dict(table)

    def fault(self, name: str, what: str) -> RuleError:
        return RuleError(f"{self.where}: {name} {what}; see docs/writing-a-rule.md")

    def refuse_rest(self) -> None:
        if self._rest:
            raise self.fault(", ".join(sorted(self._rest)), "is not a field of it")

    def text(self, name: str) -> str:
        value = self._rest.pop(name, None)
        if not isinstance(value, str) or not value.strip():
            raise self.fault(name, "must be a text that is not empty")
        return value.strip()

    def choice(self, name: str, among: Sequence[str], optional: bool = False) -> str:
        value = self._rest.pop(name, None)
        if value is None and optional:
            return ""
        if value not in among:
            raise self.fault(name, f"must be one of {', '.join(among)}")
        return str(value)

    def texts(self, name: str, among: Sequence[str] = (), empty: bool = False) -> tuple[str, ...]:
        value = self._rest.pop(name, None)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise self.fault(name, "must be a list of texts")
        if not value and not empty:
            raise self.fault(name, "must not be empty")
        if len(set(value)) < len(value):
            raise self.fault(name, "holds a value twice")
        if among and not set(value) <= set(among):
            raise self.fault(name, f"may hold only {', '.join(among)}")
        return tuple(value)

    def positive(self, name: str) -> int:
        value = self._rest.pop(name, None)
        if type(value) is not int or value < 1:
            raise self.fault(name, "must be an integer of at least 1")
        return value

    def boolean(self, name: str) -> bool:
        value = self._rest.pop(name, None)
        if not isinstance(value, bool):
            raise self.fault(name, "must be true or false")
        return value

    def day(self, name: str) -> date | None:
        value = self._rest.pop(name, None)
        if value is not None and type(value) is not date:
            raise self.fault(name, "must be a date")
        return value

    def table(self, name: str, optional: bool = False) -> dict[str, object]:
        value = self._rest.pop(name, {} if optional else None)
        if not isinstance(value, dict):
            raise self.fault(name, "must be a table")
        return value

    def tables(self, name: str) -> list[dict[str, object]]:
        value = self._rest.pop(name, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.fault(name, "must be an array of tables")
        return value

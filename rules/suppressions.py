"""Suppressions: findings that somebody has decided, for a reason and a time, not to be told of.

One TOML file each under `suppressions/` of the rules' folder; docs/writing-a-rule.md says what it holds. A
finding that is suppressed is recorded all the same.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from rules.rule import ROOT, SUPPRESSIONS, RuleError, read_toml

_TEXTS = ("rule", "subject", "owner", "reason")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Suppression:
    """The findings of one rule about one subject, or about all that begin alike where it ends in `*`.

    `expires` is the last day (UTC) on which it is in force. `path` is no part of its identity.
    """

    rule: str
    subject: str
    owner: str
    reason: str
    expires: date
    path: Path

    def in_force(self, at: int) -> bool:
        """Whether it counts at a wall time, in µs since the epoch (UTC)."""
        return (_EPOCH + timedelta(microseconds=at)).date() <= self.expires


def load_suppressions(root: Path = ROOT) -> tuple[Suppression, ...]:
    """The suppressions of the rules under `root`, by path. Raises RuleError: a file cannot be used."""
    return tuple(load(path) for path in paths(root))


def paths(root: Path = ROOT) -> list[Path]:
    """The suppression files of the rules under `root`, sorted."""
    return sorted((root / SUPPRESSIONS).glob("*.toml"))


def load(path: Path) -> Suppression:
    """Reads one file. Raises RuleError: it is no TOML that can be read, or a field is wrong."""
    document = read_toml(path)
    for name in _TEXTS:
        if not isinstance(document.get(name), str) or not document[name].strip():
            raise RuleError(f"{path}: {name} must be a text that is not empty; see docs/writing-a-rule.md")
    if type(document.get("expires")) is not date:
        raise RuleError(f"{path}: expires must be a date (2026-12-31); see docs/writing-a-rule.md")
    unknown = sorted(set(document) - {*_TEXTS, "expires"})
    if unknown:
        raise RuleError(f"{path}: {unknown[0]} is not a field of it; see docs/writing-a-rule.md")
    if document["subject"].strip() == "*":
        raise RuleError(f'{path}: subject "*" is all of the rule; set its status to experimental instead')
    rule, subject, owner, reason = (document[name] for name in _TEXTS)
    return Suppression(rule.strip(), subject, owner.strip(), reason.strip(), document["expires"], path)


def in_force(suppressions: Sequence[Suppression], at: int) -> list[tuple[str, str, bool]]:
    """(rule id, subject, whether it is only the beginning of one) of those that count at a wall time (µs)."""
    counting = {(one.rule, one.subject) for one in suppressions if one.in_force(at)}
    return sorted((rule, subject.removesuffix("*"), subject.endswith("*")) for rule, subject in counting)


def suppressed(
    suppressions: Sequence[Suppression], rule_ids: pa.Array, subjects: pa.Array, at: int
) -> pa.BooleanArray:
    """Which findings, each a rule and a subject, are suppressed at a wall time (µs)."""
    found = pa.repeat(False, len(rule_ids))
    for rule, subject, is_beginning in in_force(suppressions, at):
        about = pc.starts_with(subjects, subject) if is_beginning else pc.equal(subjects, subject)
        found = pc.or_(found, pc.and_(pc.equal(rule_ids, rule), about))
    return found


def problems(root: Path, rule_ids: Collection[str], today: date) -> Iterator[tuple[Path, str]]:
    """(path, defect) of each file that cannot be used, has expired, or names a rule that is not there."""
    for path in paths(root):
        try:
            found = load(path)
        except RuleError as error:
            yield path, str(error).removeprefix(f"{path}: ")
            continue
        if found.rule not in rule_ids:
            yield path, f"there is no rule {found.rule}; correct the id or delete the file"
        if found.expires < today:
            yield path, f"expired on {found.expires}; delete it, or have {found.owner} decide anew"

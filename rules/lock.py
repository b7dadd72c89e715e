"""The lock file `rules.lock`: rule id → version and SHA-256 of its logic.

It makes a change of logic visible in review and impossible without a new version, so that a finding's rule id
and version always mean the same logic.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rules.rule import ROOT, Rule
from schemas.errors import SekishoError

PATH = ROOT / "rules.lock"


@dataclass(frozen=True)
class Pin:
    version: int
    sha256: str


def read_lock(path: Path = PATH) -> dict[str, Pin]:
    """The pins by rule id; empty where there is no file yet.

    Raises:
        SekishoError: the file cannot be read or is not a lock file.
    """
    if not path.exists():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return {rule_id: Pin(int(pin["version"]), str(pin["sha256"])) for rule_id, pin in document.items()}
    except OSError as error:
        raise SekishoError(
            f"{path} cannot be read: {error.strerror}; restore it from version control"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SekishoError(f"{path} is not a lock file; restore it from version control") from None


@dataclass(frozen=True)
class Drift:
    """How a rule differs from its pin; what is `lockable` a new lock file sets right, the rest it refuses."""

    text: str
    lockable: bool = False


def check(rules: Iterable[Rule], pins: Mapping[str, Pin]) -> dict[str, Drift]:
    """What differs, by rule id: logic changed under one version, version gone back, not locked, or gone."""
    found = {rule.id: rule for rule in rules}
    drifts = {
        rule_id: drift for rule_id, rule in found.items() if (drift := _compare(rule, pins.get(rule_id)))
    }
    for rule_id in sorted(set(pins) - set(found)):
        drifts[rule_id] = Drift('is locked but its file is gone; restore it and set status = "deprecated"')
    return drifts


def _compare(rule: Rule, pin: Pin | None) -> Drift | None:
    if pin is None:
        return Drift("is not locked; run `sekisho rules lock`", lockable=True)
    if rule.version < pin.version:
        return Drift(f"went back from version {pin.version} to {rule.version}; raise the version instead")
    if rule.version > pin.version:
        return Drift(
            f"is version {rule.version}, locked as {pin.version}; run `sekisho rules lock`", lockable=True
        )
    if rule.sha256 != pin.sha256:
        return Drift(f"has other logic than locked version {pin.version}; raise version in {rule.path.name}")
    return None


def write_lock(rules: Iterable[Rule], path: Path = PATH) -> dict[str, Pin]:
    """Pins every rule and returns the pins that are new or changed.

    Raises: SekishoError: a rule's logic changed without a new version, a version went back, a locked rule is
    gone, or the file cannot be written.
    """
    every = sorted(rules, key=lambda rule: rule.id)
    pins = read_lock(path)
    for rule_id, drift in check(every, pins).items():
        if not drift.lockable:
            raise SekishoError(f"{rule_id} {drift.text}")
    new = {rule.id: Pin(rule.version, rule.sha256) for rule in every}
    text = json.dumps({rule_id: vars(pin) for rule_id, pin in new.items()}, indent=1)
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise SekishoError(f"{path} cannot be written: {error.strerror}; make it writable") from None
    return {rule_id: pin for rule_id, pin in new.items() if pins.get(rule_id) != pin}

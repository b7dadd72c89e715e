"""Row rules by the hundred: clones of those there are, with constants and columns of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

from rules.judge import is_judged
from rules.rule import Rule
from rules.vocabulary import REFERENCES, canonical

_COLUMNS = [
    f"{prefix}.{name}" for prefix in "PAS" for name, kind in REFERENCES[prefix].items() if kind == "VARCHAR"
]


def cloned(rules: Sequence[Rule], wanted: int) -> list[Rule]:
    """The row rules and clones of them, `wanted` in all.

    A clone asks what its original asks, with larger parameters, and that a column of its own is not a text of
    its own: it fires about where the original does.
    """
    own = [rule for rule in rules if is_judged(rule)]
    assert len(own) <= wanted, f"there are {len(own)} row rules already"
    clones = _clones(own)
    return own + [next(clones) for _ in range(wanted - len(own))]


def _clones(rules: Sequence[Rule]) -> Iterator[Rule]:
    for number in count():
        rule, turn = rules[number % len(rules)], number // len(rules) + 1
        column = _COLUMNS[number % len(_COLUMNS)]
        yield replace(
            rule,
            id=f"{rule.id}_{turn}",
            condition=f"({canonical(rule.condition)}) and {column} is distinct from 'clone {number}'",
            parameters=tuple(
                replace(p, value=p.value + turn) if isinstance(p.value, int) else p for p in rule.parameters
            ),
        )

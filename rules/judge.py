"""Judges a batch: every row rule of a stream, computed by DuckDB over Arrow columns.

One query per level (rows, their serials, the conditions of their authorizations; `rules/level.py`). A
condition that is null does not fire. Subjects are written only for what fired; nothing else leaves the
columns. A judge has no clock, no state between batches and no say in what the batch is: it may be called by
any number of callers in turn, but by one at a time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rules import subjects, vocabulary
from rules.level import Compiled, Fired, Joined, Level
from rules.rule import Kind, Rule, RuleError, Status
from rules.subjects import Subject
from rules.vocabulary import Expression
from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.record import Record

BITS = 62  # rules of one mask; it stays a positive BIGINT

FIRINGS = pa.schema([("row", pa.int64()), ("rule_id", pa.string()), ("subject", pa.string())])
"""What fired: one line per row, rule and subject, sorted by them. `row` is a position in the joined rows."""

_VERDICTS = pa.list_(pa.string())


@dataclass(frozen=True)
class Judgement:
    """`verdicts`: per row the sorted ids that fired, never null. `firings`: see FIRINGS."""

    verdicts: pa.ListArray
    firings: pa.RecordBatch


class Judge:
    """The row rules, compiled. Deadline and sweep rules and deprecated ones are not its business.

    `rules` holds those it judges by id; `columns` the reference columns (`P.status`, `X.sku`) that any of
    them reads, which is what joining has to gather.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        judged = sorted((rule for rule in rules if is_judged(rule)), key=lambda rule: rule.id)
        self.rules: Mapping[str, Rule] = {rule.id: rule for rule in judged}
        assert len(self.rules) == len(judged), "two rules with one id"
        self._connection = connect()
        self._programs: dict[tuple[str, bool], _Program] = {}
        for record in EVENTS.values():
            self._program(record, completed=False)
        self.columns = frozenset[str]().union(
            *(
                self.columns_of(record, level)
                for record in EVENTS.values()
                for level in (None, *vocabulary.EACH)
            )
        )

    def columns_of(self, record: Record, each: str | None = None) -> frozenset[str]:
        """Reference columns needed of one stream's rows (`each` None: P, A, S), serials (X) or conditions."""
        levels = self._program(record, completed=False).levels
        if each is None:
            names = frozenset[str]().union(*(level.columns for level in levels))
        else:
            names = frozenset[str]().union(*(level.element for level in levels if level.each == each))
        return frozenset(name for name in names if "." in name)

    def fields_of(self, record: Record) -> frozenset[str]:
        """The stream's own fields that its rules read, in conditions or subjects."""
        levels = self._program(record, completed=False).levels
        return frozenset[str]().union(*(level.columns for level in levels)) & record.by_name.keys()

    def levels_of(self, record: Record) -> frozenset[str]:
        """Whether rules of the stream go through `serials` or `conditions`."""
        levels = self._program(record, completed=False).levels
        return frozenset(level.each for level in levels if level.each is not None)

    def judge(self, record: Record, joined: Joined, completed: bool = False) -> Judgement:
        """Judges the events of one stream.

        Args:
            record: the stream.
            joined: its events with their reference columns.
            completed: what the events lack has been looked up through their allocations (contract 3.2).

        Raises:
            SekishoError: a rule cannot be computed on these values, e.g. its arithmetic overflows.
        """
        program = self._program(record, completed)
        fired = [found for level in program.levels for found in level.run(joined)]
        return Judgement(program.verdicts(joined.rows.num_rows, fired), program.firings(fired))

    def _program(self, record: Record, completed: bool) -> "_Program":
        key = (record.name, completed)
        if key not in self._programs:
            rules = [rule for rule in self.rules.values() if record.name in rule.streams]
            self._programs[key] = _Program(self._connection, record, rules, completed)
        return self._programs[key]


def is_judged(rule: Rule) -> bool:
    """Whether a judge takes the rule: a row rule that is not deprecated."""
    return rule.kind is Kind.ROW and rule.status is not Status.DEPRECATED


def connect() -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that knows the macros and reaches nothing outside.

    The optimizers are off: on a projection of expressions without tables they find nothing to gain, and
    planning takes a third of the time (2 ms instead of 5 to 7 for 16 rules; common_subexpressions is the
    dearest).
    """
    connection = duckdb.connect(":memory:", config={"threads": "1"})
    for statement in vocabulary.create_macros():
        connection.execute(statement)
    optimizers = connection.execute("SELECT string_agg(name, ',') FROM duckdb_optimizers()").fetchone()
    assert optimizers is not None
    connection.execute(f"SET disabled_optimizers = '{optimizers[0]}'")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def translate(rule: Rule, record: Record, completed: bool = False) -> tuple[Expression, Subject]:
    """(condition, subject) of a rule over one stream's columns.

    Raises:
        RuleError: the condition or the subject uses what the stream or level does not have.
    """
    try:
        condition = vocabulary.translate(rule.condition, record, rule.each, rule.parameters, completed)
        return condition, subjects.translate(rule.subject, record, rule.each)
    except SekishoError as error:
        raise RuleError(f"{rule.path}: {error}") from None


class _Program:
    """All levels of one stream, and the way back from what fired to rule ids."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, record: Record, rules: Sequence[Rule], completed: bool
    ) -> None:
        name = f"{record.name}_completed" if completed else record.name
        compiled = [
            Compiled(index, rule, *translate(rule, record, completed)) for index, rule in enumerate(rules)
        ]
        by_level = {
            each: [rule for rule in compiled if rule.rule.each == each] for each in (None, *vocabulary.EACH)
        }
        self.levels = [Level(connection, name, each, found) for each, found in by_level.items() if found]
        self._words = max(1, -(-len(rules) // BITS))
        self._ids = pa.array([rule.id for rule in rules], pa.string())
        self._verdicts: dict[tuple[int, ...], list[str]] = {}

    def verdicts(self, rows: int, fired: Sequence[Fired]) -> pa.ListArray:
        """The sorted ids of the rules that fired for each row, written once per distinct set of them."""
        masks = [np.zeros(rows, dtype=np.int64) for _ in range(self._words)]
        for part in fired:
            word, bit = divmod(part.index, BITS)
            masks[word][part.row] |= 1 << bit
        distinct, inverse = _distinct(masks)
        lists = pa.array([self._ids_of(mask) for mask in distinct], _VERDICTS)
        return lists.take(pa.array(inverse))

    def _ids_of(self, mask: tuple[int, ...]) -> list[str]:
        if mask not in self._verdicts:
            bits = sum(word << (BITS * number) for number, word in enumerate(mask))
            ids = [one for index, one in enumerate(self._ids.to_pylist()) if bits >> index & 1]
            if len(self._verdicts) > 10_000:
                self._verdicts.clear()
            self._verdicts[mask] = ids
        return self._verdicts[mask]

    def firings(self, fired: Sequence[Fired]) -> pa.RecordBatch:
        """All levels' firings as one sorted batch without repetitions (two conditions may share an id)."""
        if not fired:
            return _no_firings()
        row = np.concatenate([part.row for part in fired])
        index = np.repeat([part.index for part in fired], [len(part.row) for part in fired])
        subject = pa.concat_arrays([part.subject for part in fired])
        code = pc.rank(subject, tiebreaker="dense").to_numpy()
        order = np.lexsort((code, index, row))
        keys = np.stack([row, index, code])[:, order]
        keep = order[np.concatenate([[True], (keys[:, 1:] != keys[:, :-1]).any(axis=0)])]
        taken = [pa.array(row[keep]), self._ids.take(pa.array(index[keep])), subject.take(pa.array(keep))]
        return pa.RecordBatch.from_arrays(taken, schema=FIRINGS)


def _no_firings() -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in FIRINGS], schema=FIRINGS)


def _distinct(masks: Sequence[npt.NDArray[np.int64]]) -> tuple[list[tuple[int, ...]], npt.NDArray[np.int64]]:
    """(distinct masks, position of each row's mask among them)."""
    found: list[tuple[int, ...]] = [()]
    inverse = np.zeros(len(masks[0]), np.int64)
    for words in masks:
        encoded = pa.array(words).dictionary_encode()
        ends, count = encoded.dictionary.to_pylist(), len(encoded.dictionary)
        pairs = pa.array(inverse * count + encoded.indices.to_numpy()).dictionary_encode()
        found = [(*found[pair // count], ends[pair % count]) for pair in pairs.dictionary.to_pylist()]
        inverse = pairs.indices.to_numpy().astype(np.int64)
    return found, inverse

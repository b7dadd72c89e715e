"""Judges a batch: every row rule of a stream as one bit of an integer mask, computed by DuckDB over Arrow
columns.

One query per level (rows, their serials, the conditions of their authorizations). A condition that is null
does not fire. Subjects are written, again in SQL, only for what fired; nothing else leaves the columns. A
judge has no clock, no state between batches and no say in what the batch is: it may be called by any number
of callers in turn, but by one at a time.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rules import subjects, vocabulary
from rules.rule import Kind, Rule, RuleError, Status
from rules.vocabulary import Expression
from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.record import Record

BITS = 62  # rules of one mask column; a sum of their bits stays a positive BIGINT

FIRINGS = pa.schema([("row", pa.int64()), ("rule_id", pa.string()), ("subject", pa.string())])
"""What fired: one line per row, rule and subject, sorted by them. `row` is a position in the joined rows."""

_VERDICTS = pa.list_(pa.string())
_NAIVE = pa.timestamp("us")


class Joined(Protocol):
    """A joined batch (`rules.join.Joined`): rows, and their serials and conditions with a `row` position."""

    @property
    def rows(self) -> pa.RecordBatch: ...
    @property
    def serials(self) -> pa.RecordBatch: ...
    @property
    def conditions(self) -> pa.RecordBatch: ...


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

    def judge(self, record: Record, joined: Joined, completed: bool = False) -> Judgement:
        """Judges the events of one stream.

        Args:
            record: the stream.
            joined: its events with their reference columns.
            completed: what the events lack has been looked up through their allocations (contract 3.2).

        Raises:
            SekishoError: a rule cannot be computed on these values, e.g. its arithmetic overflows.
        """
        count = joined.rows.num_rows
        program = self._program(record, completed)
        masks = [np.zeros(count, dtype=np.int64) for _ in range(program.words)]
        fired = [level.run(joined, masks) for level in program.levels]
        verdicts = program.verdicts(masks) if count else pa.array([], _VERDICTS)
        return Judgement(verdicts, program.firings(fired))

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


def translate(rule: Rule, record: Record, completed: bool = False) -> tuple[Expression, Expression]:
    """(condition, subject) of a rule as SQL over one stream's columns.

    Raises:
        RuleError: the condition or the subject uses what the stream or level does not have.
    """
    try:
        condition = vocabulary.translate(rule.condition, record, rule.each, rule.parameters, completed)
        return condition, subjects.translate(rule.subject, record, rule.each)
    except SekishoError as error:
        raise RuleError(f"{rule.path}: {error}") from None


@dataclass(frozen=True)
class _Compiled:
    index: int  # position among the stream's rules: word index // BITS, bit index % BITS
    rule: Rule
    condition: Expression
    subject: Expression


@dataclass(frozen=True)
class _Fired:
    """Parallel arrays, one item per firing."""

    row: np.ndarray
    index: np.ndarray
    subject: pa.StringArray

    @staticmethod
    def none() -> "_Fired":
        return _Fired(np.empty(0, np.int64), np.empty(0, np.int64), pa.array([], pa.string()))


class _Level:
    """The rules of one stream that look at rows (`each` None), serials or conditions.

    With the optimizers off DuckDB converts every column it is handed, so a query gets only those that it
    names.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        record: Record,
        each: str | None,
        rules: Sequence[_Compiled],
    ) -> None:
        self._connection, self._record, self.each, self._rules = connection, record, each, rules
        self._condition = _union(rule.condition for rule in rules)
        both = _union([self._condition, *(rule.subject for rule in rules)])
        self.columns, self.element = both.columns, both.element
        self._words = sorted({rule.index // BITS for rule in rules})
        self._mask_sql = _select([self._word(word) for word in self._words])

    def _word(self, word: int) -> str:
        terms = [
            f"CASE WHEN {rule.condition.sql} THEN {1 << rule.index % BITS}::BIGINT ELSE 0::BIGINT END"
            for rule in self._rules
            if rule.index // BITS == word
        ]
        return f"{' + '.join(terms)} AS w{word}"

    def run(self, joined: Joined, masks: list[np.ndarray]) -> _Fired:
        """Sets the bits of what fires in the rows' masks and returns the firings."""
        row = self._rows_of(joined)
        if not len(row):
            return _Fired.none()
        words = self._query(self._mask_sql, self._batch(joined, self._condition, row, None))
        found = np.stack([words[f"w{word}"] for word in self._words])
        assert found.shape == (len(self._words), len(row))
        where = np.flatnonzero(found.any(axis=0))
        if not len(where):
            return _Fired.none()
        found = found[:, where]
        for number, word in enumerate(self._words):
            np.bitwise_or.at(masks[word], row[where], found[number])
        return self._fired(joined, row, where, dict(zip(self._words, found, strict=True)))

    def _rows_of(self, joined: Joined) -> np.ndarray:
        """For each row or element of the level, the position of its joined row."""
        if self.each is None:
            return np.arange(joined.rows.num_rows)
        return getattr(joined, self.each).column("row").to_numpy()

    def _fired(
        self, joined: Joined, row: np.ndarray, where: np.ndarray, words: Mapping[int, np.ndarray]
    ) -> _Fired:
        hits = [
            (rule, np.flatnonzero(words[rule.index // BITS] >> rule.index % BITS & 1)) for rule in self._rules
        ]
        hits = [(rule, hit) for rule, hit in hits if len(hit)]
        written = self._write_subjects(joined, row, where, [rule.subject for rule, _ in hits])
        return _Fired(
            np.concatenate([row[where][hit] for _, hit in hits]),
            np.concatenate([np.full(len(hit), rule.index, np.int64) for rule, hit in hits]),
            pa.concat_arrays([written[rule.subject.sql].take(pa.array(hit)) for rule, hit in hits]),
        )

    def _write_subjects(
        self, joined: Joined, row: np.ndarray, where: np.ndarray, wanted: Sequence[Expression]
    ) -> dict[str, pa.StringArray]:
        """Each wanted subject of what fired, by its SQL."""
        sqls = sorted({subject.sql for subject in wanted})
        select = _select([f"{sql} AS s{number}" for number, sql in enumerate(sqls)])
        batch = self._batch(joined, _union(wanted), row, where)
        self._connection.register("batch", batch)
        table = self._connection.sql(select).to_arrow_table()
        self._connection.unregister("batch")
        result = {sql: _flat(table.column(number)) for number, sql in enumerate(sqls)}
        assert all(not column.null_count for column in result.values()), "a subject is null"
        return result

    def _batch(
        self, joined: Joined, wanted: Expression, row: np.ndarray, where: np.ndarray | None
    ) -> pa.RecordBatch:
        """The columns that SQL names, times naive, of all rows or elements or of those at `where`."""
        outer, inner = sorted(wanted.columns), sorted(wanted.element)
        columns = [joined.rows.column(name) for name in outer or ["t"]]
        if self.each is not None:
            at = pa.array(row if where is None else row[where])
            columns = [column.take(at) for column in columns]
            elements = getattr(joined, self.each)
            mine = [elements.column(name) for name in inner]
            columns += mine if where is None else [column.take(pa.array(where)) for column in mine]
        elif where is not None:
            columns = [column.take(pa.array(where)) for column in columns]
        return pa.RecordBatch.from_arrays([_naive(column) for column in columns], [*(outer or ["t"]), *inner])

    def _query(self, sql: str, batch: pa.RecordBatch) -> dict[str, np.ndarray]:
        self._connection.register("batch", batch)
        try:
            return self._connection.execute(sql).fetchnumpy()
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise SekishoError(
                f"{self._culprit()} cannot be judged ({reason}); correct its condition"
            ) from error
        finally:
            self._connection.unregister("batch")

    def _culprit(self) -> str:
        """Which rule the registered batch breaks: only asked when a query has failed."""
        for rule in self._rules:
            try:
                self._connection.execute(_select([rule.condition.sql])).fetchall()
            except duckdb.Error:
                return f"rule {rule.rule.id}"
        return f"stream {self._record.name}"


class _Program:
    """All levels of one stream, and the way back from masks to rule ids."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, record: Record, rules: Sequence[Rule], completed: bool
    ) -> None:
        compiled = [
            _Compiled(index, rule, *translate(rule, record, completed)) for index, rule in enumerate(rules)
        ]
        by_level = {
            each: [rule for rule in compiled if rule.rule.each == each] for each in (None, *vocabulary.EACH)
        }
        self.levels = [_Level(connection, record, each, found) for each, found in by_level.items() if found]
        self.words = max(1, -(-len(rules) // BITS))
        self._ids = pa.array([rule.id for rule in rules], pa.string())
        self._verdicts: dict[tuple[int, ...], list[str]] = {}

    def verdicts(self, masks: Sequence[np.ndarray]) -> pa.ListArray:
        """The sorted ids of each row's bits, written once per distinct mask."""
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

    def firings(self, fired: Sequence[_Fired]) -> pa.RecordBatch:
        """All levels' firings as one sorted batch without repetitions (two conditions may share an id)."""
        fired = [part for part in fired if len(part.row)]
        if not fired:
            return _no_firings()
        row = np.concatenate([part.row for part in fired])
        index = np.concatenate([part.index for part in fired])
        subject = pa.concat_arrays([part.subject for part in fired])
        code = pc.rank(subject, tiebreaker="dense").to_numpy()
        order = np.lexsort((code, index, row))
        keys = np.stack([row, index, code])[:, order]
        keep = order[np.concatenate([[True], (keys[:, 1:] != keys[:, :-1]).any(axis=0)])]
        taken = [pa.array(row[keep]), self._ids.take(pa.array(index[keep])), subject.take(pa.array(keep))]
        return pa.RecordBatch.from_arrays(taken, schema=FIRINGS)


def _no_firings() -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in FIRINGS], schema=FIRINGS)


def _distinct(masks: Sequence[np.ndarray]) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """(distinct masks, position of each row's mask among them)."""
    if len(masks) == 1:
        encoded = pa.array(masks[0]).dictionary_encode()
        return [(mask,) for mask in encoded.dictionary.to_pylist()], encoded.indices.to_numpy()
    values, inverse = np.unique(np.stack(masks, axis=1), axis=0, return_inverse=True)
    return [tuple(int(word) for word in mask) for mask in values], inverse.reshape(-1)


def _select(expressions: Sequence[str]) -> str:
    """The only statement a judge runs; expressions are translated rules, never values of a record."""
    return f"SELECT {', '.join(expressions)} FROM batch"  # noqa: S608


def _union(expressions: Iterable[Expression]) -> Expression:
    """What several expressions read, as one without SQL."""
    every = list(expressions)
    return Expression(
        "",
        frozenset[str]().union(*(one.columns for one in every)),
        frozenset[str]().union(*(one.element for one in every)),
    )


def _naive(column: pa.Array) -> pa.Array:
    """Zoned times as the naive UTC timestamps that rule SQL works on; no value is touched."""
    return column.cast(_NAIVE) if pa.types.is_timestamp(column.type) and column.type.tz else column


def _flat(column: pa.ChunkedArray) -> pa.StringArray:
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    return array.cast(pa.string())

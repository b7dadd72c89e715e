"""One level of a stream's rules as one DuckDB query: those that look at rows, at serials or at conditions.

DuckDB plans a query anew each time it runs, for as long as the values of two thousand rows take. So the
query is parsed once, DuckDB scans a source that stays registered while its batches change, each condition is
a column of its own, and subjects are written in Arrow.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rules.rule import Rule
from rules.subjects import Subject
from rules.vocabulary import Expression
from schemas.errors import SekishoError

_NAIVE = pa.timestamp("us")
_SHARED = 3
"""Uses of a macro's call from which on it is computed once: a condition may need it of few rows only."""


class Joined(Protocol):
    """A joined batch (`rules.join.Joined`): rows, and their serials and conditions with a `row` position."""

    @property
    def rows(self) -> pa.RecordBatch: ...
    @property
    def serials(self) -> pa.RecordBatch: ...
    @property
    def conditions(self) -> pa.RecordBatch: ...


@dataclass(frozen=True)
class Compiled:
    """A rule of one stream. `index` is its position among the stream's rules."""

    index: int
    rule: Rule
    condition: Expression
    subject: Subject


@dataclass(frozen=True)
class Fired:
    """What one rule fired: the joined rows, and the subject of each firing."""

    index: int
    row: npt.NDArray[np.int64]
    subject: pa.StringArray


class _Source:
    """What DuckDB scans under one name; its batch changes. To bind takes the schema, to scan the array."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        self._connection, self._name = connection, name
        self._schema: pa.Schema | None = None
        self.batch: pa.RecordBatch | None = None

    def hold(self, batch: pa.RecordBatch) -> None:
        """Let this batch be what is scanned; other columns than before make a new view."""
        self.batch = batch
        if self._schema is None or not batch.schema.equals(self._schema):
            self._schema = batch.schema
            self._connection.register(self._name, self)

    def __arrow_c_schema__(self) -> Any:
        assert self._schema is not None, "nothing to scan"
        return self._schema.__arrow_c_schema__()

    def __arrow_c_array__(self, requested_schema: object = None) -> Any:
        assert self.batch is not None, "nothing to scan"
        return self.batch.__arrow_c_array__(requested_schema)


class Level:
    """The rules of one stream that look at rows (`each` None), serials or conditions.

    With the optimizers off DuckDB converts every column it is handed, so the query gets only those that it
    names.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, name: str, each: str | None, rules: Sequence[Compiled]
    ) -> None:
        self._connection, self.each, self._rules = connection, each, rules
        self._name = f"{name}_{each or 'rows'}"
        self._source = _Source(connection, self._name)
        read: list[Expression | Subject] = [rule.condition for rule in rules]
        self._columns, self._element = _columns(read), _element(read)
        read += [rule.subject for rule in rules]
        self.columns, self.element = _columns(read), _element(read)
        self._alike: dict[Subject, list[int]] = {}  # rules whose subjects are written in one go
        for number, rule in enumerate(rules):
            self._alike.setdefault(rule.subject, []).append(number)
        (self._statement,) = connection.extract_statements(self._select(rule.condition for rule in rules))

    def _select(self, conditions: Iterable[Expression]) -> str:
        """The only statement a judge runs; expressions are translated rules, never values of a record.

        Null does not fire. Within CASE, DuckDB looks at the second half of an AND only where the first holds.
        A call of a macro that several conditions share is computed once, of all rows.
        """
        conditions = list(conditions)
        uses = Counter(call for condition in conditions for call in condition.calls)
        shared = [call for call, count in uses.items() if count >= _SHARED]
        names = {call: f'"call {number}"' for number, call in enumerate(shared)}
        source = self._name
        if names:
            calls = ", ".join(f"{call} AS {name}" for call, name in names.items())
            source = f"(SELECT *, {calls} FROM {source})"  # noqa: S608
        columns = (
            f"CASE WHEN {condition.sql_with(names)} THEN true ELSE false END AS c{number}"
            for number, condition in enumerate(conditions)
        )
        return f"SELECT {', '.join(columns)} FROM {source}"  # noqa: S608

    def run(self, joined: Joined) -> list[Fired]:
        """What fires, by rule; rules that do not are left out.

        Raises:
            SekishoError: a rule cannot be computed on these values.
        """
        elements = joined.rows if self.each is None else getattr(joined, self.each)
        if not elements.num_rows:
            return []
        row = None if self.each is None else elements["row"].to_numpy()
        hits = [np.flatnonzero(answer) for answer in self._query(self._batch(joined, elements, row))]
        fired = []
        for subject, numbers in self._alike.items():
            element = np.concatenate([hits[number] for number in numbers])
            if not len(element):
                continue
            where = element if row is None else row[element]
            subjects = self._subjects(subject, joined, elements, where, element)
            start = 0
            for number in numbers:
                part = slice(start, start + len(hits[number]))
                if part.stop > start:
                    fired.append(Fired(self._rules[number].index, where[part], subjects[part]))
                start = part.stop
        return fired

    def _batch(
        self, joined: Joined, elements: pa.RecordBatch, row: npt.NDArray[np.int64] | None
    ) -> pa.RecordBatch:
        """The columns that the conditions name, times naive, of all rows or elements."""
        outer = self._columns or ["t"]
        columns = [joined.rows[name] for name in outer]
        if row is not None:
            at = pa.array(row)
            columns = [column.take(at) for column in columns]
        columns += [elements[name] for name in self._element]
        return pa.RecordBatch.from_arrays([_naive(column) for column in columns], [*outer, *self._element])

    def _query(self, batch: pa.RecordBatch) -> list[npt.NDArray[np.bool_]]:
        """Per rule, which of the rows or elements fire."""
        self._source.hold(batch)
        try:
            return list(self._connection.execute(self._statement).fetchnumpy().values())
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise SekishoError(
                f"{self._culprit()} cannot be judged ({reason}); correct its condition"
            ) from error
        finally:
            self._source.batch = None

    def _culprit(self) -> str:
        """Which rule the batch breaks: only asked when a query has failed."""
        for rule in self._rules:
            try:
                self._connection.execute(self._select([rule.condition])).fetchall()
            except duckdb.Error:
                return f"rule {rule.rule.id}"
        return f"stream {self._name}"

    def _subjects(
        self,
        subject: Subject,
        joined: Joined,
        elements: pa.RecordBatch,
        row: npt.NDArray[np.int64],
        element: npt.NDArray[np.int64],
    ) -> pa.StringArray:
        """The subject at the given rows and elements."""
        columns = {name: joined.rows[name].take(pa.array(row)) for name in subject.columns}
        columns |= {name: elements[name].take(pa.array(element)) for name in subject.element}
        return subject.write(columns)


def _columns(expressions: Iterable[Expression | Subject]) -> list[str]:
    return sorted(frozenset[str]().union(*(one.columns for one in expressions)))


def _element(expressions: Iterable[Expression | Subject]) -> list[str]:
    return sorted(frozenset[str]().union(*(one.element for one in expressions)))


def _naive(column: pa.Array) -> pa.Array:
    """Zoned times as the naive UTC timestamps that rule SQL works on; no value is touched."""
    return column.cast(_NAIVE) if pa.types.is_timestamp(column.type) and column.type.tz else column

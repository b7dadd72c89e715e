"""One step of the reconciler: what landed since the last one in, what was found out.

The steps' boundaries do not matter: after the same records and versions the same holds, however they were
cut. Pure: no clock (`at` is handed in), no lake; what is remembered is in the state's tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa

from rules.judge import Judge
from rules.reconciler import (
    accesses,
    completed,
    context,
    coverage,
    coverage_scope,
    duplicates,
    findings,
    intervals,
    reach,
    scope,
    seen,
    sources,
    state,
    store,
    views,
    watermark,
)
from rules.reconciler.chain import Chains
from rules.reconciler.given import Clock, StepInput, StepOutput
from rules.reconciler.parts import parts
from rules.reconciler.seen import Seen
from rules.reconciler.watermark import Mark
from rules.references import References
from rules.rule import Rule
from rules.suppressions import Suppression
from rules.versions import Mask
from schemas.events import ACCESS, ALLOCATION, EVENTS, PLACEMENT
from schemas.reference import SOURCE

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_PLACE = 'topic VARCHAR, "partition" INTEGER, "offset" BIGINT'

_STEP_TABLES = {
    "desired": f"rule_id VARCHAR, subject VARCHAR, {_PLACE}, source VARCHAR, event_id VARCHAR, t TIMESTAMP, "
    "due TIMESTAMP, party_id VARCHAR, allocation_id VARCHAR, confirmed BOOLEAN",
    "judged_row": _PLACE,
    "judged_chain": _PLACE,
    "judged_subject": "rule_id VARCHAR, subject VARCHAR",
    "judged_id": "source VARCHAR, event_id VARCHAR",
}
"""What the judging modules fill in a step: what was found for the scope, and what was judged, so that
whatever of it is not found any more ceases to hold."""


class Reconciler:
    """The engine over one state. `references` are to be filled by whoever opens a state that has covered
    commits before; versions known early do no harm."""

    def __init__(
        self,
        folder: Path | None,
        rules: Sequence[Rule],
        suppressions: Sequence[Suppression] = (),
        judge: Judge | None = None,
    ) -> None:
        """Opens the working state in `folder`, or in memory; `judge` is one that has compiled these rules.

        Raises SekishoError when the state cannot be used.
        """
        self._con = state.connect(folder)
        self._suppressions = tuple(suppressions)
        self._judge = judge or Judge(rules)
        self.references = References(self._judge.columns | context.COLUMNS | coverage.COLUMNS)
        _create(self._con, rules)
        if folder is not None:
            with state.connect(None) as fresh:
                _create(fresh, rules)
                state.check(self._con, fresh)
        context.create(self._con, self.references)
        views.create(self._con)
        self._queries = views.compile_all(rules)
        self._seen = Seen(self._con, folder)
        accesses.open_files(self._con)
        self._chains = Chains(self._con)
        self._coverage = coverage.Coverage(self._con)
        self._mark = Mark(None, None, None, 0)

    @property
    def position(self) -> int:
        """The raw version covered so far, 0 for none."""
        return state.get(self._con, "raw_version") or 0

    @property
    def settled_step(self) -> int:
        """The lake's step that the state has absorbed, 0 for none."""
        return state.get(self._con, "settled_step") or 0

    def take(self, given: StepInput) -> pa.Table:
        """Takes in what landed, as a step that `settle`, `commit` or `rollback` goes on with.

        Nothing is decided or put out but the duplicates that are returned (rows of `duplicate` before
        landing): the next `settle` does it, of this step and of those before it.
        """
        self._con.execute("BEGIN")
        for table in _STEP_TABLES:
            self._con.execute(f"DELETE FROM {table}")
        with_versions = self._learn(given)
        found, new = self._take(given)
        reaching = reach.is_reaching(self._con)
        scope.build(self._con, new, found.gone.num_rows, reaching)
        store.keep(self._con, ALLOCATION, new[ALLOCATION.name])
        if new[ALLOCATION.name].num_rows or found.gone.num_rows:
            self._chains.follow()
        judged = parts(self._con, self._chains, new)
        told = completed.judge_rows(self._con, self.references, self._judge, judged, with_versions.less)
        context.build(self._con, self.references, judged, told, with_versions.same)
        self._look_at_sources(given, new)
        views.run(self._con, self._queries)
        findings.absorb_workers(self._con, given.firings, found.duplicates)
        findings.replace(self._con)
        for record in (ACCESS, PLACEMENT):
            store.keep(self._con, record, new[record.name])
        self._coverage.note()
        state.put(self._con, "raw_version", given.raw_version)
        return found.duplicates

    def settle(self, at: datetime, final: bool = False) -> StepOutput:
        """Decides what the step taken in, and those before it, have come to.

        `at` (with a zone) is the wall time that goes into `detected_at`; `final` puts out what otherwise is
        held back for a minute.
        """
        con, mark = self._con, self._mark
        now = mark.watermark
        emission = findings.settle(
            con,
            now,
            (at - _EPOCH) // timedelta(microseconds=1),
            final,
            self.references.known,
            self._suppressions,
        )
        pieces = self._cover(self.settled_step + 1, now)
        lively = watermark.lively(con, mark.latest)
        return StepOutput(
            events=emission.events,
            history=emission.history,
            published=emission.published,
            coverage=pieces,
            watermark=now,
            latest_broker_time=mark.latest,
            late=mark.late,
            open_findings={(rule, severity): n for rule, severity, n in findings.open_counts(con)},
            coverage_by_site={} if now is None else self._coverage.ratios(),
            live_sources=len(lively.live),
            silent_sources=len(lively.silent),
        )

    def commit(self, settled_step: int | None = None) -> None:
        """Keeps the step, and the number under which it was settled in the lake."""
        if settled_step is not None:
            state.put(self._con, "settled_step", settled_step)
        self._con.execute("COMMIT")
        state.shed(self._con)
        context.let_go(self._con)
        store.let_go(self._con)

    def rollback(self) -> None:
        """Takes the step back; versions learned stay known, which does no harm."""
        try:
            self._con.execute("ROLLBACK")
        finally:  # it fails where the step's own failure has rolled it back
            self._coverage.forget()

    def absorb(self, events: pa.Table, history: pa.Table, step: int, clock: Clock) -> None:
        """Takes what the lake says of findings as put out already: up to `step`, which had come to `clock`.

        `events`: the latest row of each event of each finding; `history`: the latest row of each finding.
        Between steps; keeps it at once.
        """
        self._con.execute("BEGIN")
        findings.absorb_lake(self._con, events, history)
        watermark.set_back(self._con, clock)
        if clock.watermark is not None:
            self._cover(step, clock.watermark)
        self.commit(step)

    def checkpoint(self) -> None:
        """Writes the state's file out."""
        self._con.execute("CHECKPOINT")

    def close(self) -> None:
        self._con.close()

    def _learn(self, given: StepInput) -> "_Judged":
        """Takes in new reference versions; returns with which of them the commits were judged."""
        reach.follow(self._con, given.references)
        for record, versions in given.references:
            self.references.add(record, versions)
            if record.name == SOURCE.name:
                sources.add_versions(self._con, versions)
        for (topic, partition), offset in given.read.items():
            self.references.note_read(topic, partition, offset)
        now = {place: offset for place, offset in self.references.known.items() if place[0] in reach.TOPICS}
        judged = _Judged([], [])
        for index, known in enumerate(given.known):
            then = {place: offset for place, offset in known.items() if place[0] in reach.TOPICS}
            if any(then.get(place, 0) < offset for place, offset in now.items()):
                judged.less.append(index)
            elif not any(now.get(place, 0) < offset for place, offset in then.items()):
                judged.same.append(index)
        return judged

    def _take(self, given: StepInput) -> tuple[duplicates.Found, dict[str, pa.Table]]:
        """Sorts out duplicates; what is new becomes `new_*`, what turns out to be one `gone_*`."""
        found = duplicates.find(self._con, self._seen, given.events)
        originals = {
            record.name: _chosen(given.events[record.name], found.original[record.name])
            for record in EVENTS.values()
        }
        new = store.take_new(self._con, originals)
        store.take_gone(self._con, found.gone)
        return found, new

    def _look_at_sources(self, given: StepInput, new: Mapping[str, pa.Table]) -> None:
        self._con.register("rejected_rows", given.rejected)
        self._con.execute(
            "CREATE OR REPLACE TEMP TABLE scope_rejected AS "
            'SELECT topic, "partition", "offset", reason FROM rejected_rows'
        )
        self._con.unregister("rejected_rows")
        sources.add(self._con, new.values())
        self._mark = watermark.advance(
            self._con, given.broker_first, given.broker_last, given.tick, given.unread, given.clock
        )
        sources.judge(self._con, self._mark.first, self._mark.latest)

    def _cover(self, step: int, now: int | None) -> pa.Table:
        """The coverage pieces that the watermark has passed since the last time."""
        if now is not None:
            store.show_accesses(self._con, coverage_scope.watermark(self._con), now)
        return self._coverage.update(self.references, now, step, self._events_of)

    def _events_of(self, stream: str, table: str, column: str) -> str:
        return store.events_of(self._con, EVENTS[f"custody.{stream}"], table, column)


@dataclass(frozen=True)
class _Judged:
    """The step's commits that were judged without versions that are known now, and those that were judged
    with exactly these; others were judged with versions that are still to come."""

    less: list[int]
    same: list[int]


def _chosen(rows: pa.Table, mask: Mask) -> pa.Table:
    """The rows of the mask: nearly always all, which need no copy."""
    return rows if mask.all() else rows.filter(pa.array(mask))


def _create(con: duckdb.DuckDBPyConnection, rules: Sequence[Rule]) -> None:
    """Makes the tables where they are missing."""
    for table, columns in _STEP_TABLES.items():
        con.execute(f"CREATE TEMP TABLE {table} ({columns})")
    for module in (store, intervals, reach, scope, seen, duplicates, sources, watermark, coverage):
        module.create(con)
    findings.create(con, rules)

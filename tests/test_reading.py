"""Positions, micro-batches and the open transaction, without Kafka and without a lake."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rules.judge import Judge
from schemas.errors import SekishoError
from sinks.lake import Lake as LakeOnDisk
from sinks.metrics import Metrics
from stream.fetches import Fetch, to_arrow
from stream.judging import Batch, Judged, Judging, extend
from stream.landing import Lander
from stream.positions import Start, start_at
from stream.reading import PATIENCE, ROOM, Intake
from stream.record_batches import from_rows
from stream.settings import Settings

PLACE = ("custody.access", 0)
OTHER = ("custody.party", 0)
KEPT = Settings(batch_rows=3, batch_ms=50, commit_rows=100)


def fetch(start: int, count: int, epoch: int = 1, place: tuple[str, int] = PLACE) -> Fetch:
    records = from_rows((offset, 0, None, None, b"{}") for offset in range(start, start + count))
    return Fetch(*place, start, start + count, records, epoch)


@pytest.mark.parametrize(
    ("landed", "first", "end", "read", "land"),
    [(None, 0, 9, 0, 0), (None, 4, 9, 4, 4), (4, 4, 9, 4, 4), (9, 4, 9, 9, 9), (6, 0, 9, 6, 6)],
)
def test_reading_goes_on_where_the_lake_ends(
    landed: int | None, first: int, end: int, read: int, land: int
) -> None:
    assert start_at(PLACE, landed, first, end, frozenset()) == Start(read, land)


@pytest.mark.parametrize(("landed", "said"), [(2, "offsets 2 to 3 were deleted"), (10, "ends at 9")])
def test_lost_records_need_a_person(landed: int, said: str) -> None:
    with pytest.raises(SekishoError, match=said):
        start_at(PLACE, landed, 4, 9, frozenset({OTHER}))
    gap = start_at(PLACE, landed, 4, 9, frozenset({PLACE})).gap
    assert gap is not None
    assert gap.start == landed


def intake(places: Mapping[tuple[str, int], Start] | None = None, settings: Settings = KEPT) -> Intake:
    found = Intake(settings, Metrics())
    found.begin(1, places or {PLACE: Start(0, 0)})
    return found


def test_fetches_of_another_epoch_are_dropped() -> None:
    async def run() -> Intake:
        found = intake()
        await found.put(fetch(7, 2, epoch=0))
        await found.put(fetch(0, 2))
        await found.put(fetch(2, 2, epoch=2))
        return found

    assert [item.start for item in asyncio.run(run()).take().fetches] == [0]


def test_a_gap_or_a_repetition_is_refused() -> None:
    async def run(second: Fetch) -> None:
        found = intake()
        await found.put(fetch(0, 2))
        await found.put(second)

    for start in (1, 3):
        with pytest.raises(SekishoError, match=f"offset {start} was read where 2 was due"):
            asyncio.run(run(fetch(start, 1)))


def test_agents_wait_while_there_is_no_room_and_are_let_go_by_a_seek() -> None:
    async def run() -> None:
        found = intake()
        full = ROOM * KEPT.batch_rows
        await found.put(fetch(0, full))
        waiting = asyncio.create_task(found.put(fetch(full, 1)))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        assert found.take().rows == full
        await waiting
        assert found.take().rows == 1
        await found.put(fetch(full + 1, full))
        waiting = asyncio.create_task(found.put(fetch(2 * full + 1, 1)))
        await asyncio.sleep(0.01)
        found.begin(2, {PLACE: Start(full + 1, full + 1)})
        await waiting  # dropped: its epoch is over
        assert found.due_in() is None

    asyncio.run(run())


def test_a_batch_is_due_by_rows_or_by_time() -> None:
    async def run() -> None:
        found = intake()
        assert found.due_in() is None
        await found.put(fetch(0, 1))
        assert 0 < (found.due_in() or 0) <= 0.05
        await asyncio.sleep(0.06)
        assert found.due_in() == 0.0
        found.take()
        await found.put(fetch(1, 3))
        assert found.due_in() == 0.0

    asyncio.run(run())


def test_a_batch_of_few_records_may_wait_longer() -> None:
    async def run() -> None:
        found = intake(settings=Settings(batch_rows=200, batch_ms=500))
        await found.put(fetch(0, 4))
        assert 0.5 < (found.due_in() or 0) <= PATIENCE
        found.wake.clear()
        await found.put(fetch(4, 1))
        assert 0 < (found.due_in() or 0) <= 0.5
        assert found.wake.is_set()
        patient = intake(settings=Settings(batch_rows=200, batch_ms=2000))
        await patient.put(fetch(0, 4))
        assert 1.5 < (patient.due_in() or 0) <= 2.0, "no longer than asked, where more is asked"

    asyncio.run(run())


def test_what_was_given_up_is_skipped_and_noted() -> None:
    async def run() -> Batch:
        found = intake({PLACE: Start(2, 5, Fetch(*PLACE, 5, 5))})
        await found.put(fetch(2, 2))
        await found.put(fetch(4, 3))
        return found.take()

    batch = asyncio.run(run())
    covered = [(item.start, item.end, to_arrow([item], {})["offset"].to_pylist()) for item in batch.fetches]
    assert covered == [(5, 5, []), (5, 7, [5, 6])]
    judging = Judging(Judge([]), {})
    judged = judging.judge(judging.decode(batch))
    assert judged.ranges == {PLACE: (5, 7)}
    assert judged.holes == [(*PLACE, 5, 5)]


def test_ranges_must_follow_on() -> None:
    ranges = {PLACE: (0, 4)}
    extend(ranges, PLACE, (4, 9))
    assert ranges == {PLACE: (0, 9)}
    with pytest.raises(AssertionError):
        extend(ranges, PLACE, (10, 11))


class Transaction:
    def __init__(self, committed: list[Any]) -> None:
        self._committed = committed

    def append(self, landing: Any) -> None: ...

    def commit(self, *what: Any) -> None:
        self._committed.append(what)

    def abort(self) -> None: ...


class Lake:
    """A lake that remembers what was committed."""

    def __init__(self) -> None:
        self.committed: list[Any] = []

    def begin(self, at: Any) -> Transaction:
        return Transaction(self.committed)


def judged(judging: Judging, *fetches: Fetch, waited: float = 0.0) -> Judged:
    batch = Batch(fetches, sum(map(len, fetches)), 0, time.monotonic() - waited)
    return judging.judge(judging.decode(batch))


def test_a_commit_holds_events_judged_with_one_state_of_knowledge() -> None:
    lake = Lake()
    lander = Lander(lake, KEPT, Metrics())  # type: ignore[arg-type]
    judging = Judging(Judge([]), {})
    lander.append(judged(judging, fetch(0, 2)))
    assert not lander.must_commit_before(judged(judging, fetch(2, 2)))
    knowing_more = judged(judging, fetch(2, 2), fetch(0, 1, place=OTHER))
    assert lander.must_commit_before(knowing_more)
    assert lander.commit() == {PLACE: 2}
    assert not lander.must_commit_before(knowing_more)
    lander.append(judged(judging, fetch(1, 1, place=OTHER)))
    assert not lander.must_commit_before(judged(judging, fetch(2, 2)))  # no events in it yet
    assert lake.committed == [({PLACE: (0, 2)}, {}, [])]


def test_a_log_that_was_given_up_is_noted_with_the_first_records_after_it(tmp_path: Path) -> None:
    lake = LakeOnDisk.open(tmp_path)
    lander = Lander(lake, KEPT, Metrics())
    judging = Judging(Judge([]), {})
    lander.append(judged(judging, Fetch(*PLACE, 5, 5)))
    assert lander.commit() == {}, "nothing has come yet"
    lander.append(judged(judging, fetch(0, 1, place=("custody.access", 1))))
    assert lander.commit() == {("custody.access", 1): 1}
    lander.append(judged(judging, fetch(5, 1)))
    assert lander.commit() == {PLACE: 6}
    assert [commit.batch.holes for commit in lake.commits(0)] == [[], [(*PLACE, 5, 5)]]


def test_a_transaction_is_due_by_rows_and_by_seconds() -> None:
    judging = Judging(Judge([]), {})
    by_rows = Lander(Lake(), Settings(commit_rows=4), Metrics())  # type: ignore[arg-type]
    by_rows.append(judged(judging, fetch(0, 3)))
    assert not by_rows.is_due
    by_rows.append(judged(judging, fetch(3, 1)))
    assert by_rows.is_due
    by_rows.abort()
    assert not by_rows.is_open
    by_age = Lander(Lake(), Settings(commit_seconds=60), Metrics())
    by_age.append(judged(judging, fetch(0, 1)))
    assert not by_age.is_due
    by_age.abort()
    by_age.append(
        judged(judging, fetch(0, 1), waited=60)
    )  # from when it was read, not from when it was judged
    assert by_age.is_due


def test_what_is_known_already_is_not_learned_again() -> None:
    judging = Judging(Judge([]), {})
    judging.learn([fetch(0, 3, place=OTHER)])
    assert judging.references.known == {OTHER: 3}
    judging.learn([fetch(0, 2, place=OTHER)])
    assert judging.references.known == {OTHER: 3}

"""The clocks and the watermark, by hand."""

from pathlib import Path

import pytest

from rules.reconciler import accesses, sources, state, store, watermark
from rules.reconciler.given import Clock, Partition
from rules.reconciler.watermark import LATENESS_US, Mark
from schemas.events import ACCESS
from tests.test_source_life import BASE, SECOND, Event, Version, take, versions_batch

HOUR = 3600 * SECOND


class Engine:
    def __init__(self, folder: Path | None = None) -> None:
        self.con = state.connect(folder)
        store.create(self.con)
        sources.create(self.con)
        watermark.create(self.con)
        self.latest: int | None = None

    def step(
        self,
        *new: Event,
        gone: tuple[Event, ...] = (),
        versions: tuple[Version, ...] = (),
        tick: int | None = None,
        unread: tuple[Partition, ...] = (),
        clock: Clock | None = None,
    ) -> Mark:
        taken = take(self.con, new, gone)
        if versions:
            sources.add_versions(self.con, versions_batch(versions))
        sources.add(self.con)
        heard = [e.broker_time for e in new] + ([] if tick is None else [tick])
        low, high = (min(heard), max(heard)) if heard else (None, None)
        mark = watermark.advance(self.con, low, high, tick, frozenset(unread), clock)
        store.keep(self.con, ACCESS, taken[ACCESS.name])
        self.latest = mark.latest
        return mark

    def lively(self) -> tuple[list[str], list[str]]:
        found = watermark.lively(self.con, self.latest)
        return found.live, found.silent


def event(offset: int, source: str, t: int, broker_time: int | None = None, future: bool = False) -> Event:
    return Event(offset, source, None, t, t if broker_time is None else broker_time, offset % 4, future)


def test_nothing_yet() -> None:
    engine = Engine()
    assert engine.step() == Mark(None, None, None, 0)
    assert engine.lively() == ([], [])


def test_the_lowest_of_the_live_sources_less_the_lateness() -> None:
    engine = Engine()
    mark = engine.step(event(1, "a", BASE), event(2, "b", BASE + 5), event(3, "a", BASE - 7))
    assert mark == Mark(BASE - 7, BASE + 5, BASE - LATENESS_US, 0)
    assert engine.lively() == (["a", "b"], [])


def test_it_never_goes_back_and_counts_what_is_late() -> None:
    engine = Engine()
    engine.step(event(1, "a", BASE))
    on_time, late = BASE - LATENESS_US, BASE - LATENESS_US - 1
    mark = engine.step(event(2, "b", late, BASE), event(3, "a", on_time, BASE))
    assert mark == Mark(BASE, BASE, BASE - LATENESS_US, 1)


def test_a_silent_source_leaves_until_it_speaks_again() -> None:
    engine = Engine()
    engine.step(event(1, "a", BASE))
    assert engine.step(event(2, "b", BASE + HOUR)).watermark == BASE - LATENESS_US
    assert engine.step(event(3, "b", BASE + HOUR + 1)).watermark == BASE + HOUR + 1 - LATENESS_US
    assert engine.lively() == (["b"], ["a"])
    engine.step(event(4, "a", BASE + HOUR + 2))
    assert engine.lively() == (["a", "b"], [])


def test_the_limit_is_that_of_the_version_in_force_at_the_last_sign_of_life() -> None:
    engine = Engine()
    versions = (
        Version(0, "a", 1, BASE, None, 60),
        Version(1, "a", 2, BASE + SECOND, BASE + HOUR, 120),
        Version(2, "b", 1, BASE - HOUR, None, (1 << 63) - 1),
    )
    engine.step(event(1, "a", BASE), event(2, "b", BASE - HOUR), versions=versions)
    engine.step(tick=BASE + 60 * SECOND)
    assert engine.lively() == (["a", "b"], [])
    engine.step(tick=BASE + 60 * SECOND + 1)
    assert engine.lively() == (["b"], ["a"])
    engine.step(event(3, "a", BASE, BASE + SECOND))
    assert engine.lively() == (["a", "b"], [])
    engine.step(tick=BASE + 121 * SECOND + 1)
    assert engine.lively() == (["b"], ["a"])
    engine.step(versions=(Version(3, "a", 3, BASE, None, None),))
    assert engine.lively() == (["a", "b"], [])


def test_future_events_are_signs_of_life_that_move_nothing() -> None:
    engine = Engine()
    assert engine.step(event(1, "a", BASE + HOUR, BASE, future=True)).watermark is None
    assert engine.lively() == (["a"], [])
    assert engine.step(tick=BASE).watermark == BASE - LATENESS_US
    mark = engine.step(event(2, "b", BASE + 9), event(3, "b", BASE + HOUR, BASE, future=True))
    assert mark.watermark == BASE + 9 - LATENESS_US


def test_where_nobody_lives_the_tick_counts() -> None:
    engine = Engine()
    engine.step(event(1, "a", BASE))
    mark = engine.step(tick=BASE + HOUR + 1)
    assert mark == Mark(BASE, BASE + HOUR + 1, BASE + HOUR + 1 - LATENESS_US, 0)
    assert engine.step().watermark == BASE + HOUR + 1 - LATENESS_US


def test_unread_partitions_hold_it_back() -> None:
    engine = Engine()
    first, second = ("custody.access", 1), ("custody.access", 2)
    assert engine.step(event(1, "a", BASE), unread=(first, second)).watermark is None
    mark = engine.step(event(5, "a", BASE + 9), event(2, "a", BASE + 4), unread=(first, second))
    assert mark.watermark == BASE + 4 - LATENESS_US
    mark = engine.step(event(9, "a", BASE + 20), unread=(first, ("custody.access", 3)))
    assert mark.watermark == BASE + 4 - LATENESS_US
    assert engine.step(unread=(first,)).watermark == BASE + 20 - LATENESS_US


def test_a_source_whose_records_wait_unread_is_not_silent() -> None:
    engine = Engine()
    second = ("custody.access", 2)
    engine.step(event(1, "a", BASE), event(2, "b", BASE))
    waiting = engine.step(event(5, "a", BASE + 2 * HOUR), unread=(second,))
    assert waiting.latest == BASE and engine.lively() == (["a", "b"], [])
    assert engine.step(unread=(("custody.access", 3),)).latest == BASE
    assert engine.step(event(6, "b", BASE + HOUR), unread=(second,)).latest == BASE + HOUR
    assert engine.step().latest == BASE + 2 * HOUR
    assert engine.lively() == (["a", "b"], [])


@pytest.mark.parametrize("said, expected", [(BASE + 7, BASE + 7), (BASE - HOUR, BASE - LATENESS_US)])
def test_a_clock_from_outside_goes_first_but_not_back(said: int, expected: int) -> None:
    engine = Engine()
    engine.step(event(1, "a", BASE))
    mark = engine.step(event(2, "a", BASE + 5), clock=Clock(said, BASE + 3))
    assert mark == Mark(BASE, BASE + 3, expected, 0)


def test_what_was_put_out_before_is_taken_over() -> None:
    engine = Engine()
    watermark.set_back(engine.con, Clock(BASE, BASE + 9))
    mark = engine.step(event(1, "a", BASE), unread=(("custody.access", 7),))
    assert (mark.watermark, mark.latest) == (BASE, BASE + 9)
    watermark.set_back(engine.con, Clock(BASE - 1, None))
    mark = engine.step(unread=(("custody.access", 7),))
    assert (mark.watermark, mark.latest) == (BASE, BASE + 9)


@pytest.mark.parametrize("in_files", [False, True])
def test_a_newest_event_that_gives_way_to_a_future_copy_of_itself(
    in_files: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accesses, "FILE_ROWS", 1)
    engine = Engine(tmp_path if in_files else None)
    old = event(9, "a", BASE + 1000, BASE + 1000)
    kept = event(10, "b", BASE + 2000)
    engine.step(event(1, "a", BASE), old, event(2, "b", BASE), kept)
    copies = Event(9, "a", None, BASE + 1000, BASE, 0, True), Event(10, "b", None, BASE + 2000, BASE, 0)
    engine.step(*copies, gone=(old, kept))
    rows = engine.con.execute("SELECT source, newest FROM source_clock ORDER BY source").fetchall()
    assert rows == [("a", BASE), ("b", BASE + 2000)]

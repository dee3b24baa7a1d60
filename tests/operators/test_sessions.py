"""Session windows against a brute-force merge of sessions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import streamline as sl
from streamline.errors import UsageError, UserFunctionError
from streamline.keys import key_group
from streamline.messages import MIN_TIMESTAMP
from streamline.operators.aggregations import Count, Sum
from streamline.operators.base import LATE
from streamline.operators.windows.assigners import Session, WindowBounds
from streamline.operators.windows.specs import window_aggregate, window_apply, window_reduce
from tests.operators.drive import MAX_PARALLELISM, NODE, Setting, Tasks
from tests.operators.test_windows import (
    ALL,
    Expected,
    Item,
    Picky,
    Row,
    Step,
    check,
    give,
    last_of,
    outcome,
    run,
    script_of,
)

KEYS = [f"k{number}" for number in range(12)]


class Sessions:
    """The definition, one record after the other.

    A session is the records of a key that are chained by at most ``gap``; it ends ``gap`` after
    its last. It can be joined until its end and the lateness have passed.
    """

    def __init__(self, gap: int, lateness: int) -> None:
        self.gap, self.lateness = gap, lateness
        self.reached = MIN_TIMESTAMP
        self.open: dict[Any, list[list[tuple[Item, int]]]] = {}
        self.expired: dict[tuple[Any, WindowBounds], list[Item]] = {}
        self.late: list[Row] = []

    def bounds(self, session: list[tuple[Item, int]]) -> WindowBounds:
        times = [at for _, at in session]
        return WindowBounds(min(times), max(times) + self.gap)

    def add(self, item: Item, key: Any, at: int) -> None:
        mine = self.open.setdefault(key, [])
        near = [s for s in mine if any(abs(at - other) <= self.gap for _, other in s)]
        # A record between two of one session belongs to it, however far they are from it.
        near = [s for s in mine if s in near or self.bounds(s).start <= at <= self.bounds(s).end]
        if not near and at + self.gap - 1 + self.lateness <= self.reached:
            self.late.append((item, key, at))
            return
        joined = [record for s in near for record in s] + [(item, at)]
        self.open[key] = [s for s in mine if s not in near] + [joined]

    def watermark(self, reached: int) -> None:
        self.reached = max(self.reached, reached)
        for key, mine in self.open.items():
            gone = [s for s in mine if self.bounds(s).end - 1 + self.lateness <= self.reached]
            for session in gone:
                place = (key, self.bounds(session))
                assert place not in self.expired
                self.expired[place] = [item for item, _ in session]
            self.open[key] = [s for s in mine if s not in gone]

    def ended(self) -> dict[tuple[Any, WindowBounds], Any]:
        """The sessions whose end has been reached, expired or not."""
        live = {
            (key, self.bounds(s)): [item for item, _ in s]
            for key, mine in self.open.items()
            for s in mine
            if self.bounds(s).end - 1 <= self.reached
        }
        return {place: outcome(items) for place, items in {**self.expired, **live}.items()}


def sessions_of(gap: int, lateness: int, steps: list[Step]) -> Expected:
    sessions = Sessions(gap, lateness)
    for step in [*steps, 1 << 62]:
        if isinstance(step, int):
            sessions.watermark(step)
        else:
            for row in step:
                sessions.add(*row)
    return Expected(sessions.expired, sessions.late)


def check_sessions(ran: Any, expected: Expected, lateness: int) -> None:
    """With lateness, sessions that were told may have grown later on: those remain unchecked."""
    if lateness == 0:
        check(ran, expected, 0)
        return
    last = last_of(ran.results)
    for place, items in expected.contents.items():
        assert last.get(place) == outcome(items), place
    assert ran.counted == len(ran.late) == len(expected.late)
    assert sorted((i.number, at) for i, at in ran.late) == sorted(
        (i.number, at) for i, _, at in expected.late
    )


@pytest.mark.parametrize("block", range(5))
def test_sessions_are_what_the_definition_says(block: int, tmp_path: Path) -> None:
    for seed in range(block * 30, block * 30 + 30):
        r = random.Random(seed)
        gap = r.choice([1, 5, 30, 700, 5000])
        lateness = 0 if seed % 2 else r.choice([1, gap, 4 * gap])
        steps = script_of(seed, max(1, int(gap * r.choice([0.3, 1, 2]))))
        expected = sessions_of(gap, lateness, steps)
        spec = window_aggregate(Session(f"{gap}ms"), lateness, ALL)
        try:
            folder = tmp_path / str(seed)
            check_sessions(run(spec, steps, folder, seed), expected, lateness)
            check_sessions(run(spec, steps, folder, seed, longest=1), expected, lateness)
            wide = run(spec, steps, folder, seed, columns=True, longest=99, parallelism=2)
            check_sessions(wide, expected, lateness)
        except AssertionError as error:
            error.add_note(f"seed {seed}, gap {gap}, lateness {lateness}")
            raise


@pytest.mark.parametrize("block", range(4))
def test_sessions_go_on_from_snapshots(block: int, tmp_path: Path) -> None:
    for seed in range(1000 + block * 25, 1000 + block * 25 + 25):
        r = random.Random(seed)
        gap = r.choice([1, 30, 700, 5000])
        lateness = r.choice([0, 0, gap, 4 * gap])
        steps = script_of(seed, max(1, int(gap * r.choice([0.3, 1, 2]))))
        try:
            ran = run(
                window_aggregate(Session(f"{gap}ms"), lateness, ALL),
                steps,
                tmp_path / str(seed),
                seed,
                columns=seed % 2 == 0,
                parallelism=r.randint(1, 3),
                restores=r.randint(1, 2),
                entries=r.choice([3, 20, 1_000_000]),
            )
            check_sessions(ran, sessions_of(gap, lateness, steps), lateness)
        except AssertionError as error:
            error.add_note(f"seed {seed}, gap {gap}, lateness {lateness}")
            raise


def test_results_are_complete_as_soon_as_the_watermark_says_so(tmp_path: Path) -> None:
    for seed in range(2000, 2050):
        r = random.Random(seed)
        gap = r.choice([1, 30, 700])
        steps = script_of(seed, gap)
        tasks = Tasks(window_aggregate(Session(f"{gap}ms"), 0, ALL), Setting(tmp_path / str(seed)))
        sessions = Sessions(gap, 0)
        for step in steps:
            give(tasks, step, r, columns=False, longest=5)
            if isinstance(step, int):
                sessions.watermark(step)
            else:
                for row in step:
                    sessions.add(*row)
            assert last_of(tasks.timed()) == sessions.ended(), seed
        tasks.close()


def test_nothing_is_told_of_a_session_before_its_end(tmp_path: Path) -> None:
    """Whatever the batches, with lateness too."""
    for seed in range(3000, 3060):
        r = random.Random(seed)
        gap = r.choice([5, 30])
        steps = script_of(seed, gap)
        spec = window_aggregate(Session(f"{gap}ms"), 10 * gap, ALL)
        tasks = Tasks(spec, Setting(tmp_path / str(seed)))
        reached = MIN_TIMESTAMP
        for step in steps:
            give(tasks, step, r, columns=False, longest=10)
            if isinstance(step, int):
                reached = max(reached, step)
            early = [(value, at) for value, at in tasks.timed() if at > reached]
            assert not early, (seed, gap, reached, early)
        tasks.close()


def test_late_records_that_reopen_a_session_in_one_batch(tmp_path: Path) -> None:
    """The first record falls into a fired session, the second moves its end past the watermark."""
    spec = window_aggregate(Session("10ms"), 1000, (("n", Count()),))
    for one_batch in (False, True):
        tasks = Tasks(spec, Setting(tmp_path / str(one_batch)))
        tasks.push([Item(0, 0)], [0], ["a"])
        tasks.watermark(12)
        assert [(v.window_end, v.n) for v in tasks.values()] == [(10, 1)]
        if one_batch:
            tasks.push([Item(1, 0), Item(2, 0)], [1, 8], ["a", "a"])
            assert [(v.window_end, v.n) for v in tasks.values()] == [(10, 1)]
        else:
            tasks.push([Item(1, 0)], [1], ["a"])
            tasks.push([Item(2, 0)], [8], ["a"])
            assert [(v.window_end, v.n) for v in tasks.values()] == [(10, 1), (11, 2)]
        tasks.watermark(17)
        assert [(v.window_end, v.n) for v in tasks.values()][-1] == (18, 3)
        tasks.close()


def test_a_session_lives_exactly_as_long_as_its_gap(tmp_path: Path) -> None:
    tasks = Tasks(window_aggregate(Session("10ms"), 0, ALL), Setting(tmp_path))
    tasks.push([Item(1, 1), Item(2, 2), Item(3, 3)], [0, 10, 21], ["a", "a", "a"])
    tasks.watermark(18)
    assert tasks.values() == []
    tasks.watermark(19)
    assert [(r.window_start, r.window_end, r.sum) for r in tasks.values()] == [(0, 20, 3)]
    tasks.watermark(30)
    assert [(r.window_start, r.window_end, r.sum) for r in tasks.values()][1:] == [(21, 31, 3)]


def test_a_record_between_two_sessions_makes_them_one(tmp_path: Path) -> None:
    tasks = Tasks(window_aggregate(Session("10ms"), 0, ALL), Setting(tmp_path))
    tasks.push([Item(1, 1), Item(2, 2)], [0, 20], ["a", "a"])
    tasks.watermark(5)
    tasks.push([Item(3, 3)], [10], ["a"])
    tasks.end()
    assert [(r.window_start, r.window_end, r.sum) for r in tasks.values()] == [(0, 30, 6)]


def test_reduce_and_apply_of_sessions(tmp_path: Path) -> None:
    def told(key: Any, bounds: WindowBounds, items: list[Item]) -> Iterator[Any]:
        yield (repr(key), *bounds, sorted(item.number for item in items))
        items.clear()

    for seed in range(20):
        steps = script_of(seed, 40)
        expected = sessions_of(30, 0, steps)
        applied = run(
            window_apply(Session("30ms"), 0, told), steps, tmp_path / f"a{seed}", seed, restores=1
        )
        assert sorted(applied.results) == sorted(
            ((repr(key), *bounds, sorted(i.number for i in items)), bounds.end - 1)
            for (key, bounds), items in expected.contents.items()
        ), seed
        reduced = run(
            window_reduce(Session("30ms"), 0, lambda a, b: Item(0, a.amount + b.amount)),
            steps,
            tmp_path / f"r{seed}",
            seed,
            restores=1,
        )
        assert sorted((at, item.amount) for item, at in reduced.results) == sorted(
            (bounds.end - 1, sum(i.amount for i in items))
            for (_, bounds), items in expected.contents.items()
        ), seed


def test_errors_name_operator_and_record(tmp_path: Path) -> None:
    spec = window_aggregate(Session("1s"), 0, (("n", Count()), ("picky", Picky("amount"))))
    tasks = Tasks(spec, Setting(tmp_path))
    with pytest.raises(UserFunctionError, match="unlucky") as error:
        tasks.push([Item(1, 1), Item(2, 13)], [1, 2], ["a", "b"])
    assert error.value.operator == NODE
    assert "13" in error.value.record
    with pytest.raises(UsageError, match="without an event time"):
        tasks.push([Item(1, 1)], [MIN_TIMESTAMP], ["a"])
    with pytest.raises(UsageError, match="'amuont'.*number, amount"):
        Tasks(
            window_aggregate(Session("1s"), 0, (("x", Sum("amuont")),)), Setting(tmp_path / "2")
        ).push([Item(1, 1)], [1], ["a"])


def test_a_reduce_that_raises_when_sessions_are_merged_names_the_operator(tmp_path: Path) -> None:
    failing = window_reduce(Session("1s"), 0, lambda a, b: 1 // 0)
    tasks = Tasks(failing, Setting(tmp_path / "3"))
    tasks.push([Item(1, 1), Item(2, 2)], [0, 1500], ["a", "a"])
    with pytest.raises(UserFunctionError, match="ZeroDivisionError") as error:
        tasks.push([Item(3, 3)], [800], ["a"])  # its two sessions are merged first
    assert error.value.operator == NODE


def test_a_session_result_is_a_record_of_its_own(tmp_path: Path) -> None:
    spec = window_aggregate(Session("10ms"), 0, (("total", Sum(sl.col("amount") + 1)),))
    tasks = Tasks(spec, Setting(tmp_path))
    tasks.push([Item(1, 1)], [3], [("k", 2)])
    tasks.end()
    ((value, at),) = tasks.timed()
    assert (value.key, value.window_start, value.window_end, value.total) == (("k", 2), 3, 13, 2)
    assert at == 12


def test_tasks_at_different_watermarks_are_restored_each_at_its_own(tmp_path: Path) -> None:
    """What is late for a key does not depend on the tasks of other keys, before or after."""
    spec = window_aggregate(Session("10ms"), 0, ALL)
    tasks = Tasks(spec, Setting(tmp_path), 2)
    first = tasks.tasks[0].key_range
    fast = [key for key in KEYS if key_group(key, MAX_PARALLELISM) < first.stop]
    slow = [key for key in KEYS if key not in fast]
    for task, reached in zip(tasks.tasks, (100, 50), strict=True):
        task.watermark(reached)
    for parallelism in (1, 3, 1):
        tasks = tasks.again(tasks.store(tasks.freeze()), parallelism)
        tasks.push([Item(n, n) for n in range(len(KEYS))], [60] * len(KEYS), [*fast, *slow])
        assert sorted(item.number for item, _ in tasks.timed(LATE)) == [*range(len(fast))]
    tasks.end()
    assert sorted(value.key for value in tasks.values()) == sorted(slow)


def test_what_an_older_version_stored_of_event_time_is_read(tmp_path: Path) -> None:
    tasks = Tasks(window_aggregate(Session("10ms"), 0, ALL), Setting(tmp_path))
    for state in tasks.tasks:
        state.operator.restore([70, 90])
    tasks.push([Item(1, 1), Item(2, 2)], [60, 62], ["a", "b"])
    assert tasks.late == 1

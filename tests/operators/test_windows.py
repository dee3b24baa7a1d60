"""Tumbling and sliding windows, running aggregations and reduce, against the definitions."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import streamline as sl
from streamline.errors import UsageError, UserFunctionError
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP
from streamline.operators.aggregations import (
    AggregateProgram,
    Aggregation,
    Collect,
    Count,
    Max,
    Mean,
    Min,
    Sum,
)
from streamline.operators.base import LATE, OperatorSpec
from streamline.operators.reduce import KeyedAggregateSpec, ReduceSpec
from streamline.operators.windows.assigners import Sliding, Tumbling, WindowBounds
from streamline.operators.windows.specs import window_aggregate, window_apply, window_reduce
from streamline.record import KeyedResult, result_type
from tests.operators.drive import NODE, Saved, Setting, Tasks, cuts

KEYS = ["a", "b", "longer key", 7, ("pair", 1), None]


class Item(sl.Record):
    number: int
    amount: int


class Spread(Aggregation[int, list[int], int]):
    """A user's own, with an accumulator that is changed in place."""

    def create(self) -> list[int]:
        return []

    def add(self, acc: list[int], value: int) -> list[int]:
        acc.append(value)
        acc[:] = [min(acc), max(acc)]
        return acc

    def merge(self, acc: list[int], other: list[int]) -> list[int]:
        acc.extend(other)
        acc[:] = [min(acc), max(acc)]
        return acc

    def result(self, acc: list[int]) -> int:
        return acc[1] - acc[0]


ALL = (
    ("count", Count()),
    ("sum", Sum("amount")),
    ("least", Min("amount")),
    ("most", Max(sl.col("amount") * 2)),
    ("mean", Mean("amount")),
    ("numbers", Collect(lambda item: item.number)),
    ("spread", Spread("amount")),
)


def outcome(items: list[Item]) -> tuple[Any, ...]:
    """What ALL comes to."""
    amounts = [item.amount for item in items]
    return (
        len(items),
        sum(amounts),
        min(amounts),
        2 * max(amounts),
        sum(amounts) / len(amounts),
        sorted(item.number for item in items),
        max(amounts) - min(amounts),
    )


def shown(result: Any) -> tuple[Any, ...]:
    """A result of ALL, comparable: the order of collected values is not promised."""
    return (
        result.count,
        result.sum,
        result.least,
        result.most,
        result.mean,
        sorted(result.numbers),
        result.spread,
    )


Row = tuple[Item, Any, int]
Step = list[Row] | int
"""Records (value, key, event time), or a watermark."""


def script_of(seed: int, span: int) -> list[Step]:
    """Records out of order, and watermarks at random moments, some of which go back."""
    r = random.Random(seed)
    now = r.choice([-5 * span, 0, 1_700_000_000_000])
    steps: list[Step] = []
    highest, number = now, 0
    for _ in range(r.randint(3, 12)):
        rows: list[Row] = []
        for _ in range(r.randint(0, 12)):
            at = now - r.randint(0, span * r.choice([0, 1, 3]))
            rows.append((Item(number, r.randint(-50, 50)), r.choice(KEYS), at))
            number += 1
            now += r.choice([0, 0, 1, r.randint(0, span)])
        highest = max([highest, *(at for _, _, at in rows)])
        if rows:
            steps.append(rows)
        if r.random() < 0.8:
            steps.append(highest - r.choice([0, 1, r.randint(0, 2 * span), -r.randint(0, span)]))
    return steps


def windows_at(window: Tumbling | Sliding, at: int) -> list[WindowBounds]:
    """By definition: all that begin at a multiple of ``every`` plus the offset and hold it."""
    size = int(str(window.size).removesuffix("ms"))
    every = int(str(window.every).removesuffix("ms")) if isinstance(window, Sliding) else size
    offset = int(str(window.offset).removesuffix("ms"))
    first = (at - size - offset) // every - 1
    starts = [offset + n * every for n in range(first, first + size // every + 5)]
    return [WindowBounds(s, s + size) for s in starts if s <= at < s + size]


@dataclass
class Expected:
    """What the definition says.

    Attributes:
        contents: Records of each key and window that came before it expired.
        late: Records all of whose windows had.
    """

    contents: dict[tuple[Any, WindowBounds], list[Item]]
    late: list[Row]


def expected_of(window: Tumbling | Sliding, lateness: int, steps: list[Step]) -> Expected:
    expected = Expected({}, [])
    reached = MIN_TIMESTAMP
    for step in steps:
        if isinstance(step, int):
            reached = max(reached, step)
            continue
        for item, key, at in step:
            open_ = [w for w in windows_at(window, at) if w.end - 1 + lateness > reached]
            if not open_:
                expected.late.append((item, key, at))
            for bounds in open_:
                expected.contents.setdefault((key, bounds), []).append(item)
    return expected


@dataclass
class Ran:
    results: list[tuple[Any, int]]
    late: list[tuple[Any, int]]
    counted: int


def give(tasks: Tasks, step: Step, r: random.Random, *, columns: bool, longest: int) -> None:
    if isinstance(step, int):
        tasks.watermark(step)
        return
    for cut in cuts(r, len(step), longest):
        part = step[cut]
        tasks.push(
            [item for item, _, _ in part],
            [at for _, _, at in part],
            [key for _, key, _ in part],
            columns=columns,
        )


def run(
    spec: OperatorSpec,
    steps: list[Step],
    folder: Path,
    seed: int,
    *,
    columns: bool = False,
    longest: int = 8,
    parallelism: int = 1,
    restores: int = 0,
    entries: int = 1_000_000,
) -> Ran:
    """Run a script to the end; on the way, restore it so often from a snapshot."""
    r = random.Random(seed)
    setting = Setting(folder, batch_rows=r.choice([1, 3, 4096]), entries=entries)
    tasks = Tasks(spec, setting, parallelism)
    ran = Ran([], [], 0)

    def keep() -> None:
        ran.results += tasks.timed()
        ran.late += tasks.timed(LATE)
        ran.counted += tasks.late

    stops = sorted(r.randrange(len(steps)) for _ in range(restores)) if steps else []
    for place, step in enumerate(steps):
        while stops and stops[0] == place:
            stops.pop(0)
            saved: list[Saved] = tasks.freeze()
            keep()
            # What comes behind the barrier must not get into the snapshot.
            for again in steps[place : place + 2]:
                for task in tasks.tasks:
                    task.write_some(r.randint(0, 5))
                give(tasks, again, r, columns=columns, longest=longest)
            tasks = tasks.again(tasks.store(saved), r.randint(1, 3))
        give(tasks, step, r, columns=columns, longest=longest)
    tasks.end()
    keep()
    for task in tasks.tasks:
        assert task.state is not None
        assert not [s for t in task.state._tables.values() for s in t.live.values() if s]
        assert task.state.entries == 0
    tasks.close()
    return ran


def last_of(results: list[tuple[Any, int]]) -> dict[tuple[Any, WindowBounds], Any]:
    last: dict[tuple[Any, WindowBounds], Any] = {}
    for result, at in results:
        assert at == result.window_end - 1
        last[result.key, WindowBounds(result.window_start, result.window_end)] = shown(result)
    return last


def random_window(r: random.Random) -> tuple[Tumbling | Sliding, int]:
    size = r.choice([1, 2, 7, 10, 60, 1000, r.randint(1, 300)])
    offset = r.choice([0, 0, 1, r.randint(0, 2 * size)])
    if r.random() < 0.35:
        return Tumbling(f"{size}ms", f"{offset}ms"), size
    # Many that do not divide the size, and are not divided by it.
    every = max(r.randint(1, size), size // 12)
    return Sliding(f"{size}ms", f"{every}ms", f"{offset}ms"), size


def check(ran: Ran, expected: Expected, lateness: int) -> None:
    last = last_of(ran.results)
    assert last == {place: outcome(items) for place, items in expected.contents.items()}
    if lateness == 0:
        assert len(ran.results) == len(last)  # each once
    assert sorted((item.number, at) for item, at in ran.late) == sorted(
        (item.number, at) for item, _, at in expected.late
    )
    assert ran.counted == len(expected.late)


@pytest.mark.parametrize("block", range(6))
def test_aligned_windows_are_what_the_definition_says(block: int, tmp_path: Path) -> None:
    for seed in range(block * 30, block * 30 + 30):
        r = random.Random(seed)
        window, size = random_window(r)
        lateness = 0 if seed % 2 else r.choice([1, size, 3 * size])
        steps = script_of(seed, size)
        expected = expected_of(window, lateness, steps)
        spec = window_aggregate(window, lateness, ALL)
        try:
            folder = tmp_path / str(seed)
            check(run(spec, steps, folder, seed), expected, lateness)
            check(run(spec, steps, folder, seed, longest=1), expected, lateness)
            columns = run(spec, steps, folder, seed, columns=True, longest=100, parallelism=2)
            check(columns, expected, lateness)
        except AssertionError as error:
            error.add_note(f"seed {seed}, {window}, lateness {lateness}")
            raise


@pytest.mark.parametrize("block", range(4))
def test_aligned_windows_go_on_from_snapshots(block: int, tmp_path: Path) -> None:
    for seed in range(1000 + block * 25, 1000 + block * 25 + 25):
        r = random.Random(seed)
        window, size = random_window(r)
        lateness = r.choice([0, 0, size, 3 * size])
        steps = script_of(seed, size)
        spec = window_aggregate(window, lateness, ALL)
        try:
            ran = run(
                spec,
                steps,
                tmp_path / str(seed),
                seed,
                columns=seed % 2 == 0,
                parallelism=r.randint(1, 3),
                restores=r.randint(1, 2),
                entries=r.choice([3, 20, 1_000_000]),
            )
            check(ran, expected_of(window, lateness, steps), lateness)
        except AssertionError as error:
            error.add_note(f"seed {seed}, {window}, lateness {lateness}")
            raise


def test_results_are_complete_as_soon_as_the_watermark_says_so(tmp_path: Path) -> None:
    for seed in range(2000, 2040):
        r = random.Random(seed)
        window, size = random_window(r)
        lateness = r.choice([0, size])
        steps = script_of(seed, size)
        tasks = Tasks(window_aggregate(window, lateness, ALL), Setting(tmp_path / str(seed)))
        reached = MIN_TIMESTAMP
        for place, step in enumerate(steps):
            before = len(tasks.all)
            give(tasks, step, r, columns=False, longest=5)
            if isinstance(step, int):
                reached = max(reached, step)
                # One watermark fires windows in the order of their ends.
                fired = [at for _, at in tasks.timed()[before:]]
                if len(tasks.all) - before == len(fired):
                    assert fired == sorted(fired), seed
            told = last_of(tasks.timed())
            assert all(bounds.end - 1 <= reached for _, bounds in told), seed
            due = {
                (key, bounds): outcome(items)
                for (key, bounds), items in expected_of(
                    window, lateness, steps[: place + 1]
                ).contents.items()
                if bounds.end - 1 <= reached
            }
            assert told == due, seed
        assert [mark.timestamp for mark in tasks.tasks[0].out.watermarks] == [
            step for step in steps if isinstance(step, int)
        ]
        tasks.close()


def test_a_key_that_got_nothing_new_is_not_told_again(tmp_path: Path) -> None:
    tasks = Tasks(window_aggregate(Tumbling("10ms"), 100, ALL), Setting(tmp_path))
    tasks.push([Item(1, 1), Item(2, 2)], [1, 2], ["a", "b"])
    tasks.watermark(20)
    tasks.push([Item(3, 3)], [5], ["b"])
    assert [(r.key, r.sum) for r in tasks.values()] == [("a", 1), ("b", 2), ("b", 5)]


def test_reduce_of_tumbling_windows_takes_the_records_in_their_order(tmp_path: Path) -> None:
    def join(so_far: str, next_: str) -> str:
        return so_far + next_

    for seed in range(20):
        steps = script_of(seed, 50)
        expected: dict[tuple[Any, int], str] = {}
        reached = MIN_TIMESTAMP
        words: list[Step] = []
        for step in steps:
            words.append(
                step if isinstance(step, int) else [(f"{i.number},", k, t) for i, k, t in step]  # type: ignore[misc]
            )
            if isinstance(step, int):
                reached = max(reached, step)
                continue
            for item, key, at in step:
                end = at // 50 * 50 + 50
                if end - 1 > reached:
                    expected[key, end - 1] = expected.get((key, end - 1), "") + f"{item.number},"
        spec = window_reduce(Tumbling("50ms"), 0, join)
        ran = run(spec, words, tmp_path / str(seed), seed, parallelism=2, restores=seed % 3)
        told = [(at, value) for value, at in ran.results]
        wanted = [(at, value) for (_, at), value in expected.items()]
        assert sorted(told) == sorted(wanted), seed


def test_reduce_and_apply_of_sliding_windows(tmp_path: Path) -> None:
    def told(key: Any, bounds: WindowBounds, items: list[Item]) -> Iterator[Any]:
        numbers = sorted(item.number for item in items)
        items.clear()  # its own list
        for number in numbers:
            yield (key, *bounds, number)

    for seed in range(20):
        r = random.Random(seed)
        window, size = random_window(r)
        steps = script_of(seed, size)
        expected = expected_of(window, 0, steps)
        sums = run(
            window_reduce(
                window, 0, lambda a, b: Item(max(a.number, b.number), a.amount + b.amount)
            ),
            steps,
            tmp_path / f"reduce-{seed}",
            seed,
            restores=1,
        )
        assert sorted((at, item.number, item.amount) for item, at in sums.results) == sorted(
            (w.end - 1, max(i.number for i in items), sum(i.amount for i in items))
            for (_, w), items in expected.contents.items()
        ), seed
        applied = run(
            window_apply(window, 0, told), steps, tmp_path / f"apply-{seed}", seed, restores=1
        )
        assert sorted(map(repr, applied.results)) == sorted(
            repr(((key, *bounds, item.number), bounds.end - 1))
            for (key, bounds), items in expected.contents.items()
            for item in items
        ), seed


def test_running_aggregations_and_reduce(tmp_path: Path) -> None:
    for seed in range(20):
        r = random.Random(seed)
        rows = [
            (Item(n, r.randint(-9, 9)), r.choice(KEYS), r.randint(-100, 100)) for n in range(60)
        ]
        so_far: dict[Any, list[Item]] = {}
        expected = []
        for item, key, at in rows:
            so_far.setdefault(key, []).append(item)
            expected.append((item.number, repr(key), at, outcome(so_far[key])))
        setting = Setting(tmp_path / f"a-{seed}", entries=r.choice([2, 1000]))
        tasks = Tasks(KeyedAggregateSpec(ALL), setting, r.randint(1, 3))
        totals = Tasks(
            ReduceSpec(lambda a, b: Item(b.number, a.amount + b.amount)),
            Setting(tmp_path / f"r-{seed}"),
        )
        told: list[Any] = []
        sums: list[Any] = []
        stop = r.randrange(60)
        for place in range(60):
            if place == stop:
                told += tasks.timed()
                tasks = tasks.again(tasks.store(tasks.freeze()), r.randint(1, 3))
                sums += totals.timed()
                totals = totals.again(totals.store(totals.freeze()), r.randint(1, 3))
            item, key, at = rows[place]
            tasks.push([item], [at], [key], columns=seed % 2 == 0)
            totals.push([item], [at], [key])
        told += tasks.timed()
        sums += totals.timed()
        found = [(max(v.numbers), repr(v.key), at, shown(v)) for v, at in told]
        assert sorted(found) == sorted(expected), seed
        assert sorted((v.number, at, v.amount) for v, at in sums) == sorted(
            (number, at, result[1]) for number, _, at, result in expected
        ), seed


def test_running_results_do_not_depend_on_batches(tmp_path: Path) -> None:
    rows = [(Item(n, n % 7), KEYS[n % 5], n) for n in range(50)]
    runs = []
    for longest in (1, 7, 50):
        tasks = Tasks(KeyedAggregateSpec(ALL), Setting(tmp_path / str(longest)))
        give(tasks, rows, random.Random(longest), columns=False, longest=longest)  # type: ignore[arg-type]
        runs.append([(value.key, shown(value), at) for value, at in tasks.timed()])
    assert runs[0] == runs[1] == runs[2]
    assert runs[0][0][1] == outcome([Item(0, 0)])


class Picky(Spread):
    """Raises on a value it does not like."""

    def add(self, acc: list[int], value: int) -> list[int]:
        if value == 13:
            raise ValueError("unlucky")
        return super().add(acc, value)


@pytest.mark.parametrize("running", [False, True])
def test_an_aggregation_that_raises_names_operator_and_record(
    running: bool, tmp_path: Path
) -> None:
    named = (("n", Count()), ("picky", Picky("amount")))
    spec = KeyedAggregateSpec(named) if running else window_aggregate(Tumbling("1s"), 0, named)
    tasks = Tasks(spec, Setting(tmp_path))
    with pytest.raises(UserFunctionError, match="unlucky") as error:
        tasks.push([Item(1, 1), Item(2, 13), Item(3, 3)], [1, 2, 3], ["a", "b", "c"])
    assert error.value.operator == NODE
    assert error.value.record == "{'key': 'b', 'picky': 13}"
    assert 'raise ValueError("unlucky")' in str(error.value)


def test_a_field_function_that_raises_names_the_record(tmp_path: Path) -> None:
    spec = window_aggregate(Tumbling("1s"), 0, (("x", Sum(lambda item: 1 // item.amount)),))
    with pytest.raises(UserFunctionError, match="ZeroDivisionError") as error:
        Tasks(spec, Setting(tmp_path)).push([Item(1, 1), Item(2, 0)], [1, 2], ["a", "b"])
    assert (error.value.operator, error.value.record) == (NODE, "Item(number=2, amount=0)")


def test_a_missing_field_is_named_with_those_there_are(tmp_path: Path) -> None:
    spec = window_aggregate(Tumbling("1s"), 0, (("x", Sum("amuont")),))
    for columns in (False, True):
        tasks = Tasks(spec, Setting(tmp_path / str(columns)))
        with pytest.raises(UsageError, match=rf"{NODE}.*'x'.*'amuont'.*number, amount"):
            tasks.push([Item(1, 1)], [1], ["a"], columns=columns)


def test_an_apply_that_raises_names_the_operator_and_the_window(tmp_path: Path) -> None:
    def fails(key: Any, bounds: WindowBounds, items: list[Item]) -> list[Any]:
        raise LookupError("nothing there")

    tasks = Tasks(window_apply(Tumbling("1s"), 0, fails), Setting(tmp_path / "apply"))
    tasks.push([Item(1, 1)], [1], ["a"])
    with pytest.raises(UserFunctionError, match="nothing there") as error:
        tasks.end()
    assert error.value.operator == NODE
    assert "'a', 0, 1000" in error.value.record


def test_a_reduce_that_raises_when_slices_are_merged_names_the_operator(tmp_path: Path) -> None:
    sliding = window_reduce(Sliding("2s", "1s"), 0, lambda a, b: 1 // 0)
    tasks = Tasks(sliding, Setting(tmp_path / "reduce"))
    tasks.push([Item(1, 1)], [1], ["a"])
    tasks.push([Item(2, 2)], [1001], ["a"])
    with pytest.raises(UserFunctionError, match="ZeroDivisionError") as error:
        tasks.end()  # merging slices runs the function too
    assert error.value.operator == NODE


def test_a_result_that_raises_names_the_operator_and_the_key(tmp_path: Path) -> None:
    class Bad(Spread):
        def result(self, acc: list[int]) -> int:
            raise LookupError("no result")

    tasks = Tasks(window_aggregate(Tumbling("1s"), 0, (("x", Bad("amount")),)), Setting(tmp_path))
    tasks.push([Item(1, 1)], [1], ["a"])
    with pytest.raises(UserFunctionError, match="no result") as error:
        tasks.end()
    assert error.value.operator == NODE
    assert "'a'" in error.value.record


def test_a_record_without_an_event_time_is_refused(tmp_path: Path) -> None:
    tasks = Tasks(window_aggregate(Tumbling("1s"), 0, ALL), Setting(tmp_path))
    with pytest.raises(UsageError, match=r"without an event time.*with_timestamps"):
        tasks.push([Item(1, 1), Item(2, 2)], [5, MIN_TIMESTAMP], ["a", "b"])


def test_the_last_possible_event_times_are_not_lost(tmp_path: Path) -> None:
    at = MAX_TIMESTAMP - 1
    tasks = Tasks(window_aggregate(Tumbling("1m"), 0, ALL), Setting(tmp_path))
    tasks.push([Item(1, 1)], [at], ["a"])
    tasks.end()
    assert [(value.sum, when) for value, when in tasks.timed()] == [(1, at)]


def test_tasks_that_stood_at_different_watermarks_fire_each_window_once(tmp_path: Path) -> None:
    """With idle inputs a barrier may find the tasks at different event times."""
    for seed in range(20):
        r = random.Random(seed)
        keys = list(range(12))
        tasks = Tasks(window_aggregate(Tumbling("10ms"), 0, ALL), Setting(tmp_path / str(seed)), 3)
        tasks.push([Item(n, n) for n in range(60)], list(range(60)), [n % 12 for n in range(60)])
        for task in tasks.tasks:
            task.watermark(r.randint(0, 60))
        told = tasks.timed()
        tasks = tasks.again(tasks.store(tasks.freeze()), r.randint(1, 4))
        tasks.watermark(r.randint(0, 60))
        tasks.end()
        told += tasks.timed()
        expected = {
            (key, end - 1): sum(n for n in range(end - 10, end) if n % 12 == key)
            for key in keys
            for end in range(10, 70, 10)
            if any(n % 12 == key for n in range(end - 10, end))
        }
        assert len(told) == len(expected), seed
        assert {(v.key, at): v.sum for v, at in told} == expected, seed


def test_windows_fire_once_over_two_restores_of_tasks_that_differed(tmp_path: Path) -> None:
    """A group that was behind has gone on when the second snapshot is taken."""
    keys = list(range(12))
    tasks = Tasks(window_aggregate(Sliding("40ms", "10ms"), 0, ALL), Setting(tmp_path), 2)
    tasks.push([Item(key, 1) for key in keys], [5] * 12, keys)
    told = []
    for task, reached in zip(tasks.tasks, (38, 10), strict=True):
        task.watermark(reached)
    for reached in (20, 30):
        told += tasks.timed()
        tasks = tasks.again(tasks.store(tasks.freeze()), 1)
        tasks.watermark(reached)
    tasks.end()
    told += tasks.timed()
    expected = sorted((key, last) for key in keys for last in (9, 19, 29, 39))
    assert sorted((value.key, at) for value, at in told) == expected


class Seen(sl.Aggregation[int, list[int], list[int]]):
    """Hands on its accumulator itself."""

    def create(self) -> list[int]:
        return []

    def add(self, acc: list[int], value: int) -> list[int]:
        acc.append(value)
        return acc

    def merge(self, acc: list[int], other: list[int]) -> list[int]:
        return acc + other

    def result(self, acc: list[int]) -> list[int]:
        return acc


def test_a_result_that_is_the_accumulator_does_not_change_afterwards(tmp_path: Path) -> None:
    tasks = Tasks(KeyedAggregateSpec((("seen", Seen(lambda n: n)),)), Setting(tmp_path))
    tasks.push([1, 2, 3], [0, 0, 0], ["a", "a", "a"])
    assert [value.seen for value in tasks.values()] == [[1], [1, 2], [1, 2, 3]]


def test_a_mean_of_no_values_is_none() -> None:
    """As of a window that was stored before the mean was added to the job."""
    program = AggregateProgram("node", (("mean", sl.Mean("x")),))
    kind = result_type(KeyedResult, ("mean",))
    assert program.results(kind, [("a", program.new())]) == [kind("a", None)]
    assert sl.Mean("x").result((0, 0)) is None

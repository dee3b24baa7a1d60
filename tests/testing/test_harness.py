"""OperatorHarness: what goes in, what comes out, and snapshots in other splits."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import streamline as sl
from streamline.errors import GraphError, UsageError, UserFunctionError
from streamline.messages import MAX_TIMESTAMP
from streamline.operators.process import ProcessSpec
from streamline.operators.rows import RowSpec
from streamline.state.rocksdb import open_rocksdb
from streamline.testing import Event, HarnessSettings, OperatorHarness, Watermark

ROCKS = HarnessSettings(open_kv=open_rocksdb)
SPILLING = HarnessSettings(config=sl.RuntimeConfig(table_entries=3, flush_slice_entries=2))


class Totals(sl.ProcessFunction[str, int, tuple[str, int]]):
    total = sl.ValueState(int, 0)
    seen = sl.ListState(int)

    def process(self, value: int, ctx: sl.ProcessContext[str]) -> None:
        self.total.set((self.total.get() or 0) + value)
        self.seen.append(value)
        ctx.set_timer(ctx.timestamp + 10)
        ctx.set_processing_timer(ctx.now_ms() + 1_000)

    def on_timer(self, timestamp: int, ctx: sl.ProcessContext[str]) -> Iterator[tuple[str, int]]:
        yield ctx.key, self.total.get() or 0


def counts(stream: sl.Stream[Any]) -> sl.Stream[Any]:
    return stream.key_by(lambda n: n % 10).window(sl.Sliding("10ms", "5ms")).aggregate(n=sl.Count())


def test_a_spec_without_keys() -> None:
    harness = OperatorHarness(RowSpec("map", lambda n: n * 2))
    harness.push(Event(1, 10), Event(2, 20))
    harness.push(3)
    assert harness.values() == [2, 4, 6]
    assert harness.events()[:2] == [(2, 10), (4, 20)]
    assert (harness.counters.records_in, harness.counters.records_out) == (3, 3)
    harness.push()
    assert len(harness.values()) == 3


def test_a_keyed_spec_is_given_keys_in_either_of_two_ways() -> None:
    spec = ProcessSpec(Totals())
    by_hand = OperatorHarness(spec)
    by_hand.push(Event(1, 5), Event(2, 6), key="a")
    by_function = OperatorHarness(spec, key=lambda value: "a")
    by_function.push(Event(1, 5), Event(2, 6))
    for harness in (by_hand, by_function):
        assert harness.state("total", "a") == 3
        assert harness.state("seen", "a") == [1, 2]
        assert harness.state("total", "b") is None
    with pytest.raises(UsageError, match=r"give push\(..., key=\) or OperatorHarness"):
        OperatorHarness(spec).push(1)


def test_results_and_watermarks_are_in_order() -> None:
    harness = OperatorHarness(ProcessSpec(Totals()))
    harness.push(Event(1, 5), key="a")
    harness.watermark(14)
    assert harness.log == [Watermark(14)]
    harness.watermark(15)
    assert harness.log == [Watermark(14), (("a", 1), 15), Watermark(15)]
    harness.clear()
    assert harness.log == harness.values() == harness.watermarks == []
    harness.end()
    assert harness.watermarks == [Watermark(MAX_TIMESTAMP)]


def test_event_time_does_not_go_back() -> None:
    harness = OperatorHarness(ProcessSpec(Totals()))
    harness.watermark(5)
    with pytest.raises(UsageError, match="event time is at 5, it cannot go to 4"):
        harness.watermark(4)


def test_processing_time_calls_at_each_moment_that_is_due() -> None:
    harness = OperatorHarness(ProcessSpec(Totals()))
    now = harness.settings.clock.now_ms()
    harness.push(Event(1, 5), key="a")
    harness.advance(400)
    harness.push(Event(2, 5), key="b")
    harness.advance(599)
    assert harness.events() == []
    harness.advance(1)
    assert harness.events() == [(("a", 1), now + 1_000)]
    harness.advance(10_000)
    assert harness.events()[1:] == [(("b", 2), now + 1_400)]
    assert harness.settings.clock.now_ms() == now + 11_000


def test_idle_sources_let_time_go_on() -> None:
    harness = OperatorHarness.of(lambda stream: stream.with_timestamps("at", idle_after="1s"))
    at = harness.settings.clock.now_ms()
    harness.push({"at": at})
    assert harness.watermarks == [Watermark(at - 1)]
    harness.advance(1_500)
    assert harness.watermarks[-1] == Watermark(at - 1 + 1_500, idle=True)


def test_late_records_have_a_tag_and_may_be_the_result() -> None:
    def windows(stream: sl.Stream[Any]) -> sl.Stream[Any]:
        return stream.key_by(lambda n: n).window(sl.Tumbling("10ms")).aggregate(n=sl.Count())

    harness = OperatorHarness.of(windows)
    late = OperatorHarness.of(lambda stream: windows(stream).late)  # type: ignore[attr-defined]
    for each in (harness, late):
        each.watermark(20)
        each.push(Event(1, 5), Event(2, 25))
        each.end()
    assert harness.events("late") == late.events() == [(1, 5)]
    assert [result.key for result in harness.values()] == [2]
    assert harness.counters.late == 1


def test_a_batch_of_columns_goes_in_as_it_is() -> None:
    harness = OperatorHarness.of(lambda stream: stream.filter(sl.col("n") > 1).map("n"))
    columns = {"n": np.array([1, 2, 3]), "m": np.array([4, 5, 6])}
    harness.push_batch(sl.ColumnBatch(columns, np.array([7, 8, 9]), record_type=dict))
    assert harness.events() == [(2, 8), (3, 9)]


def test_steps_may_branch_and_join() -> None:
    def split(stream: sl.Stream[int]) -> sl.Stream[int]:
        return stream.map(lambda n: -n).union(stream.filter(lambda n: n > 1))

    harness = OperatorHarness.of(split)
    harness.push(1, 2)
    assert sorted(harness.values()) == [-2, -1, 2]


def test_what_cannot_be_driven_is_refused() -> None:
    with pytest.raises(UsageError, match="must return the stream .* not KeyedStream"):
        OperatorHarness.of(lambda stream: stream.key_by("n"))  # type: ignore[arg-type, return-value]
    with pytest.raises(GraphError, match="go nowhere"):

        def dangling(stream: sl.Stream[Any]) -> sl.Stream[Any]:
            stream.map("a")
            return stream.map("b")

        OperatorHarness.of(dangling)
    with pytest.raises(UsageError, match="there is no task 2 of 2"):
        OperatorHarness.of(counts, parallelism=2, index=2)


def test_errors_of_the_users_name_the_operator() -> None:
    harness = OperatorHarness.of(lambda stream: stream.map(lambda n: 1 / n, name="divide"))
    with pytest.raises(UserFunctionError, match="divide"):
        harness.push(0)


@pytest.mark.parametrize("settings", [None, ROCKS, SPILLING], ids=["memory", "rocksdb", "spill"])
@pytest.mark.parametrize("steps", [counts, None], ids=["windows", "process"])
def test_a_run_over_many_splits_equals_one_without(
    steps: Callable[[sl.Stream[Any]], sl.Stream[Any]] | None, settings: HarnessSettings | None
) -> None:
    def new(**place: int) -> OperatorHarness:
        if steps is None:
            return OperatorHarness(
                ProcessSpec(Totals()), key=lambda n: f"k{n % 10}", settings=settings, **place
            )
        return OperatorHarness.of(steps, settings=settings, **place)

    rng = random.Random(3)
    plain, tasks = new(), [new(parallelism=2, index=index) for index in range(2)]
    split: list[Event[Any]] = []
    for round_, parallelism in enumerate([3, 1, 4, 2, 1]):
        events = [Event(rng.randrange(100), round_ * 20 + rng.randrange(20)) for _ in range(30)]
        for harness in (plain, *tasks):
            harness.push(*events)
            harness.watermark(round_ * 20 + 10)
        split += [event for task in tasks for event in task.events()]
        snapshots = [task.snapshot() for task in tasks]
        for task in tasks:
            task.push(*events)  # behind the snapshot: must leave no trace in it
        following = tasks[0].resume(*snapshots, parallelism=parallelism)
        for task in tasks:
            task.close()
        tasks = following
    for harness in (plain, *tasks):
        harness.end()
    split += [event for task in tasks for event in task.events()]
    assert sorted(map(repr, split)) == sorted(map(repr, plain.events()))
    assert len(split) > 100
    for harness in (plain, *tasks):
        harness.close()


def test_close_removes_what_is_on_disk_and_may_be_repeated() -> None:
    harness = OperatorHarness(ProcessSpec(Totals()), settings=ROCKS)
    harness.push(Event(1, 1), key="a")
    assert harness._state is not None
    folder = harness._state.folder
    snapshot = harness.snapshot()
    assert folder.exists()
    harness.close()
    harness.close()
    assert not folder.exists()
    [again] = harness.resume(snapshot)
    assert again.state("total", "a") == 1
    again.close()


def test_a_harness_that_is_forgotten_leaves_nothing() -> None:
    harness = OperatorHarness(ProcessSpec(Totals()), settings=ROCKS)
    assert harness._state is not None
    folder = harness._state.folder
    del harness
    import gc

    gc.collect()
    assert not folder.exists()


def test_tasks_own_keys_without_gap_or_overlap() -> None:
    tasks = [OperatorHarness.of(counts, parallelism=3, index=index) for index in range(3)]
    for key in ["a", "b", 1, 2, None, ("a", 1)]:
        assert sum(task.owns(key) for task in tasks) == 1

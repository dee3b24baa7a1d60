"""with_timestamps: event times, and watermarks by partition, against the definition."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import streamline as sl
from streamline.batch import Batch, ColumnBatch, RowBatch
from streamline.clock import ManualClock
from streamline.errors import StreamlineError, UsageError, UserFunctionError
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP, Watermark
from streamline.operators.timestamps import TimestampsSpec
from tests.operators.drive import NODE, Saved, Setting, Task

NOW = 1_700_000_000_000
HOUR = 3_600_000


class Event(sl.Record):
    at: int
    name: str = ""


def spec(
    time: Any = "at", delay: int = 0, idle: int | None = None, future: int = HOUR
) -> TimestampsSpec:
    return TimestampsSpec(time, delay, idle, future)


def task(
    folder: Path, its: TimestampsSpec, saved: list[Saved] | None = None, **settings: Any
) -> Task:
    clock = settings.pop("clock", None) or ManualClock(NOW)
    return Task(its, Setting(folder, clock), saved or [], **settings)


def events(*times: Any, partition: str | None = None) -> RowBatch:
    return RowBatch([Event(at) for at in times], partition=partition)


def marks(its: Task) -> list[int]:
    return [mark.timestamp for mark in its.out.watermarks]


class Reference:
    """Watermarks of partitions as the documentation says."""

    def __init__(self, its: TimestampsSpec, active: set[str] | None, clock: ManualClock) -> None:
        self.its, self.active, self.clock = its, active, clock
        self.highest: dict[str, int] = {}
        self.opened = clock.now_ms()
        self.heard: dict[str, int] = {}
        self.reached = MIN_TIMESTAMP
        self.future = 0

    def batch(self, times: list[int], partition: str) -> None:
        now = self.clock.now_ms()
        if self.active is None:
            partition = "everything"
        for at in times:
            if at > now + self.its.max_future_ms:
                self.future += 1
            else:
                self.highest[partition] = max(at, self.highest.get(partition, at))
        self.heard[partition] = now
        self.look()

    def look(self) -> None:
        now, idle = self.clock.now_ms(), self.its.idle_after_ms
        names = self.active if self.active is not None else set(self.highest) | set(self.heard)
        waited = [
            name for name in names if idle is None or now - self.heard.get(name, self.opened) < idle
        ]
        behind = self.its.max_out_of_orderness_ms + 1
        if waited:
            if any(name not in self.highest for name in waited):
                return
            found = min(self.highest[name] for name in waited) - behind
        elif self.highest:
            silent = now - max(self.heard.values(), default=self.opened)
            found = max(self.highest.values()) - behind + (0 if idle is None else silent)
        else:
            return
        self.reached = max(self.reached, found)


@pytest.mark.parametrize("block", range(4))
def test_watermarks_are_what_the_definition_says(block: int, tmp_path: Path) -> None:
    for seed in range(block * 60, block * 60 + 60):
        r = random.Random(seed)
        clock = ManualClock(NOW)
        names = [f"p{n}" for n in range(r.randint(1, 4))]
        active = None if r.random() < 0.2 else set(names)
        its = spec(
            delay=r.choice([0, 1, 500]),
            idle=r.choice([None, 100, 1000]),
            future=r.choice([0, 300, HOUR]),
        )
        one = task(tmp_path, its, clock=clock, active=active)
        wanted = Reference(its, active, clock)
        future = 0
        for _ in range(r.randint(5, 40)):
            what = r.random()
            if what < 0.6:
                name = r.choice(sorted(active) if active else names)
                times = [
                    clock.now_ms()
                    + r.choice([0, r.randint(-2000, 0), r.randint(-50, 400), 2 * HOUR])
                    for _ in range(r.randint(1, 5))
                ]
                before = len(one.out.all)
                one.take(events(*times, partition=name))
                wanted.batch(times, name)
                assert [at for _, _, at in one.out.all[before:]] == times
            elif what < 0.85:
                clock.advance(r.choice([100, 101, r.randint(100, 1500)]))
                if its.idle_after_ms is not None:
                    one.tick()
                    wanted.look()
                else:
                    assert one.operator.next_clock_ms() is None
            elif what < 0.93 and active and len(active) > 1:
                active.discard(r.choice(sorted(active)))  # one has ended
            else:
                future += one.context.counters.future
                saved = one.store(one.freeze())
                assert marks(one) == sorted(marks(one))
                one = task(tmp_path, its, [saved], clock=clock, active=active)
                highest = wanted.highest
                counted = wanted.future
                wanted = Reference(its, active, clock)
                wanted.future = counted
                wanted.highest = {
                    name: at for name, at in highest.items() if active is None or name in active
                }
            reached = marks(one)[-1] if marks(one) else MIN_TIMESTAMP
            assert reached == wanted.reached, seed
            assert future + one.context.counters.future == wanted.future, seed
        assert marks(one) == sorted(marks(one))
        seen = one.out.watermarks
        assert all(a != b for a, b in zip(seen, seen[1:], strict=False)), seed


def test_the_watermark_stays_behind_the_slowest_partition(tmp_path: Path) -> None:
    one = task(tmp_path, spec(delay=10), active={"a", "b"})
    one.take(events(NOW, partition="a"))
    assert marks(one) in ([], [MIN_TIMESTAMP])
    one.take(events(NOW - 500, partition="b"))
    one.take(events(NOW - 100, NOW - 400, partition="b"))
    assert marks(one)[-2:] == [NOW - 511, NOW - 111]
    assert one.context.partition_watermarks == {"a": NOW, "b": NOW - 100}


def test_records_go_before_the_watermark_that_they_move(tmp_path: Path) -> None:
    order: list[str] = []
    one = task(tmp_path, spec())
    one.out.emit = lambda batch, tag="main": order.append("batch")  # type: ignore[method-assign]
    one.out.watermark = lambda watermark: order.append("watermark")  # type: ignore[method-assign]
    one.take(events(NOW))
    assert order == ["batch", "watermark"]


def test_an_idle_partition_is_not_waited_for_and_does_not_pull_back(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    one = task(tmp_path, spec(idle=1000), clock=clock, active={"a", "b"})
    one.take(events(NOW, partition="a"))
    clock.advance(999)
    one.take(events(NOW + 5, partition="a"))
    assert marks(one) in ([], [MIN_TIMESTAMP])
    clock.advance(1)
    one.tick()
    assert one.out.watermarks[-1] == Watermark(NOW + 4)
    one.take(events(NOW - 100, partition="b"))
    assert one.out.watermarks[-1] == Watermark(NOW + 4)
    one.take(events(NOW + 50, partition="b"))
    one.take(events(NOW + 60, partition="a"))
    assert one.out.watermarks[-1] == Watermark(NOW + 49)


def test_when_all_are_idle_event_time_goes_on_at_the_pace_of_the_clock(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    one = task(tmp_path, spec(idle=1000, delay=20), clock=clock, active={"a", "b"})
    one.take(events(NOW - 5000, partition="a"))
    one.take(events(NOW - 3000, partition="b"))
    for silent in range(100, 5000, 100):
        clock.advance(100)
        one.tick()
        if silent >= 1000:
            assert one.out.watermarks[-1] == Watermark(NOW - 3000 - 21 + silent, idle=True)
        else:
            assert one.out.watermarks[-1] == Watermark(NOW - 5000 - 21)
    reached = marks(one)[-1]
    one.take(events(reached - 10, partition="a"))  # late, and time stands still
    assert one.out.watermarks[-1] == Watermark(reached)
    one.take(events(reached + 100, partition="a"))
    assert one.out.watermarks[-1] == Watermark(reached + 100 - 21)


def test_without_idleness_the_clock_changes_nothing(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    one = task(tmp_path, spec(), clock=clock, active={"a", "b"})
    one.take(events(NOW, partition="a"))
    assert one.operator.next_clock_ms() is None
    clock.advance(HOUR)
    one.take(events(NOW + 1, partition="a"))
    assert all(mark == MIN_TIMESTAMP for mark in marks(one))


def test_a_task_without_partitions_is_idle(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    one = task(tmp_path, spec(idle=100), clock=clock, active=set())
    one.tick()
    assert one.out.watermarks == [Watermark(MIN_TIMESTAMP, idle=True)]


def test_future_records_are_counted_and_do_not_drag(tmp_path: Path) -> None:
    one = task(tmp_path, spec(future=1000))
    times = [NOW, NOW + 1001, NOW - 7, MAX_TIMESTAMP]
    one.take(events(*times))
    assert marks(one) == [NOW - 1]
    assert one.context.counters.future == 2
    assert [at for _, _, at in one.out.all] == times  # they go on all the same
    one.take(events(NOW + 1000))
    assert marks(one) == [NOW - 1, NOW + 999]
    one.take(events(NOW + 5000))
    assert marks(one) == [NOW - 1, NOW + 999]
    assert one.context.counters.future == 3


def test_a_partition_of_future_records_alone_is_waited_for_like_an_empty_one(
    tmp_path: Path,
) -> None:
    one = task(tmp_path, spec(future=0), active={"a", "b"})
    one.take(events(NOW + 1, partition="a"))
    one.take(events(NOW, partition="b"))
    assert all(mark == MIN_TIMESTAMP for mark in marks(one))
    one.take(events(NOW - 3, partition="a"))
    assert marks(one)[-1] == NOW - 4


def test_very_early_event_times(tmp_path: Path) -> None:
    one = task(tmp_path, spec(delay=1000))
    one.take(events(MIN_TIMESTAMP + 1, MIN_TIMESTAMP + 500))
    assert all(mark == MIN_TIMESTAMP for mark in marks(one))
    one.take(events(-5))
    assert marks(one)[-1] == -1006


SHAPES: dict[str, Callable[[list[int]], tuple[Any, Batch]]] = {
    "field of records": lambda t: ("at", events(*t)),
    "field of dicts": lambda t: ("at", RowBatch([{"at": at} for at in t])),
    "field of columns": lambda t: ("at", events(*t).to_columns()),
    "narrow column": lambda t: (
        "at",
        ColumnBatch(
            {"at": np.array(t, dtype=np.int32)},
            np.full(len(t), MIN_TIMESTAMP, dtype=np.int64),
            record_type=dict,
        ),
    ),
    "expression of rows": lambda t: (sl.col("at") - 3 + 3, events(*t)),
    "expression of columns": lambda t: (sl.col("at") * 2 // 2, events(*t).to_columns()),
    "function": lambda t: (lambda event: event.at, events(*t)),
    "function of columns": lambda t: (lambda event: event.at, events(*t).to_columns()),
    "datetimes": lambda t: (
        lambda event: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=event.at),
        events(*t),
    ),
    "naive datetimes are UTC": lambda t: (
        lambda event: datetime(1970, 1, 1) + timedelta(milliseconds=event.at),
        events(*t),
    ),
    "datetimes elsewhere": lambda t: (
        lambda event: (
            datetime(1970, 1, 1, 5, 30, tzinfo=timezone(timedelta(hours=5, minutes=30)))
            + timedelta(milliseconds=event.at)
        ),
        events(*t),
    ),
    "field of datetimes": lambda t: (
        "at",
        RowBatch(
            [{"at": datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at)} for at in t]
        ).to_columns(),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_event_times_from_everything_that_may_hold_them(shape: str, tmp_path: Path) -> None:
    times = [0, -1, 1, 999, -86_400_001, 1_234_567_890, 2_000_000_123]
    time, batch = SHAPES[shape](times)
    one = task(tmp_path, spec(time))
    one.take(batch)
    assert [at for _, _, at in one.out.all] == times
    assert marks(one) == [max(times) - 1]
    (found,) = one.out.batches
    assert type(found) is type(batch)


def test_datetimes_of_this_century_are_exact_to_the_millisecond(tmp_path: Path) -> None:
    r = random.Random(1)
    times = [r.randint(-(10**12), NOW) for _ in range(2000)]
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    one = task(tmp_path, spec(lambda event: epoch + timedelta(milliseconds=event.at)))
    one.take(events(*times))
    assert [at for _, _, at in one.out.all] == times


@pytest.mark.parametrize(
    "bad", [1.5, "2024-01-01", None, True, [1], 1 << 63, 1 << 80, datetime(2024, 1, 1)]
)
def test_a_bad_value_among_good_ones_is_named(bad: Any, tmp_path: Path) -> None:
    for place in (0, 1, 2):
        values: list[Any] = [5, 6]
        values.insert(place, bad)
        one = task(tmp_path, spec())
        with pytest.raises(StreamlineError, match=rf"{NODE}.*must be an int") as error:
            one.take(RowBatch([{"at": value} for value in values]))
        assert isinstance(bad, datetime) or repr(bad) in str(error.value)
        assert one.out.all == []


def test_only_bad_values(tmp_path: Path) -> None:
    for bad in (1.5, True, None, "x"):
        with pytest.raises(UsageError, match="must be an int") as error:
            task(tmp_path, spec()).take(RowBatch([{"at": bad}] * 3))
        assert repr(bad) in str(error.value)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    for batch in (events(1), events(1).to_columns(), RowBatch([{"at": 1, "name": 2}])):
        for time in ("tme", sl.col("tme")):
            with pytest.raises(StreamlineError, match=rf"^{NODE}: .*'tme'.*at, name"):
                task(tmp_path, spec(time)).take(batch)


def test_a_function_that_raises_names_operator_record_and_line(tmp_path: Path) -> None:
    one = task(tmp_path, spec(lambda event: 10 // event.at))  # the line
    with pytest.raises(UserFunctionError, match="ZeroDivisionError") as error:
        one.take(events(1, 0, 2))
    assert error.value.operator == NODE
    assert error.value.record == "Event(at=0, name='')"
    assert "# the line" in str(error.value)


def test_the_end_of_time_from_upstream_goes_on(tmp_path: Path) -> None:
    one = task(tmp_path, spec(), active={"a", "b"})
    one.take(events(NOW, partition="a"))
    one.watermark(MAX_TIMESTAMP)
    assert marks(one)[-1] == MAX_TIMESTAMP


def test_a_watermark_of_the_reader_is_kept_and_never_taken_back(tmp_path: Path) -> None:
    one = task(tmp_path, spec(delay=10), active={"a", "b"})
    one.watermark(NOW - 100)
    one.take(events(NOW - 300, partition="a"))
    one.take(events(NOW - 200, partition="b"))
    one.watermark(NOW - 150)
    assert marks(one) == [NOW - 100]
    one.take(events(NOW, partition="a"))
    one.take(events(NOW, partition="b"))
    assert marks(one) == [NOW - 100, NOW - 11]


def test_an_idle_upstream_is_told_before_the_first_record(tmp_path: Path) -> None:
    one = task(tmp_path, spec())
    one.watermark(MIN_TIMESTAMP, idle=True)
    assert one.out.watermarks == [Watermark(MIN_TIMESTAMP, idle=True)]


def test_partitions_follow_their_readers_after_a_restore(tmp_path: Path) -> None:
    old = task(tmp_path, spec(), active={"a", "b", "c"})
    for number, name in enumerate("abc"):
        old.take(events(NOW + number, partition=name))
    saved = old.store(old.freeze())
    left = task(tmp_path, spec(), [saved], active={"a", "c"}, parallelism=2)
    right = task(tmp_path, spec(), [saved], active={"b"}, index=1, parallelism=2)
    assert left.context.partition_watermarks == {"a": NOW, "c": NOW + 2}
    assert right.context.partition_watermarks == {"b": NOW + 1}
    left.take(events(NOW + 50, partition="a"))
    right.take(events(NOW - 50, partition="b"))
    assert (marks(left), marks(right)) == ([NOW + 1], [NOW])


def test_what_several_tasks_knew_of_mixed_partitions_is_the_least(tmp_path: Path) -> None:
    olds = [task(tmp_path, spec(), index=index, parallelism=2) for index in (0, 1)]
    for number, old in enumerate(olds):
        old.take(events(NOW - 100 * number))
    saved = [old.store(old.freeze()) for old in olds]
    one = task(tmp_path, spec(), saved)
    one.take(events(NOW - 500))
    assert marks(one) == [NOW - 101]


def test_partitions_of_a_snapshot_do_not_hold_up_a_task_that_no_longer_reads_them(
    tmp_path: Path,
) -> None:
    """At another parallelism the node may stand apart from the source it was chained to."""
    old = task(tmp_path, spec(), active={"a", "b"})
    old.take(events(NOW, partition="a"))
    old.take(events(NOW - 500, partition="b"))
    saved = old.store(old.freeze())
    one = task(tmp_path, spec(), [saved])
    one.take(events(NOW + 100))
    one.take(events(NOW + 200))
    assert marks(one)[-1] == NOW + 199

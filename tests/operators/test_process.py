"""process: state of every kind and timers, against a plain model of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import streamline as sl
from streamline.clock import ManualClock
from streamline.errors import UsageError, UserFunctionError
from streamline.messages import MIN_TIMESTAMP
from streamline.operators.process import ProcessFunction, ProcessSpec
from tests.operators.drive import NODE, Setting, Tasks, cuts

KEYS = ["a", "b", "c", 7, 12, ("pair", 1), None, b"bytes"]
Op = tuple[str, Any]


class Machine(ProcessFunction[Any, list[Op], Any]):
    """Does what the record says and tells what it sees; timers count, and set timers."""

    value = sl.ValueState(int, -1)
    things = sl.ListState(str)
    table = sl.MapState(str, int)

    def process(self, value: list[Op], ctx: sl.ProcessContext[Any]) -> Iterator[Any]:
        for op, arg in value:
            if op == "set":
                self.value.set(arg)
            elif op == "clear":
                {"v": self.value, "l": self.things, "m": self.table}[arg].clear()
            elif op == "append":
                self.things.append(arg)
            elif op == "replace":
                self.things.set(arg)
            elif op == "put":
                self.table[arg[0]] = arg[1]
            elif op == "drop":
                if arg in self.table:
                    del self.table[arg]
            elif op == "timer":
                ctx.set_timer(arg)
            elif op == "untimer":
                ctx.delete_timer(arg)
            elif op == "clock":
                ctx.set_processing_timer(arg)
            else:
                ctx.delete_processing_timer(arg)
        yield ("record", ctx.key, ctx.timestamp, ctx.watermark, *self.seen())

    def on_timer(self, timestamp: int, ctx: sl.ProcessContext[Any]) -> list[Any]:
        assert ctx.timestamp == timestamp
        self.value.set((self.value.get() or 0) + 1)
        if timestamp % 3 == 0 and timestamp < 0:
            ctx.set_timer(max(ctx.watermark, timestamp) + 5)
        return [("timer", ctx.key, timestamp, *self.seen())]

    def seen(self) -> tuple[Any, ...]:
        things = self.things.get()
        self.things.get().clear()  # a copy
        assert len(self.table) == len(list(self.table)) == len(self.table.items())
        return (self.value.get(), things, sorted(self.table.items()), self.table.get("nothing", 9))


class Model:
    """One key's state as plain values."""

    def __init__(self, key: Any) -> None:
        self.key = key
        self.value: int | None = -1
        self.things: list[str] = []
        self.table: dict[str, int] = {}
        self.event: set[int] = set()
        self.clock: set[int] = set()
        self.told: list[Any] = []

    def record(self, ops: list[Op], at: int, reached: int) -> None:
        for op, arg in ops:
            if op == "set":
                self.value = arg
            elif op == "clear":
                if arg == "v":
                    self.value = -1
                elif arg == "l":
                    self.things = []
                else:
                    self.table = {}
            elif op == "append":
                self.things = [*self.things, arg]
            elif op == "replace":
                self.things = list(arg)
            elif op == "put":
                self.table[arg[0]] = arg[1]
            elif op == "drop":
                self.table.pop(arg, None)
            elif op == "timer":
                self.event.add(arg)
            elif op == "untimer":
                self.event.discard(arg)
            elif op == "clock":
                self.clock.add(arg)
            else:
                self.clock.discard(arg)
        self.told.append((("record", self.key, at, reached, *self.seen()), at))

    def ring(self, timers: set[int], upto: int, reached: int) -> None:
        while due := [at for at in timers if at <= upto]:
            at = min(due)
            timers.remove(at)
            self.value = (self.value or 0) + 1
            if at % 3 == 0 and at < 0:
                self.event.add(max(reached, at) + 5)
            self.told.append((("timer", self.key, at, *self.seen()), at))

    def seen(self) -> tuple[Any, ...]:
        return (self.value, list(self.things), sorted(self.table.items()), 9)


class Models:
    def __init__(self) -> None:
        self.keys: dict[Any, Model] = {}
        self.reached = MIN_TIMESTAMP

    def batch(self, rows: list[tuple[Any, list[Op], int]]) -> None:
        for key, ops, at in rows:
            self.keys.setdefault(key, Model(key)).record(ops, at, self.reached)
        self.ring(self.reached)

    def ring(self, upto: int) -> None:
        for model in self.keys.values():
            model.ring(model.event, upto, self.reached)

    def watermark(self, reached: int) -> None:
        if reached > self.reached:
            self.reached = reached
            self.ring(reached)

    def tick(self, now: int) -> None:
        for model in self.keys.values():
            model.ring(model.clock, now, self.reached)


def random_op(r: random.Random, now: int) -> Op:
    near = now + r.randint(-1500, 1500)
    return r.choice(
        [
            ("set", r.randint(0, 99)),
            ("clear", r.choice("vlm")),
            ("append", f"t{r.randint(0, 9)}"),
            ("replace", [f"r{n}" for n in range(r.randint(0, 3))]),
            ("put", (f"m{r.randint(0, 5)}", r.randint(0, 9))),
            ("put", (f"m{r.randint(0, 5)}", r.randint(0, 9))),
            ("drop", f"m{r.randint(0, 5)}"),
            ("timer", -100_000 + r.randint(0, 40) * 50),
            ("timer", -100_000 + r.randint(0, 4000)),
            ("untimer", -100_000 + r.randint(0, 40) * 50),
            ("clock", near // 100 * 100),
            ("unclock", near // 100 * 100),
        ]
    )


def by_key(results: list[tuple[Any, int]]) -> dict[Any, list[Any]]:
    found: dict[Any, list[Any]] = {}
    for value, at in results:
        found.setdefault(value[1], []).append((value, at))
    return found


@pytest.mark.parametrize("block", range(4))
def test_state_and_timers_are_those_of_a_plain_model(block: int, tmp_path: Path) -> None:
    for seed in range(block * 25, block * 25 + 25):
        r = random.Random(seed)
        clock = ManualClock(1_000_000)
        setting = Setting(tmp_path / str(seed), clock, entries=r.choice([3, 15, 1_000_000]))
        tasks = Tasks(ProcessSpec(Machine()), setting, r.randint(1, 3))
        models = Models()
        told: list[tuple[Any, int]] = []
        reached = -101_000
        for _ in range(r.randint(5, 25)):
            what = r.random()
            if what < 0.6:
                rows = [
                    (
                        r.choice(KEYS),
                        [random_op(r, clock.now_ms()) for _ in range(r.randint(1, 4))],
                        r.randint(-101_000, -95_000),
                    )
                    for _ in range(r.randint(1, 12))
                ]
                for cut in cuts(r, len(rows), 6):
                    part = rows[cut]
                    tasks.push(
                        [o for _, o, _ in part], [t for *_, t in part], [k for k, *_ in part]
                    )
                    # A batch rings timers in the tasks that get a part of it; the others have
                    # none that are due.
                    models.batch(part)
            elif what < 0.75:
                reached += r.randint(-100, 1500)
                tasks.watermark(reached)
                models.watermark(reached)
            elif what < 0.9:
                clock.advance(r.randint(0, 900))
                tasks.tick()
                models.tick(clock.now_ms())
            else:
                saved = tasks.freeze()
                told += tasks.timed()
                behind = [("append", "lost"), ("set", -5), ("timer", -99_000), ("clear", "m")]
                for key in r.sample(KEYS, 4):
                    tasks.push([behind], [0], [key])
                    tasks.tasks[0].write_some(r.randint(0, 3))
                tasks = tasks.again(tasks.store(saved), r.randint(1, 3))
        for last in (0, (1 << 63) - 1):  # those set at the first ring at the second
            tasks.watermark(last)
            models.watermark(last)
        clock.advance(10_000)
        tasks.tick()
        models.tick(clock.now_ms())
        told += tasks.timed()
        wanted = {key: model.told for key, model in models.keys.items()}
        assert by_key(told) == wanted, seed
        for task in tasks.tasks:
            assert task.operator.next_clock_ms() is None
            for name in ("event-timers", "processing-timers"):
                assert task.state is not None
                table = task.state.table(NODE, name)
                assert not [item for n in table.namespaces() for item in table.items(n)]
        tasks.close()


class Timed(ProcessFunction[str, Any, Any]):
    """Sets the timers that a record lists; a timer may set and delete others."""

    def __init__(self, sets: dict[int, list[int]], deletes: dict[int, list[int]]) -> None:
        self.sets, self.deletes = sets, deletes

    def process(self, value: list[int], ctx: sl.ProcessContext[str]) -> None:
        for at in value:
            ctx.set_timer(at)

    def on_timer(self, timestamp: int, ctx: sl.ProcessContext[str]) -> Iterable[Any]:
        for at in self.sets.get(timestamp, ()):
            ctx.set_timer(at)
        for at in self.deletes.get(timestamp, ()):
            ctx.delete_timer(at)
        return [(ctx.key, timestamp)]


def timers(
    folder: Path,
    values: list[int],
    *watermarks: int,
    sets: dict[int, list[int]] | None = None,
    deletes: dict[int, list[int]] | None = None,
) -> list[int]:
    tasks = Tasks(ProcessSpec(Timed(sets or {}, deletes or {})), Setting(folder))
    tasks.push([values], [0], ["k"])
    for watermark in watermarks:
        tasks.watermark(watermark)
    rung = [at for _, at in tasks.values()]
    assert [at for _, at in tasks.timed()] == rung
    tasks.close()
    return rung


def test_timers_ring_in_order_of_time_and_once(tmp_path: Path) -> None:
    far = [5000, 1, 1023, 1024, 1025, -1, -1024, -1025, 1, 5000, 1 << 40]
    assert timers(tmp_path, far, 1 << 41, 1 << 42) == sorted(set(far))


def test_a_timer_rings_when_its_time_is_reached_and_not_before(tmp_path: Path) -> None:
    assert timers(tmp_path / "1", [10, 11], 9) == []
    assert timers(tmp_path / "2", [10, 11], 9, 10) == [10]
    assert timers(tmp_path / "3", [10, 11], 9, 10, 10, 11) == [10, 11]


def test_a_timer_of_a_timer_rings_with_the_same_watermark_if_it_is_due(tmp_path: Path) -> None:
    assert timers(tmp_path / "1", [10], 100, sets={10: [20], 20: [30, 200]}) == [10, 20, 30]
    assert timers(tmp_path / "2", [10], 100, 200, sets={10: [200]}) == [10, 200]


@pytest.mark.parametrize("watermarks", [(10, 20), (25,)])
def test_a_timer_may_take_back_a_later_one(watermarks: tuple[int, ...], tmp_path: Path) -> None:
    """However far the watermark moves at once."""
    assert timers(tmp_path, [10, 20], *watermarks, deletes={10: [20]}) == [10]


@pytest.mark.parametrize("watermarks", [(10, 15, 20), (25,)])
def test_a_timer_of_a_timer_rings_in_its_turn(watermarks: tuple[int, ...], tmp_path: Path) -> None:
    """However far the watermark moves at once."""
    assert timers(tmp_path, [10, 20], *watermarks, sets={10: [15]}) == [10, 15, 20]


def test_a_timer_at_or_before_the_watermark_rings_right_behind_the_batch(tmp_path: Path) -> None:
    tasks = Tasks(ProcessSpec(Timed({}, {})), Setting(tmp_path))
    tasks.watermark(100)
    tasks.push([[100], [50, 101], [99]], [7, 8, 9], ["a", "b", "c"])
    assert tasks.timed() == [(("b", 50), 50), (("c", 99), 99), (("a", 100), 100)]
    tasks.watermark(101)
    assert tasks.timed()[3:] == [(("b", 101), 101)]


def test_timers_of_several_keys_ring_in_order_of_time(tmp_path: Path) -> None:
    tasks = Tasks(ProcessSpec(Timed({}, {})), Setting(tmp_path))
    tasks.push([[3000, 10], [2000, 20], [10]], [0, 0, 0], ["a", "b", "c"])
    tasks.end()
    assert [at for _, at in tasks.values()] == [10, 10, 20, 2000, 3000]
    assert {key for key, at in tasks.values() if at == 10} == {"a", "c"}


class Clocked(ProcessFunction[str, int, str]):
    """Rings so many ms after a record, and after that once more."""

    def process(self, value: int, ctx: sl.ProcessContext[str]) -> None:
        ctx.set_processing_timer(ctx.now_ms() + value)
        ctx.set_processing_timer(ctx.now_ms() + 5000)
        ctx.delete_processing_timer(ctx.now_ms() + 5000)

    def on_timer(self, timestamp: int, ctx: sl.ProcessContext[str]) -> Iterator[str]:
        if timestamp % 2 == 0:
            ctx.set_processing_timer(timestamp + 1001)
        yield f"{ctx.key} {timestamp} {ctx.now_ms()}"


def test_processing_timers_follow_the_clock_alone(tmp_path: Path) -> None:
    clock = ManualClock(10_000)
    tasks = Tasks(ProcessSpec(Clocked()), Setting(tmp_path, clock), 1)
    (task,) = tasks.tasks
    assert task.operator.next_clock_ms() is None
    tasks.push([20], [0], ["k"])
    tasks.end()
    assert tasks.values() == []
    due = task.operator.next_clock_ms()
    assert due is not None and due <= 10_020
    clock.advance(19)
    tasks.tick()
    assert tasks.values() == []
    clock.advance(1)
    saved = tasks.store(tasks.freeze())
    again = tasks.again(saved, 3)
    again.tick()
    assert again.timed() == [("k 10020 10020", 10_020)]
    clock.advance(10_000)
    again.tick()
    assert again.timed()[1:] == [("k 11021 20020", 11_021)]
    assert [task.operator.next_clock_ms() for task in again.tasks] == [None] * 3


def test_the_watermark_of_a_snapshot_is_known_again(tmp_path: Path) -> None:
    tasks = Tasks(ProcessSpec(Timed({}, {})), Setting(tmp_path))
    tasks.watermark(100)
    again = tasks.again(tasks.store(tasks.freeze()), 2)
    again.push([[99]], [0], ["k"])
    assert again.values() == [("k", 99)]


class Failing(ProcessFunction[str, int, int]):
    opened = closed = 0

    def open(self) -> None:
        type(self).opened += 1

    def process(self, value: int, ctx: sl.ProcessContext[str]) -> Iterator[int]:
        if value > 100:
            ctx.set_timer(value)
        yield 10 // value

    def on_timer(self, timestamp: int, ctx: sl.ProcessContext[str]) -> Iterator[int]:
        raise LookupError("in the timer")

    def close(self) -> None:
        type(self).closed += 1


def test_errors_name_the_operator_and_the_record(tmp_path: Path) -> None:
    tasks = Tasks(ProcessSpec(Failing()), Setting(tmp_path))
    with pytest.raises(UserFunctionError, match="ZeroDivisionError") as error:
        tasks.push([1, 0, 2], [1, 2, 3], ["a", "b", "c"])
    assert (error.value.operator, error.value.record) == (NODE, "0")
    assert "yield 10 // value" in str(error.value)
    tasks.push([101], [1], ["a"])
    with pytest.raises(UserFunctionError, match="in the timer") as error:
        tasks.watermark(101)
    assert error.value.operator == NODE
    assert "101" in error.value.record and "'a'" in error.value.record


def test_each_task_opens_and_closes_a_copy_once(tmp_path: Path) -> None:
    class Mine(Failing):
        opened = closed = 0

    function = Mine()
    tasks = Tasks(ProcessSpec(function), Setting(tmp_path), 3)
    assert (Mine.opened, Mine.closed) == (3, 0)
    tasks.close()
    tasks.close()
    assert (Mine.opened, Mine.closed) == (3, 3)
    assert vars(function) == {}


def test_a_function_that_cannot_be_opened_is_told_by_name_and_line(tmp_path: Path) -> None:
    class Closed(ProcessFunction[str, str, str]):
        def open(self) -> None:
            raise OSError("no model here")

    said = r"failed at test_process.py:\d+ \(raise OSError.* it was being opened"
    with pytest.raises(UserFunctionError, match=said):
        Tasks(ProcessSpec(Closed()), Setting(tmp_path))


def test_a_map_is_a_dict_in_all_it_does(tmp_path: Path) -> None:
    class Mapped(ProcessFunction[str, str, Any]):
        table = sl.MapState(str, int)

        def process(self, value: str, ctx: sl.ProcessContext[str]) -> Iterator[Any]:
            if value == "del":
                del self.table["gone"]
            elif value == "get":
                yield self.table["gone"]
            for name in self.table:
                del self.table[name]  # may be changed while it is walked through
            self.table["a"] = 1
            yield ("a" in self.table, "b" in self.table, len(self.table), self.table.get("b"))

    tasks = Tasks(ProcessSpec(Mapped()), Setting(tmp_path))
    tasks.push(["x", "x"], [1, 2], ["k", "k"])
    assert tasks.values() == [(True, False, 1, None)] * 2
    for bad in ("del", "get"):
        with pytest.raises(UserFunctionError, match="KeyError: 'gone'"):
            tasks.push([bad], [3], ["k"])


def test_states_of_base_classes_are_states_too(tmp_path: Path) -> None:
    class Base(ProcessFunction[str, int, Any]):
        total = sl.ValueState(int, 0)

    class Derived(Base):
        count = sl.ValueState(int, 0)

        def process(self, value: int, ctx: sl.ProcessContext[str]) -> Iterator[Any]:
            self.total.set((self.total.get() or 0) + value)
            self.count.set((self.count.get() or 0) + 1)
            yield (ctx.key, self.total.get(), self.count.get())

    spec = ProcessSpec(Derived())
    own = {"state:total", "state:count"}
    assert set(spec.layouts()) == own | {"event-timers", "processing-timers"}
    tasks = Tasks(spec, Setting(tmp_path))
    tasks.push([1, 2, 3], [0, 0, 0], ["a", "b", "a"])
    again = tasks.again(tasks.store(tasks.freeze()), 2)
    again.push([4, 5], [0, 0], ["a", "b"])
    assert sorted(again.values()) == [("a", 8, 3), ("b", 7, 2)]


def test_a_default_is_not_shared_between_keys(tmp_path: Path) -> None:
    class Gathers(sl.ProcessFunction[str, int, tuple[str, list[int]]]):
        seen = sl.ValueState(list, [])

        def process(self, value: int, ctx: sl.ProcessContext[str]) -> Any:
            values = self.seen.get()
            assert values is not None
            values.append(value)
            yield ctx.key, list(values)
            if value > 1:
                self.seen.set(values)

    tasks = Tasks(ProcessSpec(Gathers()), Setting(tmp_path))
    tasks.push([1, 2, 3, 4], [0, 0, 0, 0], ["a", "b", "a", "b"])
    assert sorted(tasks.values()) == [("a", [1]), ("a", [3]), ("b", [2]), ("b", [2, 4])]


class Ticks(ProcessFunction[str, int, int]):
    """Rings every second; for ever, or until the input ends."""

    def __init__(self, stops: bool) -> None:
        self.stops = stops

    def process(self, value: int, ctx: sl.ProcessContext[str]) -> None:
        ctx.set_timer(value)

    def on_timer(self, timestamp: int, ctx: sl.ProcessContext[str]) -> Iterator[int]:
        yield timestamp
        if not (self.stops and ctx.input_ended):
            ctx.set_timer(timestamp + 1_000)


def test_a_timer_that_sets_another_each_time_ends_with_the_input(tmp_path: Path) -> None:
    tasks = Tasks(ProcessSpec(Ticks(stops=True)), Setting(tmp_path))
    tasks.push([1_000], [0], ["a"])
    tasks.watermark(3_500)
    tasks.end()
    assert tasks.values() == [1_000, 2_000, 3_000, 4_000]


def test_a_timer_that_never_stops_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamline.operators.timers._MOST_FOLLOWERS", 1_000)
    tasks = Tasks(ProcessSpec(Ticks(stops=False)), Setting(tmp_path))
    tasks.push([1_000], [0], ["a"])
    with pytest.raises(UsageError, match="key 'a' sets another timer .* ctx.input_ended"):
        tasks.end()

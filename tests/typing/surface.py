"""What a type checker knows of a job; looked at by mypy, never run."""

from collections.abc import Iterator
from typing import Any, assert_type

import streamline as sl


class Order(sl.Record):
    user: str
    amount: float
    at: int


class Totals(sl.ProcessFunction[str, Order, tuple[str, float]]):
    total = sl.ValueState(float, 0.0)

    def process(self, value: Order, ctx: sl.ProcessContext[str]) -> Iterator[tuple[str, float]]:
        assert_type(ctx.key, str)
        assert_type(self.total.get(), float | None)
        yield ctx.key, value.amount


def streams(orders: sl.Stream[Order]) -> None:
    assert_type(orders.map(lambda o: o.amount), sl.Stream[float])
    assert_type(orders.map("amount"), sl.Stream[Any])
    assert_type(orders.map(sl.col("amount") * 2), sl.Stream[Any])
    assert_type(orders.filter(lambda o: o.amount > 0), sl.Stream[Order])
    assert_type(orders.flat_map(lambda o: [o.user, o.user]), sl.Stream[str])
    assert_type(orders.flat_map("user"), sl.Stream[Any])
    assert_type(orders.flat_map(sl.col("user")), sl.Stream[Any])
    assert_type(orders.map_batch(lambda values: [o.at for o in values]), sl.Stream[int])
    assert_type(orders.with_timestamps("at"), sl.Stream[Order])
    assert_type(orders.rebalance(name="spread", parallelism=2), sl.Stream[Order])
    assert_type(orders.broadcast(name="copies", parallelism=2), sl.Stream[Order])
    assert_type(orders.union(orders), sl.Stream[Order])
    assert_type(orders.uid("orders"), sl.Stream[Order])
    assert_type(orders.dead_letters, sl.Stream[sl.DeadLetter])


def keyed(orders: sl.Stream[Order]) -> None:
    by_user = orders.key_by(lambda o: o.user)
    assert_type(by_user, sl.KeyedStream[str, Order])
    assert_type(by_user.uid("by-user"), sl.KeyedStream[str, Order])
    assert_type(orders.key_by("user"), sl.KeyedStream[Any, Order])
    assert_type(by_user.reduce(lambda a, b: b), sl.Stream[Order])
    assert_type(by_user.aggregate(n=sl.Count()), sl.Stream[sl.KeyedResult])
    assert_type(by_user.process(Totals()), sl.Stream[tuple[str, float]])


def windowed(orders: sl.Stream[Order]) -> None:
    windows = orders.key_by(lambda o: o.user).window(sl.Tumbling("10s"), allowed_lateness="1m")
    assert_type(windows, sl.WindowedStream[str, Order])
    results = windows.aggregate(total=sl.Sum("amount")).uid("totals")
    assert_type(results.late, sl.Stream[Order])
    assert_type(results.map(lambda r: r.window_end), sl.Stream[int])
    assert_type(windows.reduce(lambda a, b: b).map(lambda o: o.amount), sl.Stream[float])
    assert_type(
        windows.apply(lambda key, window, found: [(key, window.start, len(found))]).map(
            lambda row: row[2]
        ),
        sl.Stream[int],
    )


def refused(orders: sl.Stream[Order]) -> None:
    orders.map(lambda o: o.amuont)  # type: ignore[attr-defined]
    orders.filter(lambda o: o.user + 1)  # type: ignore[operator]
    orders.map(3)  # type: ignore[call-overload]
    orders.key_by(lambda o: [o.user]).process(Totals())  # type: ignore[type-var, arg-type]

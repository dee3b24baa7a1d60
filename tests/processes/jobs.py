"""Golden jobs, run by the command line: one for every kind of window and of state."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import streamline as sl
from streamline.connectors.files import FileSink, FileSource
from streamline.connectors.files.sink import FileWriter
from streamline.io import Committable, SinkWriter


class Order(sl.Record):
    number: int
    user: str
    amount: int
    at: int


def orders(job: sl.Job, input: str, *, late: str = "20s") -> sl.Stream[Order]:
    source = FileSource(input, format=sl.Json(Order), split_bytes=2_000_000)
    return job.source("orders", source).with_timestamps("at", max_out_of_orderness=late)


def tumbling(input: str, output: str) -> sl.Job:
    job = sl.Job("tumbling")
    totals(orders(job, input), output)
    return job


def tumbling_slowly(input: str, output: str) -> sl.Job:
    """The same with a slow function, so that a million records are long enough to kill it often."""
    job = sl.Job("tumbling")
    totals(orders(job, input).map_batch(after_a_while), output)
    return job


def after_a_while(batch: list[Order]) -> list[Order]:
    time.sleep(0.02)
    return batch


def totals(stream: sl.Stream[Order], output: str) -> None:
    (
        stream.filter(lambda order: order.amount > 3)
        .key_by("user")
        .window(sl.Tumbling("10s"))
        .aggregate(total=sl.Sum("amount"), count=sl.Count(), mean=sl.Mean("amount"))
        .sink("out", FileSink(output, format=sl.Json()))
    )


def sliding(input: str, output: str) -> sl.Job:
    job = sl.Job("sliding")
    (
        orders(job, input)
        .key_by("user")
        .window(sl.Sliding("15s", "4s"))
        .aggregate(low=sl.Min("amount"), high=sl.Max(sl.col("amount") * 2), count=sl.Count())
        .sink("out", FileSink(output, format=sl.Json()))
    )
    return job


def sessions(input: str, output: str) -> sl.Job:
    job = sl.Job("sessions")
    (
        orders(job, input)
        .key_by(lambda order: f"{order.user}/{order.amount}")
        .window(sl.Session("3s"))
        .aggregate(count=sl.Count(), total=sl.Sum("number"))
        .sink("out", FileSink(output, format=sl.Json(), compression="gzip"))
    )
    return job


def applied(input: str, output: str) -> sl.Job:
    def summary(key: str, window: sl.WindowBounds, orders: list[Order]) -> Iterator[list[object]]:
        yield [key, window.start, len(orders), sum(order.amount for order in orders)]

    job = sl.Job("applied")
    (
        orders(job, input)
        .key_by("user")
        .window(sl.Tumbling("30s", offset="7s"))
        .apply(summary)
        .sink("out", FileSink(output, format=sl.Json()))
    )
    return job


class Totals(sl.ProcessFunction[str, Order, list[object]]):
    """A tumbling window by hand: value, list and map state, and timers of event time."""

    numbers = sl.ListState(int)
    sums = sl.MapState(int, int)
    seen = sl.ValueState(int, 0)

    def process(self, value: Order, ctx: sl.ProcessContext[str]) -> None:
        end = value.at - value.at % 20_000 + 19_999
        self.sums[end] = (self.sums.get(end) or 0) + value.amount
        self.numbers.append(value.number)
        ctx.set_timer(end)

    def on_timer(self, timestamp: int, ctx: sl.ProcessContext[str]) -> Iterator[list[object]]:
        yield [ctx.key, timestamp, self.sums[timestamp]]
        del self.sums[timestamp]
        self.numbers.set([number for number in self.numbers.get() if number % 1000 == 0])


def timers(input: str, output: str) -> sl.Job:
    job = sl.Job("timers")
    (
        orders(job, input)
        .key_by("user")
        .process(Totals())
        .sink("out", FileSink(output, format=sl.Json()))
    )
    return job


def counts(input: str, output: str) -> sl.Job:
    """A union of two branches, spread evenly, then a running count per key."""
    job = sl.Job("counts")
    source = orders(job, input)
    even = source.filter(lambda order: order.number % 2 == 0)
    odd = source.filter(lambda order: order.number % 2 == 1)
    (
        even.union(odd)
        .rebalance()
        .map(lambda order: order.user)
        .key_by(lambda user: user)
        .aggregate(count=sl.Count())
        .sink("out", FileSink(output, format=sl.Json()))
    )
    return job


def reduced(input: str, output: str) -> sl.Job:
    job = sl.Job("reduced")
    (
        orders(job, input)
        .key_by("user")
        .window(sl.Sliding("12s", "6s"))
        .reduce(lambda a, b: Order(0, a.user, a.amount + b.amount, 0))
        .sink("out", FileSink(output, format=sl.MsgPack(Order), compression="zstd"))
    )
    return job


def columns(input: str, output: str) -> sl.Job:
    """The source gives columns, and expressions work on them."""
    job = sl.Job("columns")
    source = FileSource(input, format=sl.Json(Order), split_bytes=2_000_000)
    (
        job.source("orders", source, layout="columns")
        .with_timestamps("at", max_out_of_orderness="20s")
        .filter(sl.col("amount") > 3)
        .key_by("user")
        .window(sl.Tumbling("10s"))
        .aggregate(total=sl.Sum("amount"), count=sl.Count(), mean=sl.Mean("amount"))
        .sink("out", FileSink(output, format=sl.Json()))
    )
    return job


def in_batches(input: str, output: str) -> sl.Job:
    """A function of whole batches, whose size must not matter, and one that gives more records."""

    def double(orders: list[Order]) -> list[Order]:
        return [Order(o.number, o.user, o.amount * 2, o.at) for o in orders]

    def some(order: Order) -> Iterator[Order]:
        for copy in range(order.number % 3):
            yield Order(order.number, f"{order.user}-{copy}", order.amount, order.at)

    job = sl.Job("in-batches")
    (
        orders(job, input)
        .map_batch(double)
        .flat_map(some)
        .key_by("user")
        .window(sl.Tumbling("10s"))
        .aggregate(total=sl.Sum("amount"), count=sl.Count())
        .sink("out", FileSink(output, format=sl.Json()))
    )
    return job


def late(input: str, output: str) -> sl.Job:
    """Windows that wait for a minute, what is later still, and what cannot be read."""
    job = sl.Job("late")
    read = job.source("orders", FileSource(input, format=sl.Json(Order, on_error="dead_letter")))
    totals = (
        read.with_timestamps("at", max_out_of_orderness="5s")
        .key_by("user")
        .window(sl.Tumbling("10s"), allowed_lateness="1m")
        .aggregate(total=sl.Sum("amount"), count=sl.Count())
    )
    totals.sink("out", FileSink(f"{output}/totals", format=sl.Json()))
    totals.late.sink("late", FileSink(f"{output}/late", format=sl.Json()))
    read.dead_letters.sink("broken", FileSink(f"{output}/broken", format=sl.Json()))
    return job


def refused(input: str, output: str) -> sl.Job:
    """A function that raises now and then; its records go to a sink of their own."""

    def halved(order: Order) -> list[object]:
        if order.number % 50 == 7:
            raise ValueError(f"no half of {order.number}")
        return [order.user, order.number, order.amount // 2]

    job = sl.Job("refused")
    read = job.source("orders", FileSource(input, format=sl.Json(Order, on_error="skip")))
    halves = read.map(halved, on_error="dead_letter")
    halves.sink("out", FileSink(f"{output}/halves", format=sl.Json()))
    halves.dead_letters.sink("refused", FileSink(f"{output}/refused", format=sl.Json()))
    return job


class TornSink(FileSink[object]):
    """Kills everything between two files of one commit, once, if a file tells it to."""

    died = ""

    def writer(self) -> SinkWriter[object]:
        return TornWriter(self)


class TornWriter(FileWriter[object]):
    async def commit(self, committables: list[Committable]) -> None:
        sink = self._sink
        assert isinstance(sink, TornSink)
        died = Path(sink.died)
        if len(committables) > 1 and died.exists() and died.read_text() == "not yet":
            await super().commit(committables[:1])
            died.write_text("dead")
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        await super().commit(committables)


def torn(input: str, output: str, died: str) -> sl.Job:
    """The job ``tumbling`` with such a sink."""
    job = sl.Job("torn")
    sink = TornSink(output, format=sl.Json())
    sink.died = died
    (
        orders(job, input)
        .filter(lambda order: order.amount > 3)
        .key_by("user")
        .window(sl.Tumbling("10s"))
        .aggregate(total=sl.Sum("amount"), count=sl.Count(), mean=sl.Mean("amount"))
        .sink("out", sink)
    )
    return job

"""The jobs that are simulated. Their results do not depend on the order of records."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import streamline as sl
from streamline.batch import Batch
from streamline.connectors.collection import CollectionSource
from streamline.io import SourceReader
from tests.simulation.ledger import Ledger, LedgerSink

START_MS = 1_700_000_000_000
USERS = 23
JITTER_MS = 3_000


class Event(sl.Record):
    number: int
    user: str
    amount: int
    at: int


def events(count: int, seed: int) -> list[Event]:
    rng = random.Random(seed)
    return [
        Event(
            number,
            f"u{rng.randrange(USERS)}",
            rng.randrange(100),
            START_MS + number * 150 + rng.randrange(-JITTER_MS, JITTER_MS),
        )
        for number in range(count)
    ]


def timed(job: sl.Job, name: str, count: int, seed: int) -> sl.Stream[Event]:
    source = CollectionSource(events(count, seed), partitions=4)
    return job.source(name, source).with_timestamps(
        "at", max_out_of_orderness="15s", name=f"time-{name}"
    )


def sliding(ledger: Ledger) -> sl.Job:
    job = sl.Job("sliding")
    (
        timed(job, "events", 700, 1)
        .filter(lambda event: event.amount > 4)
        .key_by("user")
        .window(sl.Sliding("10s", "4s"))
        .aggregate(total=sl.Sum("amount"), count=sl.Count(), top=sl.Max("amount"))
        .sink("out", LedgerSink(ledger))
    )
    return job


def sessions(ledger: Ledger) -> sl.Job:
    job = sl.Job("sessions")
    (
        timed(job, "events", 500, 2)
        .key_by(lambda event: (event.user, event.amount % 3))
        .window(sl.Session("4s"))
        .aggregate(total=sl.Sum("amount"), numbers=Sorted("number"))
        .sink("out", LedgerSink(ledger))
    )
    return job


class Sorted(sl.Aggregation[int, list[int], list[int]]):
    """All values, ascending."""

    def create(self) -> list[int]:
        return []

    def add(self, acc: list[int], value: int) -> list[int]:
        acc.append(value)
        return acc

    def merge(self, acc: list[int], other: list[int]) -> list[int]:
        return acc + other

    def result(self, acc: list[int]) -> list[int]:
        return sorted(acc)


class Totals(sl.ProcessFunction[str, Event, tuple[str, int, int, int]]):
    """Sums amounts per key and ten seconds; a timer hands the sum on."""

    sums = sl.MapState(int, int)
    seen = sl.ValueState(int, 0)

    def process(self, value: Event, ctx: sl.ProcessContext[str]) -> None:
        end = value.at - value.at % 10_000 + 9_999
        self.sums[end] = (self.sums.get(end) or 0) + value.amount
        self.seen.set((self.seen.get() or 0) + 1)
        ctx.set_timer(end)

    def on_timer(
        self, timestamp: int, ctx: sl.ProcessContext[str]
    ) -> Iterator[tuple[str, int, int, int]]:
        assert timestamp <= ctx.watermark, "a timer rang before its time"
        total = self.sums[timestamp]
        del self.sums[timestamp]
        yield (ctx.key, timestamp, total, len(self.sums) * 0)


def timers(ledger: Ledger) -> sl.Job:
    job = sl.Job("timers")
    (timed(job, "events", 600, 3).key_by("user").process(Totals()).sink("out", LedgerSink(ledger)))
    return job


def stateless(ledger: Ledger) -> sl.Job:
    job = sl.Job("stateless")
    (
        timed(job, "events", 900, 4)
        .filter(lambda event: event.number % 7 != 0)
        .rebalance()
        .map(lambda event: [event.number, event.user])
        .sink("out", LedgerSink(ledger))
    )
    return job


def joined(ledger: Ledger) -> sl.Job:
    """Two sources, a union, a running count, and a copy of all that to two tasks."""
    job = sl.Job("joined")
    both = timed(job, "left", 300, 5).union(timed(job, "right", 350, 6))
    counts = both.key_by("user").aggregate(count=sl.Count(), total=sl.Sum(lambda event: 1))
    counts.sink("out", LedgerSink(ledger))
    copies = both.map(lambda event: event.number).broadcast()
    copies.map(lambda number: f"copy {number}", parallelism=2).sink(
        "copies", LedgerSink(ledger), parallelism=2
    )
    return job


class ColumnsSource(CollectionSource[Event]):
    """Gives its records as columns."""

    def reader(self) -> SourceReader[Event]:
        reader = super().reader()
        poll = reader.poll

        def in_columns() -> Batch | None:
            batch = poll()
            return None if batch is None else batch.to_columns()

        reader.poll = in_columns  # type: ignore[method-assign]
        return reader


def columns(ledger: Ledger) -> sl.Job:
    """Columns from the source over the shuffle to the window."""
    job = sl.Job("columns")
    source = ColumnsSource(events(800, 7), partitions=4)
    (
        job.source("events", source, layout="columns")
        .with_timestamps("at", max_out_of_orderness="15s")
        .filter(sl.col("amount") > 4)
        .key_by("user")
        .window(sl.Tumbling("10s"))
        .aggregate(total=sl.Sum("amount"), count=sl.Count(), low=sl.Min("amount"))
        .sink("out", LedgerSink(ledger))
    )
    return job


def batches(ledger: Ledger) -> sl.Job:
    """Functions of whole batches and of many results, and a copy that nobody keys."""

    def halves(events: list[Event]) -> list[Event]:
        return [Event(e.number, e.user, e.amount // 2, e.at) for e in events]

    def some(event: Event) -> Iterator[Event]:
        for copy in range(event.number % 3):
            yield Event(event.number, f"{event.user}/{copy}", event.amount, event.at)

    job = sl.Job("batches")
    copies = timed(job, "events", 500, 8).map_batch(halves).flat_map(some)
    copies.key_by("user").window(sl.Tumbling("10s")).aggregate(
        total=sl.Sum("amount"), count=sl.Count()
    ).sink("out", LedgerSink(ledger))
    copies.map(lambda event: (event.number, event.user)).sink("copies", LedgerSink(ledger))
    return job


JOBS: list[Callable[[Ledger], sl.Job]] = [sliding, sessions, timers, stateless, joined]
JOBS += [columns, batches]


def plain(value: Any) -> str:
    """A result as text that can be compared and counted."""
    return repr(value)

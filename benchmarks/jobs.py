"""The jobs that are measured."""

import random

import streamline as sl
from streamline.connectors.datagen import GeneratorSource
from streamline.connectors.files import FileSink, FileSource


class Order(sl.Record):
    """One line of the input."""

    user: str
    amount: float
    at: int


def keyed(input: str, output: str) -> sl.Job:
    """Filter, key, sliding window: JSON files to JSON files."""
    job = sl.Job("keyed")
    (
        job.source("orders", FileSource(input, format=sl.Json(Order)))
        .with_timestamps("at", max_out_of_orderness="5s")
        .filter(lambda order: order.amount > 0)
        .key_by(lambda order: order.user)
        .window(sl.Sliding("10s", "5s"))
        .aggregate(total=sl.Sum("amount"), orders=sl.Count())
        .sink("totals", FileSink(output, format=sl.Json()))
    )
    return job


def stateless(input: str, output: str) -> sl.Job:
    """One function for each record: JSON files to JSON files."""
    job = sl.Job("stateless")
    (
        job.source("orders", FileSource(input, format=sl.Json(Order)))
        .map(lambda order: {"user": order.user, "cents": int(order.amount * 100), "at": order.at})
        .sink("mapped", FileSink(output, format=sl.Json()))
    )
    return job


def many_keys(output: str, keys: int = 5_000_000, records: int = 8_000_000) -> sl.Job:
    """A running count for more keys than the table has room for; all results are counted."""

    def key(number: int, rng: random.Random) -> int:
        # Every key once, in an order that jumps about; then some of them again.
        return number * 2_654_435_761 % keys if number < keys else rng.randrange(keys)

    job = sl.Job("many-keys")
    (
        job.source("keys", GeneratorSource(key, count=records))
        .key_by(lambda number: number)
        .aggregate(count=sl.Count())
        .filter(lambda result: result.count > 5)
        .sink("often", FileSink(output, format=sl.Json()))
    )
    return job

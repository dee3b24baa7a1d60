"""Jobs that the service is measured with."""

import os
import random
import time
from typing import TypeVar

import streamline as sl
from streamline.connectors.datagen import GeneratorSource
from streamline.connectors.files import FileSink

T = TypeVar("T")
_files: dict[str, int] = {}


def _stamp(batch: list[T], folder: str) -> list[T]:
    """Note that records came out of the aggregation just now; one line for a batch."""
    if folder not in _files:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        _files[folder] = os.open(f"{folder}/{os.getpid()}", flags, 0o644)
    os.write(_files[folder], b"%.4f\n" % time.time())
    return batch


def counted(output: str, stamps: str, keys: int = 1_000_000, rate: int = 100_000) -> sl.Job:
    """A running count for each of many keys, which says when it has counted."""

    def make(number: int, _: random.Random) -> int:
        return number * 2_654_435_761 % keys

    job = sl.Job("counted")
    (
        job.source("numbers", GeneratorSource(make, rate=rate))
        .key_by(lambda number: number)
        .aggregate(count=sl.Count(), name="count")
        .map_batch(lambda batch: _stamp(batch, stamps), name="stamp")
        .filter(lambda result: result.count > 1_000_000)
        .sink("out", FileSink(output, format=sl.Json()))
    )
    return job


def small(output: str, rate: int = 200) -> sl.Job:
    """A window over a few records a second, for ever."""
    job = sl.Job("small")
    (
        job.source("numbers", GeneratorSource(_order, rate=rate))
        .with_timestamps("at")
        .key_by("user")
        .window(sl.Tumbling("1s"))
        .aggregate(orders=sl.Count())
        .sink("out", FileSink(output, format=sl.Json()))
    )
    return job


def _order(number: int, _: random.Random) -> dict[str, object]:
    return {"user": f"u{number % 50}", "at": 1_700_000_000_000 + number * 5}

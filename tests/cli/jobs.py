"""A job for the command line's tests: it pauses half way until a file is there.

So a test decides what happens to a running job, and after which checkpoint, without timing.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import streamline as sl
from streamline.connectors.files import FileSink

KEYS = 7


class Numbers(sl.Source[int]):
    """0, 1, 2 ... ``count``; those from ``hold`` on only when the file ``go`` exists."""

    def __init__(self, count: int, hold: int, go: str) -> None:
        self.count, self.hold, self.go = count, hold, Path(go)

    @property
    def bounded(self) -> bool:
        return True

    async def discover(self) -> list[str]:
        return ["all"]

    def reader(self) -> "NumbersReader":
        return NumbersReader(self)


class NumbersReader(sl.SourceReader[int]):
    def __init__(self, source: Numbers) -> None:
        self._source = source
        self._next = 0
        self.active: set[str] = set()

    async def open(self, context: sl.ReaderContext) -> None:
        pass

    def assign(self, positions: Mapping[str, int | None]) -> None:
        if "all" in positions:
            self._next = positions["all"] or 0
            if self._next < self._source.count:
                self.active.add("all")

    def poll(self) -> sl.Batch | None:
        source = self._source
        end = source.count if source.go.exists() else source.hold
        if not self.active or self._next >= end:
            return None
        numbers = list(range(self._next, min(end, self._next + 10)))
        self._next += len(numbers)
        if self._next == source.count:
            self.active.clear()
        return sl.RowBatch(numbers, partition="all")

    async def wait(self) -> None:
        await asyncio.sleep(0.01)

    def snapshot(self) -> dict[str, int]:
        return {"all": self._next}

    async def close(self) -> None:
        pass


def build(name: str, output: str, go: str, *, count: int, hold: int) -> sl.Job:
    job = sl.Job(name)
    (
        job.source("numbers", Numbers(count, hold, go))
        .key_by(lambda number: number % KEYS, name="by-rest")
        .aggregate(seen=sl.Count(), total=sl.Sum(lambda number: number), name="running")
        .sink("results", FileSink(output, format=sl.Json()))
    )
    return job


def job(output: str, go: str = "go", count: int = 200, hold: int = 100) -> sl.Job:
    """Of each number, its rest by 7 with how many of these were seen so far, and their sum."""
    return build("running", output, go, count=count, hold=hold)


def other(output: str, go: str = "go", count: int = 200, hold: int = 100) -> sl.Job:
    """The same under another name."""
    return build("other", output, go, count=count, hold=hold)

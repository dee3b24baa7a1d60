"""A job whose reader goes on one record behind the place that the checkpoint says."""

import asyncio
from collections.abc import Mapping

import streamline as sl
from streamline.connectors.files import FileSink


class Numbers(sl.Source[int]):
    def __init__(self, count: int) -> None:
        self.count = count

    @property
    def bounded(self) -> bool:
        return True

    async def discover(self) -> list[str]:
        return ["all"]

    def reader(self) -> "Reader":
        return Reader(self.count)


class Reader(sl.SourceReader[int]):
    def __init__(self, count: int) -> None:
        self._count = count
        self._next = 0
        self.active: set[str] = set()

    async def open(self, context: sl.ReaderContext) -> None:
        self._restored = context.restored

    def assign(self, positions: Mapping[str, int | None]) -> None:
        for name, position in positions.items():
            self._next = 0 if position is None else position + 1
            self.active.add(name)

    def poll(self) -> sl.Batch | None:
        if self._next >= self._count:
            if self._restored:  # it ends when it has been gone back to once
                self.active.clear()
            return None
        self._next += 1
        return sl.RowBatch([self._next], partition="all")

    async def wait(self) -> None:
        await asyncio.sleep(0.01)

    def snapshot(self) -> dict[str, int]:
        return {"all": self._next}

    async def close(self) -> None:
        pass


def job(output: str) -> sl.Job:
    job = sl.Job("forgetful")
    job.source("numbers", Numbers(100)).sink("out", FileSink(output, format=sl.Json()))
    return job

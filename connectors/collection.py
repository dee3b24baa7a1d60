"""CollectionSource: records from a list, for tests, notebooks and first steps.

The shortest source there is, and an example for one of your own: a partition is every so manieth
item, and the position is how many have been read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from streamline.batch import Batch, RowBatch
from streamline.io import Position, ReaderContext, Source, SourceReader

T = TypeVar("T")


class CollectionSource(Source[T]):
    """Bounded: the records of a list, in order; or of several lists, one partition each.

    Args:
        items: The records.
        timestamps: Their event times, ms since the epoch; needs no ``with_timestamps`` then.
        partitions: The list is dealt to so many partitions, record by record.

    >>> import streamline as sl
    >>> from streamline.testing import CollectingSink, run_job
    >>> job, sink = sl.Job("copy"), CollectingSink()
    >>> job.source("words", CollectionSource(["so", "far"], [1_000, 2_000])).sink("out", sink)
    >>> _ = run_job(job)
    >>> sink.events
    [Event(value='so', at=1000), Event(value='far', at=2000)]
    """

    def __init__(
        self,
        items: Sequence[T],
        timestamps: Sequence[int] | None = None,
        *,
        partitions: int = 1,
    ) -> None:
        self.items = list(items)
        self.timestamps = None if timestamps is None else list(timestamps)
        self.partitions = partitions
        self.assigns_timestamps = timestamps is not None

    @property
    def bounded(self) -> bool:
        return True

    async def discover(self) -> list[str]:
        return [f"{number:05d}" for number in range(self.partitions)]

    def reader(self) -> SourceReader[T]:
        return _Reader(self)


class _Reader(SourceReader[T]):
    def __init__(self, source: CollectionSource[T]) -> None:
        self._source = source
        self._next: dict[str, int] = {}
        self.active: set[str] = set()

    async def open(self, context: ReaderContext) -> None:
        self._context = context

    def assign(self, positions: Mapping[str, Position | None]) -> None:
        for name, position in positions.items():
            self._next[name] = position or 0
            if self._next[name] < len(self._items(name)):
                self.active.add(name)

    def poll(self) -> Batch | None:
        if not self.active:
            return None
        reached = self._context.watermarks
        name = min(self.active, key=lambda other: (reached.get(other, -1 << 63), other))
        start = self._next[name]
        items = self._items(name)
        part = items[start : start + self._context.batch_rows]
        end = self._next[name] = start + len(part)
        if end >= len(items):
            self.active.discard(name)
        times = None
        if self._source.timestamps is not None:
            mine = self._source.timestamps[int(name) :: self._source.partitions]
            times = np.array(mine[start:end], dtype=np.int64)
        return RowBatch(part, times, partition=name)

    async def wait(self) -> None:
        pass

    def snapshot(self) -> dict[str, Position]:
        return dict(self._next)

    async def close(self) -> None:
        pass

    def _items(self, name: str) -> list[T]:
        return self._source.items[int(name) :: self._source.partitions]

"""GeneratorSource: records made by a function, as many and as fast as asked for.

What a record is depends on seed and number alone, so a restored reader makes the same ones again.
Time plays a part in the rate only, and comes from the task's clock.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import TypeVar

from streamline.batch import Batch, RowBatch
from streamline.errors import UsageError
from streamline.io import Position, ReaderContext, Source, SourceReader
from streamline.user_code import user_error

T = TypeVar("T")
_BLOCK = 1024


class GeneratorSource(Source[T]):
    """Makes records; the same ones again after a crash, from seed and number alone.

    Args:
        make: Called with the record's number (0, 1, 2 ... over all partitions) and a random
            generator.
        count: How many in all; None goes on for ever.
        rate: Records a second in all; None is as fast as it goes.
        seed: Of the random generators.
        partitions: How many readers may work side by side.

    Raises:
        UsageError: For a number that cannot be.

    >>> import streamline as sl
    >>> from streamline.testing import CollectingSink, run_job
    >>> def throw(number, rng):
    ...     return number, rng.randint(1, 6)
    >>> def throws():
    ...     job, sink = sl.Job("dice"), CollectingSink()
    ...     job.source("dice", GeneratorSource(throw, count=4, seed=7)).sink("out", sink)
    ...     _ = run_job(job)
    ...     return sorted(sink.records)
    >>> [number for number, _ in throws()], throws() == throws()
    ([0, 1, 2, 3], True)
    """

    def __init__(
        self,
        make: Callable[[int, random.Random], T],
        *,
        count: int | None = None,
        rate: float | None = None,
        seed: int = 0,
        partitions: int = 8,
    ) -> None:
        if count is not None and count < 0:
            raise UsageError(f"count={count} must not be negative")
        if rate is not None and rate <= 0:
            raise UsageError(f"rate={rate} must be above zero")
        if partitions < 1:
            raise UsageError(f"partitions={partitions} must be at least 1")
        self.make = make
        self.count = count
        self.rate = rate
        self.seed = seed
        self.partitions = partitions

    @property
    def bounded(self) -> bool:
        return self.count is not None

    async def discover(self) -> list[str]:
        return [f"{number:05d}" for number in range(self.partitions)]

    def reader(self) -> SourceReader[T]:
        return _Reader(self)


class _Reader(SourceReader[T]):
    """Partition ``p`` of ``n`` makes the records ``p``, ``p + n``, ``p + 2n`` ..."""

    def __init__(self, source: GeneratorSource[T]) -> None:
        self._source = source
        self._next: dict[str, int] = {}
        self._going_on: dict[str, tuple[int, random.Random]] = {}
        self._began_ms = 0
        self._made = 0
        self.active: set[str] = set()

    async def open(self, context: ReaderContext) -> None:
        self._context = context
        self._began_ms = context.clock.now_ms()

    def assign(self, positions: Mapping[str, Position | None]) -> None:
        for name, position in positions.items():
            self._next[name] = position or 0
            if self._left(name) != 0:
                self.active.add(name)

    def poll(self) -> Batch | None:
        if not self.active:
            return None
        room = min(self._context.batch_rows, self._allowed())
        if room <= 0:
            return None
        name = min(self.active, key=lambda other: (self._next[other], other))
        start = self._next[name]
        # Random numbers begin anew with each block, so that any place can be come back to.
        end = min(start + room, (start // _BLOCK + 1) * _BLOCK)
        left = self._left(name)
        if left is not None:
            end = min(end, start + left)
        values = self._make(name, start, end)
        self._next[name] = end
        self._made += len(values)
        if self._left(name) == 0:
            self.active.discard(name)
        return RowBatch(values, partition=name)

    async def wait(self) -> None:
        await asyncio.sleep(0.01)

    def snapshot(self) -> dict[str, Position]:
        return dict(self._next)

    async def close(self) -> None:
        pass

    def _left(self, name: str) -> int | None:
        """How many records the partition still has to make."""
        source = self._source
        if source.count is None:
            return None
        mine = len(range(int(name), source.count, source.partitions))
        return mine - self._next[name]

    def _allowed(self) -> int:
        """How many records the rate allows now."""
        source = self._source
        if source.rate is None:
            return 1 << 30
        share = source.rate * len(self._next) / source.partitions
        elapsed_ms = self._context.clock.now_ms() - self._began_ms
        return int(share * elapsed_ms / 1000) - self._made

    def _make(self, name: str, start: int, end: int) -> list[T]:
        source = self._source
        begin, rng = self._going_on.pop(name, (-1, None))  # where the last poll left off
        if rng is None or begin != start or start % _BLOCK == 0:
            begin = start // _BLOCK * _BLOCK
            rng = random.Random(f"{source.seed}/{name}/{begin}")
        first, step, make = int(name), source.partitions, source.make
        made: list[T] = []
        try:
            for place in range(begin, end):
                made.append(make(first + place * step, rng))
        except Exception as error:
            number = first + (begin + len(made)) * step
            doing = f"it was making record {number}"
            raise user_error(self._context.node, error, number, meanwhile=doing) from error
        self._going_on[name] = end, rng
        return made[start - begin :]

"""CollectingSink: committed records in a list, for the test that ran the job to look at.

It keeps the two phases: what is written is pending, and only a commit makes it a record.
All copies of a sink in a process share one list; other processes cannot be seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from streamline.batch import Batch
from streamline.errors import ConnectorError
from streamline.io import Committable, Guarantee, Sink, SinkWriter, WriterContext
from streamline.testing.event import Event
from streamline.testing.shared import Shared

T = TypeVar("T")


class CollectingSink(Sink[T]):
    """Collects what a job has committed, exactly once.

    Works with engines that run in the test's own process, such as :func:`run_job`. A job that
    starts from scratch replaces what it had collected before; one that goes back to an older
    checkpoint takes back what came behind it.

    >>> import streamline as sl
    >>> from streamline.connectors.collection import CollectionSource
    >>> from streamline.testing import CollectingSink, run_job
    >>> job, sink = sl.Job("shout"), CollectingSink()
    >>> job.source("in", CollectionSource(["a", "b"])).map(str.upper).sink("out", sink)
    >>> _ = run_job(job)
    >>> sink.records, sink.pending
    (['A', 'B'], [])
    """

    guarantee = Guarantee.EXACTLY_ONCE

    def __init__(self) -> None:
        self._box = _Box()

    @property
    def records(self) -> list[T]:
        """All committed records, in the order of their commits; a copy."""
        return [event.value for event in self.events]

    @property
    def events(self) -> list[Event[T]]:
        """The same with event times; records without have ``MIN_TIMESTAMP``.

        >>> import streamline as sl
        >>> from streamline.testing import CollectingSink, Event, ScriptedSource, run_job
        >>> job, sink = sl.Job("copy"), CollectingSink()
        >>> job.source("in", ScriptedSource([Event("tea", 1_000)])).sink("out", sink)
        >>> _ = run_job(job)
        >>> sink.events
        [Event(value='tea', at=1000)]
        """
        return [event for part in self._box.committed.values() for event in part.events]

    @property
    def pending(self) -> list[T]:
        """Records that were written but not committed."""
        parts = [*self._box.prepared.values(), *self._box.written.values()]
        return [event.value for part in parts for event in part.events]

    def writer(self) -> SinkWriter[T]:
        return _Writer(self._box)


@dataclass
class _Part:
    """What one writer has written for one epoch."""

    sink: str
    index: int
    run: str
    lineage: str
    epoch: int = 0
    events: list[Event[Any]] = field(default_factory=list)


class _Box(Shared):
    """What outlives the writers: parts by name."""

    def __init__(self) -> None:
        super().__init__()
        self.written: dict[str, _Part] = {}
        self.prepared: dict[str, _Part] = {}
        self.committed: dict[str, _Part] = {}
        self._numbers = count()

    def new_name(self, sink: str) -> str:
        return f"{sink}/{next(self._numbers)}"


class _Writer(SinkWriter[T]):
    def __init__(self, box: _Box) -> None:
        self._box = box
        self._name: str | None = None

    async def open(self, context: WriterContext) -> None:
        self._context = context
        self._sink = f"{context.job}/{context.node}"
        if context.index == 0 and not context.restored:
            for name in self._mine(self._box.committed):
                del self._box.committed[name]

    async def recover(self, committables: list[Committable]) -> None:
        await self.commit(committables)
        context = self._context
        for parts in (self._box.prepared, self._box.written):
            for name, part in self._mine(parts).items():
                if part.run != context.run and self._settles(part):
                    del parts[name]
        if context.restored_epoch is None:
            return
        for name, part in self._mine(self._box.committed).items():
            later = part.lineage == context.lineage and part.epoch > context.restored_epoch
            if later and self._settles(part):
                del self._box.committed[name]

    def write(self, batch: Batch) -> None:
        box, context = self._box, self._context
        if self._name is None:
            self._name = box.new_name(self._sink)
            box.written[self._name] = _Part(self._sink, context.index, context.run, context.lineage)
        rows = batch.to_rows()
        box.written[self._name].events += map(Event, rows.values, rows.timestamps.tolist())

    async def prepare(self, epoch: int) -> list[Committable]:
        if self._name is None:
            return []
        name, self._name = self._name, None
        part = self._box.prepared[name] = self._box.written.pop(name)
        part.epoch = epoch
        return [name]

    async def commit(self, committables: list[Committable]) -> None:
        box = self._box
        for name in committables:
            part = box.prepared.pop(name, None)
            if part is not None:
                box.committed[name] = part
            elif name not in box.committed:
                raise ConnectorError(
                    f"sink {self._context.node!r}: {name} was prepared by another process; "
                    "CollectingSink works within one process only, use FileSink"
                )

    async def close(self) -> None:
        if self._name is not None:
            self._box.written.pop(self._name, None)
            self._name = None

    def _settles(self, part: _Part) -> bool:
        """Whether this writer settles what the earlier writer of the part left."""
        return part.index % self._context.parallelism == self._context.index

    def _mine(self, parts: dict[str, _Part]) -> dict[str, _Part]:
        return {name: part for name, part in parts.items() if part.sink == self._sink}

"""A sink whose results outlive every crash, and that refuses what must not be committed."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

from streamline.batch import Batch
from streamline.errors import InvariantError
from streamline.io import Committable, Guarantee, Sink, SinkWriter, WriterContext
from streamline.state.store import CheckpointStore


@dataclass
class Ledger:
    """What stands outside the engine: prepared and committed results, by committable."""

    store: CheckpointStore | None = None
    prepared: dict[str, list[Any]] = field(default_factory=dict)
    committed: dict[str, list[Any]] = field(default_factory=dict)
    numbers: Any = field(default_factory=count)

    def results(self) -> list[str]:
        """All committed results, sorted, as text."""
        return sorted(repr(value) for values in self.committed.values() for value in values)

    def commit(self, node: str, name: str) -> None:
        """Make one committable visible.

        Raises:
            InvariantError: If no completed checkpoint names it.
        """
        if name in self.committed:
            return
        assert self.store is not None
        named = {
            item
            for epoch in self.store.epochs()
            for task in self.store.read_manifest(epoch).tasks
            for item in task.sinks.get(node, [])
        }
        if name not in named:
            raise InvariantError(f"{name} is committed, but no completed checkpoint names it")
        self.committed[name] = self.prepared.pop(name)


class LedgerSink(Sink[Any]):
    guarantee = Guarantee.EXACTLY_ONCE

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def writer(self) -> SinkWriter[Any]:
        return _Writer(self.ledger)


class _Writer(SinkWriter[Any]):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._values: list[Any] = []

    async def open(self, context: WriterContext) -> None:
        self._context = context

    async def recover(self, committables: list[Committable]) -> None:
        await self.commit(committables)
        prefix, run = f"{self._context.node}/", self._context.run
        for name in [n for n in self._ledger.prepared if n.startswith(prefix)]:
            _, of_run, index, _, _ = name.split("/")
            mine = int(index) % self._context.parallelism == self._context.index
            if of_run != run and mine:
                del self._ledger.prepared[name]

    def write(self, batch: Batch) -> None:
        self._values += batch.to_rows().values

    async def prepare(self, epoch: int) -> list[Committable]:
        if not self._values:
            return []
        context = self._context
        name = f"{context.node}/{context.run}/{context.index}/{epoch}/{next(self._ledger.numbers)}"
        self._ledger.prepared[name], self._values = self._values, []
        return [name]

    async def commit(self, committables: list[Committable]) -> None:
        for name in committables:
            self._ledger.commit(self._context.node, name)

    async def close(self) -> None:
        self._values = []

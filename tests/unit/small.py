"""The smallest sources, sinks and operators that tests of other things need."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamline.batch import Batch, RowBatch
from streamline.graph import Edge, JobGraph, Node, Partitioning
from streamline.io import Sink, SinkWriter, Source, SourceReader
from streamline.plan import ExecutionPlan, make_plan


class AnySource(Source[Any]):
    """A source of which only the description is looked at."""

    def __init__(
        self, *, timed: bool = True, dead_letters: bool = False, bounded: bool = True
    ) -> None:
        self.assigns_timestamps = timed
        self._dead_letters = dead_letters
        self._bounded = bounded

    @property
    def bounded(self) -> bool:
        return self._bounded

    @property
    def dead_letters(self) -> bool:
        return self._dead_letters

    async def discover(self) -> list[str]:
        return ["0"]

    def reader(self) -> SourceReader[Any]:
        raise NotImplementedError


class ListWriter(SinkWriter[Any]):
    """Keeps what is written and says what was committed."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.committed: list[Any] = []

    async def open(self, context: Any) -> None: ...

    def write(self, batch: Batch) -> None:
        self.batches.append(batch)

    async def prepare(self, epoch: int) -> list[Any]:
        return [epoch]

    async def commit(self, committables: list[Any]) -> None:
        self.committed += committables

    async def close(self) -> None: ...

    @property
    def values(self) -> list[Any]:
        return [value for batch in self.batches for value in batch.to_rows().values]


class AnySink(Sink[Any]):
    """A sink into lists."""

    def writer(self) -> SinkWriter[Any]:
        return ListWriter()


@dataclass(frozen=True)
class Step:
    """An operator of which only the description is looked at."""

    kind: str = "step"
    assigns_timestamps: bool = False
    needs_timestamps: bool = False
    keyed: bool = False
    dead_letters: bool = False

    def layouts(self) -> dict[str, dict[str, Any]]:
        return {}


def graph(text: str, **settings: Any) -> JobGraph:
    """A graph from lines such as ``in -> sum hash x3``.

    ``in*`` is a source, ``out*`` a sink, the rest are steps; behind the target may stand a
    partitioning and the target's parallelism.
    """
    result = JobGraph("test", **settings)
    for line in text.strip().splitlines():
        source, _, rest = line.strip().partition(" -> ")
        target, *words = rest.split()
        for name in (source, target):
            if all(node.id != name for node in result.nodes):
                result.nodes.append(Node(name, body_of(name)))
        how = Partitioning.FORWARD
        for word in words:
            if word.startswith("x"):
                result.node(target).parallelism = int(word[1:])
            else:
                how = Partitioning(word)
        result.edges.append(Edge(source, target, how))
    return result


def body_of(name: str) -> Any:
    """The body that a node of that name has in ``graph``."""
    if name.startswith("in"):
        return AnySource()
    return AnySink() if name.startswith("out") else Step()


def plan(text: str, parallelism: int = 1, **settings: Any) -> ExecutionPlan:
    """The plan of ``graph(text)``."""
    return make_plan(graph(text, **settings), parallelism)


def rows(*values: Any, times: list[int] | None = None, **settings: Any) -> RowBatch:
    """A batch of rows."""
    stamps = None if times is None else np.array(times, dtype=np.int64)
    return RowBatch(list(values), stamps, **settings)

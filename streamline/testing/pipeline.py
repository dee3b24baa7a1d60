"""Pipeline: the part of a job that a harness drives, as one stage without channels.

Where a job would send records to the task that owns their key, records of other tasks' keys
are left out. It builds descriptions only; the harness runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

from streamline.batch import Batch
from streamline.dsl.job import Job
from streamline.dsl.stream import Stream
from streamline.errors import UsageError
from streamline.expr import Expr
from streamline.graph import DEAD_LETTERS, Edge, JobGraph, Node, Partitioning
from streamline.ids import NodeId
from streamline.io import Sink, SinkWriter, Source, SourceReader
from streamline.operators.base import Operator, OperatorSpec, Output
from streamline.operators.key_by import KeyBySpec
from streamline.plan import Stage

BuildStream: TypeAlias = Callable[[Stream[Any]], Stream[Any]]
Key: TypeAlias = str | Expr | Callable[[Any], Hashable]
_INPUT, _OPERATOR, _OUTPUT = NodeId("input"), NodeId("operator"), NodeId("output")


@dataclass(frozen=True)
class Pipeline:
    """A stage and the node and tag of its results."""

    stage: Stage
    results: Edge

    @property
    def keyed_nodes(self) -> list[NodeId]:
        """Nodes that have keyed state, in order."""
        nodes = self.stage.nodes
        return [n.id for n in nodes if isinstance(n.body, OperatorSpec) and n.body.layouts()]

    @property
    def letter_nodes(self) -> list[NodeId]:
        """Nodes that make dead letters, in order."""
        return [node.id for node in self.stage.nodes if _makes_letters(node)]

    @classmethod
    def of_spec(cls, spec: OperatorSpec, key: Key | None) -> Pipeline:
        """One operator, with a key_by in front of it if there is a key."""
        bodies: list[tuple[NodeId, Any]] = [(_INPUT, _Input())]
        if key is not None:
            bodies.append((NodeId("key_by"), KeyBySpec(key)))
        bodies += [(_OPERATOR, spec), (_OUTPUT, _Nowhere())]
        graph = JobGraph("harness", [Node(name, body) for name, body in bodies])
        for (source, _), (target, _) in pairwise(bodies):
            hashed = target == _OPERATOR and (spec.keyed or key is not None)
            how = Partitioning.HASH if hashed else Partitioning.FORWARD
            graph.edges.append(Edge(source, target, how))
        return cls._of_graph(graph)

    @classmethod
    def of_stream(cls, build: BuildStream) -> Pipeline:
        """Whatever a function adds to a stream.

        Raises:
            UsageError: If the function does not return a stream.
            GraphError: If what it builds cannot run.
        """
        job = Job("harness")
        results = build(job.source(_INPUT, _Input()))
        if not isinstance(results, Stream):
            raise UsageError(
                "the function must return the stream whose records are to be seen, such as "
                f"stream.map(f), not {type(results).__name__}"
            )
        results.sink(_OUTPUT, _Nowhere())
        graph = job.graph()
        heard = {edge.source for edge in graph.edges if edge.tag == DEAD_LETTERS}
        for number, node in enumerate(list(graph.nodes)):
            if _makes_letters(node) and node.id not in heard:
                letters = Node(NodeId(f"{_OUTPUT}-letters-{number}"), _Nowhere())
                graph.nodes.append(letters)
                graph.edges.append(Edge(node.id, letters.id, tag=DEAD_LETTERS))
        graph.validate()
        return cls._of_graph(graph)

    @classmethod
    def _of_graph(cls, graph: JobGraph) -> Pipeline:
        nodes: list[Node] = []
        edges: list[Edge] = []
        for node in graph.topological():
            if isinstance(node.body, Sink):
                continue
            for edge in graph.inputs(node.id):
                if edge.partitioning == Partitioning.HASH:
                    owned = NodeId(f"{edge.target}.owned")
                    nodes.append(Node(owned, OwnedSpec()))
                    edges.append(replace(edge, target=owned, partitioning=Partitioning.FORWARD))
                    edges.append(Edge(owned, edge.target))
                else:
                    edges.append(replace(edge, partitioning=Partitioning.FORWARD))
            nodes.append(node)
        return cls(Stage(_INPUT, tuple(nodes), tuple(edges), 1), graph.inputs(_OUTPUT)[0])


def _makes_letters(node: Node) -> bool:
    return isinstance(node.body, OperatorSpec) and node.body.dead_letters


@dataclass(frozen=True)
class OwnedSpec(OperatorSpec):
    """Keep the records whose key group the task owns."""

    def build(self) -> Operator:
        return _Owned()


class _Owned(Operator):
    def process(self, batch: Batch, out: Output) -> None:
        if batch.groups is None:
            raise UsageError(
                "the operator needs keys; give push(..., key=) or OperatorHarness(..., key=)"
            )
        start, stop = self.context.key_range
        mine = batch.where((batch.groups >= start) & (batch.groups < stop))
        if len(mine):
            out.emit(mine)


class _Input(Source[Any]):
    """Stands for whatever the harness is given."""

    assigns_timestamps = True

    @property
    def bounded(self) -> bool:
        return True

    async def discover(self) -> list[str]:
        return []

    def reader(self) -> SourceReader[Any]:
        raise NotImplementedError


class _Nowhere(Sink[Any]):
    """Marks the stream whose records are results."""

    def writer(self) -> SinkWriter[Any]:
        raise NotImplementedError

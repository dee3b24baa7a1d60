"""JobGraph -> ExecutionPlan: chains of nodes become stages, stages become tasks.

Pure: the same graph and parallelism give the same plan in every process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from streamline.errors import GraphError
from streamline.graph import Edge, JobGraph, Node, Partitioning
from streamline.ids import ChannelId, NodeId, TaskId
from streamline.io import Sink, Source
from streamline.keys import KeyGroupRange, owned_range


@dataclass(frozen=True)
class Stage:
    """A chain of nodes that run in one task, and in how many copies.

    Attributes:
        id: The first node's name.
        nodes: The nodes, each behind the one that feeds it.
        inner: Edges between them; batches pass as plain calls.
        parallelism: How many tasks run the chain.
        origins: Whether its source is asked where each record was read.
    """

    id: NodeId
    nodes: tuple[Node, ...]
    inner: tuple[Edge, ...]
    parallelism: int
    origins: bool = False

    @property
    def node_ids(self) -> tuple[NodeId, ...]:
        """Names of the nodes."""
        return tuple(node.id for node in self.nodes)

    @property
    def is_source(self) -> bool:
        """Whether it begins with a source."""
        return isinstance(self.nodes[0].body, Source)

    @property
    def has_sink(self) -> bool:
        """Whether one of its nodes is a sink."""
        return any(isinstance(node.body, Sink) for node in self.nodes)

    def tasks(self) -> list[TaskId]:
        """Its tasks, by index."""
        return [TaskId(self.id, index) for index in range(self.parallelism)]


@dataclass(frozen=True)
class CrossEdge:
    """An edge between two stages: channels between their tasks.

    Attributes:
        number: Place among the plan's cross edges; part of every channel's id.
        edge: The edge of the graph.
        source: Stage it comes from.
        target: Stage it goes to.
        partitioning: As it is run: a forward edge between unequal parallelisms is a rebalance.
    """

    number: int
    edge: Edge
    source: NodeId
    target: NodeId
    partitioning: Partitioning


@dataclass(frozen=True)
class ExecutionPlan:
    """A job as deployed."""

    job: str
    max_parallelism: int
    stages: tuple[Stage, ...]
    edges: tuple[CrossEdge, ...]

    def stage(self, stage_id: NodeId) -> Stage:
        """The stage whose first node has that name."""
        return next(stage for stage in self.stages if stage.id == stage_id)

    def tasks(self) -> list[TaskId]:
        """All tasks, stage by stage."""
        return [task for stage in self.stages for task in stage.tasks()]

    def key_range(self, task: TaskId) -> KeyGroupRange:
        """The key groups that a task owns."""
        return owned_range(task.index, self.stage(task.node).parallelism, self.max_parallelism)

    def outputs(self, stage: NodeId) -> list[CrossEdge]:
        """Edges that leave a stage."""
        return [edge for edge in self.edges if edge.source == stage]

    def inputs(self, stage: NodeId) -> list[CrossEdge]:
        """Edges that enter a stage."""
        return [edge for edge in self.edges if edge.target == stage]

    def channels(self, edge: CrossEdge) -> list[ChannelId]:
        """The channels of an edge: one for each pair of tasks that may talk."""
        sources = self.stage(edge.source).parallelism
        targets = self.stage(edge.target).parallelism
        if edge.partitioning == Partitioning.FORWARD:
            return [ChannelId(edge.number, index, index) for index in range(sources)]
        return [
            ChannelId(edge.number, source, target)
            for source in range(sources)
            for target in range(targets)
        ]

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain values, for JSON."""
        return {
            "job": self.job,
            "max_parallelism": self.max_parallelism,
            "stages": [
                {
                    "id": stage.id,
                    "nodes": list(stage.node_ids),
                    "parallelism": stage.parallelism,
                    "tasks": [
                        {"task": str(task), "key_groups": list(self.key_range(task))}
                        for task in stage.tasks()
                    ],
                }
                for stage in self.stages
            ],
            "edges": [
                {
                    "source": edge.source,
                    "target": edge.target,
                    "partitioning": edge.partitioning.value,
                    "channels": len(self.channels(edge)),
                }
                for edge in self.edges
            ],
        }


def make_plan(graph: JobGraph, parallelism: int = 1) -> ExecutionPlan:
    """Validate a graph and lay it out.

    A node joins the task of the node that feeds it when it has a single input, both have the
    same parallelism, and the edge is forward or both run only once.

    Raises:
        GraphError: If the graph cannot run.
    """
    graph.validate(parallelism)
    home: dict[NodeId, NodeId] = {}
    members: dict[NodeId, list[Node]] = {}
    inner: dict[NodeId, list[Edge]] = {}
    for node in graph.topological():
        edges = graph.inputs(node.id)
        if len(edges) == 1 and _chains(graph, edges[0], parallelism):
            stage = home[edges[0].source]
            inner[stage].append(edges[0])
        else:
            stage = node.id
            members[stage], inner[stage] = [], []
        home[node.id] = stage
        members[stage].append(node)
    stages = tuple(
        Stage(
            stage,
            tuple(nodes),
            tuple(inner[stage]),
            graph.parallelism_of(nodes[0], parallelism),
            isinstance(nodes[0].body, Source) and graph.wants_origins(nodes[0].id),
        )
        for stage, nodes in members.items()
    )
    chained = {edge for edges in inner.values() for edge in edges}
    cross = [edge for edge in graph.edges if edge not in chained]
    return ExecutionPlan(
        graph.name,
        graph.max_parallelism,
        stages,
        tuple(_cross_edges(graph, cross, home, default=parallelism)),
    )


def with_parallelism(graph: JobGraph, nodes: Mapping[str, int]) -> JobGraph:
    """The same graph with other parallelism at some nodes.

    Raises:
        GraphError: If there is no such node.
    """
    unknown = sorted(set(nodes) - {str(node.id) for node in graph.nodes})
    if unknown:
        names = ", ".join(node.id for node in graph.nodes)
        raise GraphError(
            f"job {graph.name!r} has no node {unknown[0]!r} to be rescaled; there are {names}"
        )
    changed = [
        replace(node, parallelism=nodes.get(node.id, node.parallelism)) for node in graph.nodes
    ]
    return replace(graph, nodes=changed)


def _cross_edges(
    graph: JobGraph, edges: list[Edge], home: dict[NodeId, NodeId], *, default: int
) -> Iterator[CrossEdge]:
    for number, edge in enumerate(edges):
        source = graph.parallelism_of(graph.node(edge.source), default)
        target = graph.parallelism_of(graph.node(edge.target), default)
        partitioning = edge.partitioning
        if partitioning == Partitioning.FORWARD and source != target:
            partitioning = Partitioning.REBALANCE
        yield CrossEdge(number, edge, home[edge.source], home[edge.target], partitioning)


def _chains(graph: JobGraph, edge: Edge, default: int) -> bool:
    source = graph.parallelism_of(graph.node(edge.source), default)
    target = graph.parallelism_of(graph.node(edge.target), default)
    return source == target and (edge.partitioning == Partitioning.FORWARD or source == 1)

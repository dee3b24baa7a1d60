"""GraphBuilder: adds nodes and edges to a JobGraph under names that are free.

The only writer of the graph: names are checked here, when they are given. Whether the graph can
run is for ``JobGraph.validate`` to say.
"""

from __future__ import annotations

from streamline.errors import GraphError, UsageError
from streamline.graph import MAIN, Body, Edge, JobGraph, Node, Partitioning
from streamline.ids import NodeId
from streamline.io import Layout

_FORBIDDEN = set("/\\[]\n\t\r\0")


class GraphBuilder:
    """The one writer of a job's graph; streams hold it."""

    def __init__(self, graph: JobGraph) -> None:
        self.graph = graph

    def add(
        self,
        kind: str,
        body: Body,
        *,
        name: str | None,
        parallelism: int | None,
        layout: Layout = "rows",
    ) -> Node:
        """Add a node; without a name it is called after its kind, and numbered.

        Raises:
            GraphError: If the name is taken.
            UsageError: If the name cannot be used.
        """
        name = self.free_name(kind) if name is None else name
        node = Node(self._checked(name), body, parallelism, layout)
        self.graph.nodes.append(node)
        return node

    def free_name(self, kind: str) -> str:
        """The name of a node that has none of its own: its kind, and a number if need be."""
        taken = {node.id for node in self.graph.nodes}
        name, count = kind, 1
        while name in taken:
            count += 1
            name = f"{kind}-{count}"
        return name

    def connect(self, source: Node, target: Node, how: Partitioning, *, tag: str = MAIN) -> None:
        """Add an edge."""
        self.graph.edges.append(Edge(source.id, target.id, how, tag))

    def rename(self, node: Node, name: str) -> None:
        """Give a node another name.

        Raises:
            GraphError: If the name is taken.
            UsageError: If the name cannot be used.
        """
        if name == node.id:
            return
        old, new = node.id, self._checked(name)
        node.id = new
        self.graph.edges[:] = [
            Edge(
                new if edge.source == old else edge.source,
                new if edge.target == old else edge.target,
                edge.partitioning,
                edge.tag,
            )
            for edge in self.graph.edges
        ]

    def _checked(self, name: str) -> NodeId:
        if not isinstance(name, str) or not name or _FORBIDDEN & set(name):
            raise UsageError(
                f"the node name {name!r} must be text without slashes, brackets or line breaks"
            )
        if any(node.id == name for node in self.graph.nodes):
            raise GraphError(
                f"job {self.graph.name!r} has two nodes named {name!r}; give each a name of its "
                "own with name="
            )
        return NodeId(name)

"""JobGraph: nodes and edges as written by the user, and the checks before anything runs.

It knows what a node is called and how nodes hang together, not what they do nor where they
run; that is ``plan``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

from streamline.errors import GraphError
from streamline.ids import NodeId
from streamline.io import Layout, Sink, Source
from streamline.keys import DEFAULT_MAX_PARALLELISM

MAIN = "main"
DEAD_LETTERS = "dead_letters"
_MERMAID = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;"}


class Partitioning(StrEnum):
    """Which task behind an edge gets a record."""

    FORWARD = "forward"
    HASH = "hash"
    BROADCAST = "broadcast"
    REBALANCE = "rebalance"


class OperatorDescription(Protocol):
    """What the graph must know of an operator's description."""

    @property
    def kind(self) -> str: ...
    @property
    def assigns_timestamps(self) -> bool: ...
    @property
    def needs_timestamps(self) -> bool: ...
    @property
    def keyed(self) -> bool: ...
    @property
    def dead_letters(self) -> bool: ...
    def layouts(self) -> dict[str, dict[str, Any]]: ...


Body: TypeAlias = Source[Any] | Sink[Any] | OperatorDescription


@dataclass
class Node:
    """A source, operator or sink of the job.

    Attributes:
        id: Stable name; state is found again by it.
        body: What it does.
        parallelism: Parallel copies, or None for the job's default.
        layout: What a source is asked to deliver.
    """

    id: NodeId
    body: Body
    parallelism: int | None = None
    layout: Layout = "rows"

    @property
    def kind(self) -> str:
        """``source``, ``sink`` or the operator's own kind."""
        if isinstance(self.body, Source):
            return "source"
        if isinstance(self.body, Sink):
            return "sink"
        return self.body.kind


@dataclass(frozen=True)
class Edge:
    """Records flow from one node to another.

    Attributes:
        source: The node they come from.
        target: The node they go to.
        partitioning: Which task gets a record.
        tag: Which output of the source node: the main one, late records, dead letters.
    """

    source: NodeId
    target: NodeId
    partitioning: Partitioning = Partitioning.FORWARD
    tag: str = MAIN


@dataclass
class JobGraph:
    """A job as written: its name, nodes and edges."""

    name: str
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    max_parallelism: int = DEFAULT_MAX_PARALLELISM

    def node(self, node_id: NodeId) -> Node:
        """The node of that name.

        Raises:
            KeyError: If there is none.
        """
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)

    def inputs(self, node_id: NodeId) -> list[Edge]:
        """Edges that end at a node, in the order in which they were made."""
        return [edge for edge in self.edges if edge.target == node_id]

    def outputs(self, node_id: NodeId) -> list[Edge]:
        """Edges that start at a node."""
        return [edge for edge in self.edges if edge.source == node_id]

    def parallelism_of(self, node: Node, default: int) -> int:
        """Parallel copies of a node when the job's default is ``default``."""
        return default if node.parallelism is None else node.parallelism

    def topological(self) -> list[Node]:
        """Nodes such that each stands behind all that feed it.

        Raises:
            GraphError: If there is a cycle; names the nodes on it.
        """
        waiting = {node.id: len(self.inputs(node.id)) for node in self.nodes}
        order: list[Node] = []
        ready = [node for node in self.nodes if waiting[node.id] == 0]
        while ready:
            node = ready.pop(0)
            order.append(node)
            for edge in self.outputs(node.id):
                waiting[edge.target] -= 1
                if waiting[edge.target] == 0:
                    ready.append(self.node(edge.target))
        if len(order) < len(self.nodes):
            stuck = ", ".join(sorted(name for name, count in waiting.items() if count))
            raise GraphError(
                f"the nodes {stuck} of job {self.name!r} feed each other in a cycle; records must "
                "flow from sources to sinks only, so cut one of the edges between them"
            )
        return order

    def validate(self, parallelism: int = 1) -> None:
        """Refuse a graph that cannot run.

        Args:
            parallelism: The default for nodes that name none.

        Raises:
            GraphError: Naming the node and what to do.
        """
        self._check_names()
        order = self.topological()
        self._check_ends()
        self._check_parallelism(parallelism)
        self._check_timestamps(order)
        self._check_dead_letters()

    def _check_names(self) -> None:
        if not self.nodes:
            raise GraphError(
                f"job {self.name!r} is empty; start it with job.source(name, source) and end it "
                "with .sink(name, sink)"
            )
        counts = Counter(node.id for node in self.nodes)
        for name, count in counts.items():
            if count > 1:
                raise GraphError(
                    f"job {self.name!r} has {count} nodes named {name!r}; give each a name of its "
                    "own with name="
                )
        for edge in self.edges:
            for end in (edge.source, edge.target):
                if end not in counts:
                    raise GraphError(
                        f"an edge of job {self.name!r} names {end!r}, which is no node"
                    )

    def _check_ends(self) -> None:
        if not any(isinstance(node.body, Source) for node in self.nodes):
            raise GraphError(
                f"job {self.name!r} has no source; start with job.source(name, source)"
            )
        for node in self.nodes:
            if isinstance(node.body, Sink):
                continue
            if not self.outputs(node.id):
                raise GraphError(
                    f"the results of node {node.id!r} ({node.kind}) go nowhere; end the stream "
                    "with .sink(name, sink)"
                )
            if not isinstance(node.body, Source) and not self.inputs(node.id):
                raise GraphError(f"node {node.id!r} ({node.kind}) has no input")

    def _check_parallelism(self, default: int) -> None:
        limit = self.max_parallelism
        if not 1 <= default <= limit:
            raise GraphError(
                f"parallelism {default} of job {self.name!r} must be between 1 and its "
                f"max_parallelism, {limit}"
            )
        for node in self.nodes:
            if node.parallelism is not None and not 1 <= node.parallelism <= limit:
                raise GraphError(
                    f"parallelism {node.parallelism} of node {node.id!r} must be between 1 and "
                    f"the job's max_parallelism, {limit}; lower it, or raise "
                    "Job(max_parallelism=) before the first run"
                )

    def _check_timestamps(self, order: list[Node]) -> None:
        timed: dict[NodeId, bool] = {}
        for node in order:
            body = node.body
            fed = [timed[edge.source] for edge in self.inputs(node.id)]
            timed[node.id] = (bool(fed) and all(fed)) or (
                not isinstance(body, Sink) and body.assigns_timestamps
            )
            if isinstance(body, Source | Sink) or not body.needs_timestamps:
                continue
            if not all(fed):
                raise GraphError(
                    f"node {node.id!r} ({node.kind}) needs event times, but nothing upstream sets "
                    'them; add .with_timestamps("field", max_out_of_orderness="5s") before key_by'
                )

    def _check_dead_letters(self) -> None:
        for node in self.nodes:
            if isinstance(node.body, Sink):
                continue
            if isinstance(node.body, Source):
                what, maker = f"source {node.id!r}", "format"
                remedy = 'give the format on_error="dead_letter"'
            else:
                what, maker = f"{node.kind} {node.id!r}", "function"
                remedy = 'map, filter and the like take on_error="dead_letter"'
            tags = {edge.tag for edge in self.outputs(node.id)}
            if node.body.dead_letters and DEAD_LETTERS not in tags:
                raise GraphError(
                    f'{what} has a {maker} with on_error="dead_letter", but its dead letters go '
                    "nowhere; send them somewhere with .dead_letters.sink(name, sink)"
                )
            if DEAD_LETTERS in tags and not node.body.dead_letters:
                raise GraphError(
                    f"the dead letters of {what} are used, but its {maker} makes none; {remedy}"
                )
            if MAIN not in tags and (maker == "format" or DEAD_LETTERS in tags):
                raise GraphError(
                    f"the records of {what} go nowhere; end the stream with .sink(name, sink)"
                )

    def wants_origins(self, source: NodeId) -> bool:
        """Whether a function that sends dead letters is given what this source read."""
        waiting, seen = [source], set[NodeId]()
        while waiting:
            name = waiting.pop()
            for edge in self.outputs(name):
                body = self.node(edge.target).body
                if edge.tag != MAIN or edge.target in seen or isinstance(body, Sink | Source):
                    continue
                if body.dead_letters:
                    return True
                if not body.keyed:
                    seen.add(edge.target)
                    waiting.append(edge.target)
        return False

    def to_dict(self) -> dict[str, Any]:
        """The graph as plain values, for JSON; also what identifies it across processes."""
        return {
            "name": self.name,
            "max_parallelism": self.max_parallelism,
            "nodes": [
                {"id": node.id, "kind": node.kind, "parallelism": node.parallelism}
                for node in self.nodes
            ],
            "edges": [
                {
                    "source": edge.source,
                    "target": edge.target,
                    "partitioning": edge.partitioning.value,
                    "tag": edge.tag,
                }
                for edge in self.edges
            ],
        }

    def to_mermaid(self) -> str:
        """The graph as a Mermaid flow chart."""
        return "\n".join(self._mermaid_lines())

    def _mermaid_lines(self) -> Iterator[str]:
        yield "flowchart LR"
        numbers = {node.id: f"n{number}" for number, node in enumerate(self.nodes)}
        for node in self.nodes:
            shape = {"source": "[(%s)]", "sink": "[/%s/]"}.get(node.kind, "[%s]")
            name = "".join(_MERMAID.get(letter, letter) for letter in node.id)
            label = f'"{name}<br/><i>{node.kind}</i>"'
            yield f"    {numbers[node.id]}{shape % label}"
        for edge in self.edges:
            words = [edge.partitioning.value] if edge.partitioning != Partitioning.FORWARD else []
            words += [edge.tag] if edge.tag != MAIN else []
            arrow = f"-->|{', '.join(words)}|" if words else "-->"
            yield f"    {numbers[edge.source]} {arrow} {numbers[edge.target]}"

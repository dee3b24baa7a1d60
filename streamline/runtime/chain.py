"""Chain: the operators of one stage, wired so that a batch passes through all of them in one call.

Neighbouring map, filter and flat_map nodes are compiled to one loop. A chain knows where its
outputs go only as callables; it sees no channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

from streamline.batch import Batch
from streamline.errors import StreamlineError
from streamline.graph import MAIN, Edge
from streamline.ids import NodeId
from streamline.io import Counters, Sink, SinkWriter, Source
from streamline.messages import Watermark
from streamline.operators.base import Operator, OperatorContext, OperatorSpec, Output
from streamline.operators.rows import RowLoop, RowSpec
from streamline.plan import Stage

TakeBatch: TypeAlias = Callable[[Batch], None]
TakeWatermark: TypeAlias = Callable[[Watermark], None]


class Link(Output):
    """Where the results of one node go: by tag, to any number of takers."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._takers: dict[str, list[TakeBatch]] = {}
        self._watermarks: list[TakeWatermark] = []

    def add(self, tag: str, take: TakeBatch, watermark: TakeWatermark | None) -> None:
        """Add a taker of batches under a tag, and of watermarks."""
        self._takers.setdefault(tag, []).append(take)
        if watermark is not None:
            self._watermarks.append(watermark)

    def emit(self, batch: Batch, tag: str = MAIN) -> None:
        if tag == MAIN:
            self._counters.records_out += len(batch)
        for take in self._takers.get(tag, ()):
            take(batch)

    def watermark(self, watermark: Watermark) -> None:
        for take in self._watermarks:
            take(watermark)


@dataclass
class _Member:
    """One operator of the chain; fused nodes share one."""

    nodes: tuple[NodeId, ...]
    operator: Operator
    link: Link
    counters: Counters

    def take(self, batch: Batch) -> None:
        self.counters.records_in += self.operator.records(batch)
        self.operator.process(batch, self.link)


@dataclass
class Outlet:
    """An edge that leaves the chain: takers of what a node emits under a tag."""

    node: NodeId
    tag: str
    take: TakeBatch
    watermark: TakeWatermark


@dataclass
class Chain:
    """The running operators of one task.

    Attributes:
        head: Link into the chain: what comes from the source or the channels is emitted here.
        writers: Sink writers by node.
        counters: By node.
    """

    head: Link
    writers: dict[NodeId, SinkWriter[Any]] = field(default_factory=dict)
    counters: dict[NodeId, Counters] = field(default_factory=dict)
    _members: list[_Member] = field(default_factory=list)

    @property
    def keyed(self) -> bool:
        """Whether an operator needs a state backend."""
        return any(member.operator.keyed for member in self._members)

    def open(self, context: Callable[[NodeId, Counters, bool], OperatorContext]) -> None:
        """Open all operators, in order."""
        for member in self._members:
            member.operator.open(context(member.nodes[-1], member.counters, member.operator.keyed))

    def snapshot(self) -> dict[str, Any]:
        """State that is not keyed, by node; nodes without any are left out."""
        states = {str(member.nodes[-1]): member.operator.snapshot() for member in self._members}
        return {node: state for node, state in states.items() if state is not None}

    def restore(self, states: dict[str, list[Any]]) -> None:
        """Hand each operator what its old copies had."""
        for member in self._members:
            old = states.get(member.nodes[-1])
            if old:
                member.operator.restore(old)

    def next_clock_ms(self) -> int | None:
        """The earliest time at which an operator wants to be called."""
        times = [
            due for member in self._members if (due := member.operator.next_clock_ms()) is not None
        ]
        return min(times, default=None)

    def on_clock(self, now_ms: int) -> None:
        """Call the operators whose time has come."""
        for member in self._members:
            due = member.operator.next_clock_ms()
            if due is not None and due <= now_ms:
                member.operator.on_clock(now_ms, member.link)

    def close(self) -> None:
        """Close all operators, the last first; one that raises does not keep the others open."""
        with ExitStack() as operators:
            for member in self._members:
                operators.callback(member.operator.close)


def build_chain(stage: Stage, outlets: Iterable[Outlet]) -> Chain:
    """Build and wire the operators of a stage; nothing is opened yet."""
    outlets = list(outlets)
    counters = {node.id: Counters() for node in stage.nodes}
    links: dict[NodeId, Link] = {}
    entry: dict[NodeId, tuple[TakeBatch, TakeWatermark | None]] = {}
    head = Link(Counters())
    chain = Chain(head, counters=counters)
    fused_into = _fuse(stage, outlets)
    for group in fused_into:
        first, last = group[0], group[-1]
        body = stage.nodes[stage.node_ids.index(first)].body
        if isinstance(body, Source):
            links[last] = chain.head = Link(counters[first])
            continue
        if isinstance(body, Sink):
            writer = chain.writers[first] = body.writer()
            entry[first] = (partial(_write, first, writer, counters[first]), None)
            continue
        link = Link(counters[last])
        member = _Member(tuple(group), _build(stage, group), link, counters[first])
        chain._members.append(member)
        links[last] = link
        entry[first] = (member.take, partial(_watermark, member))
    if not isinstance(stage.nodes[0].body, Source):
        take, watermark = entry[stage.id]
        head.add(MAIN, take, watermark)
    fused = {(a, b) for group in fused_into for a, b in pairwise(group)}
    for edge in stage.inner:
        if (edge.source, edge.target) not in fused:
            take, watermark = entry[edge.target]
            links[edge.source].add(edge.tag, take, watermark)
    for outlet in outlets:
        links[outlet.node].add(outlet.tag, outlet.take, outlet.watermark)
    return chain


def _watermark(member: _Member, watermark: Watermark) -> None:
    member.operator.on_watermark(watermark, member.link)


def _write(node: NodeId, writer: SinkWriter[Any], counters: Counters, batch: Batch) -> None:
    counters.records_in += len(batch)
    try:
        writer.write(batch)
    except StreamlineError as error:
        if repr(str(node)) in str(error):
            raise
        raise type(error)(f"sink {str(node)!r}: {error}") from error


def _build(stage: Stage, group: list[NodeId]) -> Operator:
    bodies = {node.id: node.body for node in stage.nodes}
    steps = [(str(node), bodies[node]) for node in group]
    if isinstance(steps[0][1], RowSpec) and steps[0][1].fuses:
        return RowLoop([(name, spec) for name, spec in steps if isinstance(spec, RowSpec)])
    spec = steps[0][1]
    assert isinstance(spec, OperatorSpec)
    return spec.build()


def _fuse(stage: Stage, outlets: list[Outlet]) -> list[list[NodeId]]:
    """Group neighbouring row nodes that feed only each other."""
    bodies = {node.id: node.body for node in stage.nodes}
    leaving = {outlet.node for outlet in outlets}
    groups: list[list[NodeId]] = []
    group_of: dict[NodeId, list[NodeId]] = {}
    for node in stage.nodes:
        edge = next((edge for edge in stage.inner if edge.target == node.id), None)
        if edge is not None and isinstance(node.body, RowSpec):
            before = edge.source
            outputs: list[Edge] = [other for other in stage.inner if other.source == before]
            alone = len(outputs) == 1 and before not in leaving
            feeder = bodies[before]
            if alone and isinstance(feeder, RowSpec) and feeder.fuses and node.body.fuses:
                group_of[before].append(node.id)
                group_of[node.id] = group_of[before]
                continue
        group_of[node.id] = [node.id]
        groups.append(group_of[node.id])
    return groups

"""Names of things: nodes, tasks, channels, epochs, generations.

Types and no behaviour; the lowest of the leaves, so that every room can use the same words. Who
gives out these names is not known here.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

NodeId = NewType("NodeId", str)
"""A node's stable name: the user's ``name=`` or one derived from its place in the graph."""

Epoch = NewType("Epoch", int)
"""Number of a checkpoint; grows by one."""

Generation = NewType("Generation", int)
"""Number of an attempt to run the job; messages of an older one are dropped."""

WorkerId = NewType("WorkerId", int)
"""Number of a worker process within its job."""


class TaskId(NamedTuple):
    """One parallel copy of a stage of the plan: the stage's first node and an index."""

    node: NodeId
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here

    def __str__(self) -> str:
        return f"{self.node}[{self.index}]"


class ChannelId(NamedTuple):
    """One directed connection between two tasks, along one edge of the graph."""

    edge: int
    source: int
    target: int

"""What coordinator and tasks tell each other: commands down, reports up. Plain data.

Every message names the generation it belongs to; whoever gets one of another drops it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from streamline.ids import NodeId, TaskId
from streamline.state.manifest import StateHandle, TaskSnapshot


@dataclass(frozen=True)
class Trigger:
    """To source tasks: put a barrier into the stream.

    Attributes:
        epoch: Number of the checkpoint.
        kind: ``checkpoint`` or ``savepoint``.
        drain: Send nothing behind it until the epoch is committed, then end.
    """

    generation: int
    epoch: int
    kind: str = "checkpoint"
    drain: bool = False


@dataclass(frozen=True)
class Commit:
    """To all tasks: the checkpoint is complete; what was prepared for it may become visible.

    Attributes:
        drain: The epoch's barrier was the last; end.
    """

    generation: int
    epoch: int
    drain: bool = False


@dataclass(frozen=True)
class Abort:
    """To all tasks: the checkpoint was given up; go on."""

    generation: int
    epoch: int


@dataclass(frozen=True)
class AssignPartitions:
    """To a source task: partitions found while running."""

    generation: int
    node: NodeId
    partitions: list[str]


@dataclass(frozen=True)
class KeepPace:
    """To a source task: how far the slowest of the source's other tasks is in event time."""

    generation: int
    others: int


Command: TypeAlias = Trigger | Commit | Abort | AssignPartitions | KeepPace


@dataclass(frozen=True)
class TaskRestore:
    """With what a task begins.

    Attributes:
        operators: What ``snapshot`` of each node returned, in every old task.
        positions: For each source node, its partitions and where to go on (None: beginning).
        committables: For each sink node: what those old tasks had prepared and not yet seen
            committed whose index, modulo the parallelism of now, is this task's.
        state: Keyed state of the old tasks that overlaps with the task's key groups.
        epoch: Number of the checkpoint; 0 if there is none at all.
        lineage: Names the life of the job, from its start from scratch over all restores.
    """

    operators: dict[str, list[Any]] = field(default_factory=dict)
    positions: dict[str, dict[str, Any]] = field(default_factory=dict)
    committables: dict[str, list[Any]] = field(default_factory=dict)
    state: list[StateHandle] = field(default_factory=list)
    epoch: int = 0
    lineage: str = ""

    @property
    def restored(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.epoch > 0


@dataclass(frozen=True)
class Running:
    """The task has restored its state and begins."""

    generation: int
    task: TaskId


@dataclass(frozen=True)
class SourceEnded:
    """The task's source has returned its last record."""

    generation: int
    task: TaskId


@dataclass(frozen=True)
class SnapshotTaken:
    """The task's part of a checkpoint is durable."""

    generation: int
    task: TaskId
    epoch: int
    snapshot: TaskSnapshot


@dataclass(frozen=True)
class SnapshotDeclined:
    """The task cannot take part in a checkpoint; it goes on."""

    generation: int
    task: TaskId
    epoch: int
    reason: str


@dataclass(frozen=True)
class Committed:
    """All that the task had prepared up to this epoch is visible."""

    generation: int
    task: TaskId
    epoch: int


@dataclass(frozen=True)
class Finished:
    """The task has ended as it should."""

    generation: int
    task: TaskId


@dataclass(frozen=True)
class Failed:
    """The task has ended by an error.

    Attributes:
        reason: One sentence for the user.
        trace: For ``--debug``: the traceback.
        fatal: Trying again cannot help: the user's function or data is at fault.
        echo: It follows from a failure elsewhere.
        outage: Something outside is away; the next attempt may fail in the same way.
    """

    generation: int
    task: TaskId
    reason: str
    trace: str = ""
    fatal: bool = False
    echo: bool = False
    outage: bool = False


Report: TypeAlias = (
    Running | SourceEnded | SnapshotTaken | SnapshotDeclined | Committed | Finished | Failed
)

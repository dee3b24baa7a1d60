"""JobStatus: what can be said of a job at a moment, for people and programs.

A plain value that engines fill in. It is a picture, not a handle: nothing here can act on the job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from streamline.coordinator.checkpoints import CompletedCheckpoint
from streamline.coordinator.lifecycle import JobState, TaskState


class WorkerState(StrEnum):
    """Where a worker is: starting -> running -> lost, and starting again."""

    STARTING = "starting"  # there is a process, which has not said yet that it can take tasks
    RUNNING = "running"
    LOST = "lost"  # its process has ended, or could not be started; another will be


@dataclass
class JobStatus:
    """A job at a moment.

    Attributes:
        name: The job.
        state: Where it is in its life.
        generation: Number of the attempt.
        restarts: How often it was tried again.
        parallelism: Its default parallelism.
        counters: By node: what its tasks have counted in this attempt.
        sources, sinks: Names of the nodes of that kind.
        watermark: Event time of the slowest task, or None.
        checkpoint: The last complete one.
        tasks: By task: what it has counted in this attempt.
        placement: Worker of each task.
        task_states: Where each task is.
        workers: Process id of each worker that has a process.
        worker_states: Where each worker is, also one that has none just now.
        refused: Connections by strangers that were turned away.
        reason: Why it ended, if it failed.
        trace: The traceback behind that.
    """

    name: str
    state: JobState = JobState.STARTING
    generation: int = 0
    restarts: int = 0
    parallelism: int = 1
    counters: dict[str, dict[str, int]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()
    watermark: int | None = None
    checkpoint: CompletedCheckpoint | None = None
    tasks: dict[str, dict[str, int]] = field(default_factory=dict)
    placement: dict[str, int] = field(default_factory=dict)
    task_states: dict[str, TaskState] = field(default_factory=dict)
    workers: dict[int, int] = field(default_factory=dict)
    worker_states: dict[int, WorkerState] = field(default_factory=dict)
    refused: int = 0
    reason: str = ""
    trace: str = ""

    @property
    def records_in(self) -> int:
        """Records read by all sources."""
        return self._sum(self.sources, "records_out")

    @property
    def records_out(self) -> int:
        """Records handed to all sinks."""
        return self._sum(self.sinks, "records_in")

    def total(self, name: str) -> int:
        """One counter, over all nodes."""
        return self._sum(self.counters, name)

    def _sum(self, nodes: Iterable[str], name: str) -> int:
        return sum(self.counters.get(node, {}).get(name, 0) for node in nodes)

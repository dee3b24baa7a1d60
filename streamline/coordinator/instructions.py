"""Instructions: what the machine of a job wants done, as data.

Pure: an engine carries them out, a test reads them. What comes of one reaches the machine as a
fact again; none of them answers by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from streamline.coordinator.lifecycle import JobState
from streamline.ids import TaskId
from streamline.runtime.control import Command, TaskRestore
from streamline.state.manifest import Manifest


@dataclass(frozen=True)
class EnsureWorkers:
    """Start the workers that are missing, and say of each when it is ready."""


@dataclass(frozen=True)
class LoadCheckpoint:
    """Find the newest usable checkpoint and the partitions there are; answer ``on_loaded``."""

    generation: int


@dataclass(frozen=True)
class Deploy:
    """Have a worker drop what it runs and start these tasks.

    Attributes:
        run: Names the attempt.
        whole_run: Names the run that the attempt belongs to.
        took_over: An earlier attempt of that run has had all its tasks running.
    """

    generation: int
    worker: int
    tasks: dict[TaskId, TaskRestore]
    placement: dict[TaskId, int]
    run: str
    whole_run: str = ""
    took_over: bool = False


@dataclass(frozen=True)
class StopTasks:
    """Have all workers drop the tasks of older generations."""

    generation: int


@dataclass(frozen=True)
class Tell:
    """Give a command to a task."""

    worker: int
    task: TaskId
    command: Command


@dataclass(frozen=True)
class WriteManifest:
    """Make a checkpoint complete; answer ``on_manifest``."""

    manifest: Manifest


@dataclass(frozen=True)
class Failure:
    """Why an attempt is over.

    Attributes:
        generation: The attempt.
        task: The task that failed, if it was one.
        reason: One sentence for the user.
        trace: The traceback behind that.
    """

    generation: int
    task: TaskId | None
    reason: str
    trace: str = ""


@dataclass(frozen=True)
class Say:
    """Tell the user.

    Attributes:
        failure: What has failed, if that is what is told.
    """

    level: Literal["info", "warning", "error"]
    text: str
    failure: Failure | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Ended:
    """The job is over.

    Attributes:
        failure: What has failed, if that is why.
    """

    state: JobState
    reason: str = ""
    trace: str = ""
    failure: Failure | None = field(default=None, compare=False)


Instruction: TypeAlias = (
    EnsureWorkers | LoadCheckpoint | Deploy | StopTasks | Tell | WriteManifest | Say | Ended
)

"""JobState: the states of a job's life, and which may follow which; TaskState: where a task is.

Pure: a table and nothing else. Who moves a job along it (the machine of one attempt after the
other, the service that keeps many jobs) stands elsewhere.
"""

from __future__ import annotations

from enum import StrEnum


class JobState(StrEnum):
    """Where a job is in its life.

    starting -> running <-> recovering; running -> stopping -> stopped; running -> finished;
    any of the living -> failed or canceled. A job that is rescaled has one machine after the
    other; to its users it is rescaling from one to the next.
    """

    STARTING = "starting"
    RUNNING = "running"
    RECOVERING = "recovering"
    RESCALING = "rescaling"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELED = "canceled"


LEGAL: dict[JobState, set[JobState]] = {
    JobState.STARTING: {
        JobState.RUNNING,
        JobState.RECOVERING,
        JobState.FAILED,
        JobState.CANCELED,
        JobState.STOPPED,
    },
    JobState.RUNNING: {
        JobState.RECOVERING,
        JobState.STOPPING,
        JobState.FINISHED,
        JobState.FAILED,
        JobState.CANCELED,
    },
    JobState.RECOVERING: {
        JobState.RUNNING,
        JobState.FAILED,
        JobState.CANCELED,
        JobState.STOPPED,
    },
    JobState.STOPPING: {
        JobState.STOPPED,
        JobState.RECOVERING,
        JobState.FAILED,
        JobState.CANCELED,
        JobState.FINISHED,
    },
}

ENDED = frozenset({JobState.STOPPED, JobState.FINISHED, JobState.FAILED, JobState.CANCELED})


class TaskState(StrEnum):
    """Where a task is: waiting -> starting -> running -> ended, and back when an attempt fails."""

    WAITING = "waiting"  # its attempt has failed; the next one will start it
    STARTING = "starting"  # its worker has been told to restore its state
    RUNNING = "running"
    ENDED = "ended"

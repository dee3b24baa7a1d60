"""Jobs: what a cluster knows of its jobs and of what was asked of them. Pure.

It changes by entries alone: whoever decides writes an entry to the journal, then applies it. The
same entries give the same jobs, in whatever process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from streamline.coordinator.lifecycle import ENDED, JobState
from streamline.errors import StreamlineError

Verb: TypeAlias = Literal["stop", "cancel", "savepoint", "rescale"]
_KEPT_OPERATIONS, _KEPT_OF_ENDED = 50, 10
_MOST_OF_REASON, _MOST_OF_TRACE = 4_000, 16_000


class UnknownJobError(StreamlineError):
    """There is no job of that id or name."""


class WrongStateError(StreamlineError):
    """The job is in a state in which that cannot be done."""


class OtherBodyError(StreamlineError):
    """An idempotency key was given before, with something else."""


@dataclass(frozen=True)
class JobOptions:
    """How a job is to be run.

    Attributes:
        parallelism: Its default parallelism.
        nodes: Parallelism of single nodes that were rescaled.
        checkpoint_every_ms: From one checkpoint to the next.
        origin: Savepoint or checkpoints to begin from; empty for none.
        allow_dropped_state: State that the job has no place for may be given up.
        memory_limit_bytes: A worker process that holds more is replaced; 0 for no limit.
    """

    parallelism: int = 1
    nodes: dict[str, int] = field(default_factory=dict)
    checkpoint_every_ms: int = 1_000
    origin: str = ""
    allow_dropped_state: bool = False
    memory_limit_bytes: int = 0


@dataclass
class Operation:
    """Something asked of a job.

    Attributes:
        id: Its name, unique in the cluster.
        verb: What.
        arguments: With what.
        state: ``pending``, ``done`` or ``failed``.
        result: What came of it, if done.
        error: Why it failed, if so.
    """

    id: str
    job: str
    verb: Verb
    arguments: dict[str, Any]
    state: Literal["pending", "done", "failed"] = "pending"
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@dataclass
class JobRecord:
    """One job, from its submission on.

    Attributes:
        id: Its name, unique in the cluster.
        name: As the job calls itself.
        file: Name of its file, for people.
        expose: What the file exposes it as.
        params: Values of its parameters.
        options: How it is run now.
        submitted_ms: When (ms since the epoch).
        key: Idempotency key of its submission, or empty.
        state: How it ended; None while it has not.
        reason, trace: Why, if it failed.
        ended_ms: When.
        last_status: What it had said last when it ended, as far as that is remembered.
        digest: Of what was submitted, if a key was given; empty if it is not known.
    """

    id: str
    name: str
    file: str
    expose: str
    params: dict[str, str]
    options: JobOptions
    submitted_ms: int
    key: str = ""
    state: JobState | None = None
    reason: str = ""
    trace: str = ""
    ended_ms: int = 0
    last_status: dict[str, Any] = field(default_factory=dict)
    digest: str = ""


class Jobs:
    """All jobs and operations, by id.

    Attributes:
        removed: Jobs that are known no more, and whose folders are still to go.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, JobRecord] = {}
        self.operations: dict[str, Operation] = {}
        self.removed: dict[str, None] = {}
        self._asked: dict[str, dict[str, Operation]] = {}

    def find(self, name: str) -> JobRecord:
        """The job of an id, or the one living, or else the newest, of a name.

        Raises:
            UnknownJobError: If there is none, or several live.
        """
        if name in self.jobs:
            return self.jobs[name]
        found = [job for job in self.jobs.values() if job.name == name]
        living = [job for job in found if job.state is None]
        if len(living) > 1:
            ids = ", ".join(job.id for job in living)
            raise UnknownJobError(f"several jobs are named {name!r}: {ids}; give an id")
        if not found:
            raise UnknownJobError(f"there is no job {name!r}; streamline list shows all")
        return living[0] if living else found[-1]

    def submitted_with(self, key: str, digest: str = "") -> JobRecord | None:
        """The job that was submitted with an idempotency key.

        Raises:
            OtherBodyError: If something else was submitted with it.
        """
        if not key:
            return None
        found = next((job for job in self.jobs.values() if job.key == key), None)
        if found is not None and digest and found.digest and digest != found.digest:
            raise OtherBodyError(
                f"the key {key!r} was given before, with what became job {found.id!r}, and that "
                "was something else; give another key"
            )
        return found

    def pending(self, job: str) -> list[Operation]:
        """What is still to be done with a job, in order."""
        return [one for one in self._asked.get(job, {}).values() if one.state == "pending"]

    def check(self, job: JobRecord, verb: Verb) -> None:
        """Refuse what cannot be done with a job.

        Raises:
            WrongStateError: Says why.
        """
        if job.state is not None:
            raise WrongStateError(f"job {job.id!r} is {job.state}: there is nothing to {verb}")
        waiting = self.pending(job.id)
        ending = [one for one in waiting if one.verb in ("stop", "cancel")]
        if ending and verb != "cancel":
            raise WrongStateError(f"job {job.id!r} is being ended already ({ending[0].id})")
        if verb == "rescale" and any(one.verb == "rescale" for one in waiting):
            raise WrongStateError(f"job {job.id!r} is being rescaled already")

    def removable(self, name: str) -> JobRecord:
        """The job of an id, or the only one of a name, if it has ended.

        Raises:
            UnknownJobError: If there is none, or several.
            WrongStateError: If it lives.
        """
        job = self.find(name)
        if job.id != name:
            ids = [one.id for one in self.jobs.values() if one.name == name]
            if len(ids) > 1:
                listed = ", ".join(ids)
                raise UnknownJobError(f"several jobs are named {name!r}: {listed}; give an id")
        if job.state is None or self.pending(job.id):
            raise WrongStateError(
                f"job {job.id!r} has not ended: stop or cancel it before it is removed"
            )
        return job

    # ------------------------------------------------------------------ entries

    def apply(self, entry: dict[str, Any]) -> None:
        """Take an entry into account.

        Raises:
            KeyError: For an entry of a kind that is not known, or of a job that is not there.
        """
        kind = entry["kind"]
        if kind == "submitted":
            fields = dict(entry["job"])
            fields["options"] = JobOptions(**fields["options"])
            if fields["state"] is not None:
                fields["state"] = JobState(fields["state"])
            job = self.jobs[fields["id"]] = JobRecord(**fields)
            if job.state is not None:
                _strip(job)
        elif kind == "asked":
            operation = Operation(**entry["operation"])
            self.operations[operation.id] = operation
            self._asked.setdefault(operation.job, {})[operation.id] = operation
            self._forget(operation.job)
        elif kind == "answered":
            operation = self.operations[entry["id"]]
            operation.state = "failed" if entry["error"] else "done"
            operation.result, operation.error = entry["result"], entry["error"]
        elif kind == "options":
            self.jobs[entry["id"]].options = JobOptions(**entry["options"])
        elif kind == "ended":
            job = self.jobs[entry["id"]]
            job.state = JobState(entry["state"])
            job.reason, job.trace, job.ended_ms = entry["reason"], entry["trace"], entry["at_ms"]
            job.last_status = entry["status"]
            _strip(job)
            self._forget(job.id)
        elif kind == "removed":
            self.jobs.pop(entry["id"], None)  # not there in a journal that was made smaller since
            for gone in self._asked.pop(entry["id"], {}):
                del self.operations[gone]
            self.removed[entry["id"]] = None
        elif kind == "cleared":
            del self.removed[entry["id"]]
        else:
            raise KeyError(kind)

    def entries(self) -> Iterator[dict[str, Any]]:
        """The fewest entries that give the same jobs and operations."""
        for job in self.jobs.values():
            yield submitted(job)
        for operation in self.operations.values():
            yield {"kind": "asked", "operation": asdict(operation)}
        for job_id in self.removed:
            yield {"kind": "removed", "id": job_id}

    def _forget(self, job: str) -> None:
        """Keep the newest operations of a job; those that are pending stay."""
        asked = self._asked.get(job, {})
        kept = _KEPT_OPERATIONS if self.jobs[job].state is None else _KEPT_OF_ENDED
        for one in list(asked.values())[:-kept]:
            if one.state != "pending":
                del asked[one.id], self.operations[one.id]


def _strip(job: JobRecord) -> None:
    """Forget of a job that has ended what only one that lives needs, or has in its folder."""
    job.params = {}
    job.reason, job.trace = job.reason[:_MOST_OF_REASON], job.trace[-_MOST_OF_TRACE:]
    status = {**job.last_status, "tasks": [], "workers": []}
    status["last_error"] = status.get("last_error", "")[:_MOST_OF_REASON]
    job.last_status = status


def submitted(job: JobRecord) -> dict[str, Any]:
    """The entry of a job, new or as it is now."""
    fields = asdict(job)
    fields["state"] = None if job.state is None else str(job.state)
    return {"kind": "submitted", "job": fields}


def ended(
    job: str,
    state: JobState,
    *,
    at_ms: int,
    status: dict[str, Any],
    reason: str = "",
    trace: str = "",
) -> dict[str, Any]:
    """The entry of a job's end."""
    assert state in ENDED
    return {
        "kind": "ended",
        "id": job,
        "state": str(state),
        "at_ms": at_ms,
        "reason": reason,
        "trace": trace,
        "status": status,
    }

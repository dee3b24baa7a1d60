"""Bookkeeping of checkpoints: when one is due, who has answered, whether it is complete. Pure.

At most one checkpoint is under way. It ends by being completed, when the manifest is written,
or aborted: declined by a task, overdue, or its manifest could not be written.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from streamline.errors import InvariantError
from streamline.ids import TaskId
from streamline.state.manifest import TaskSnapshot

_AGAIN_MS = 1_000
"""One that was asked for and has failed is not tried again at once: what failed may pass."""


@dataclass
class PendingCheckpoint:
    """A checkpoint under way.

    Attributes:
        epoch: Its number.
        kind: ``checkpoint`` or ``savepoint``.
        drain: Whether its barrier ends the stream.
        started_ms: When it was triggered.
        waiting: Tasks that have not answered yet.
        asked: Somebody waits for it; if it fails, another is begun soon.
        snapshots: The answers.
        writing: All have answered and the manifest is being written.
    """

    epoch: int
    kind: str
    drain: bool
    started_ms: int
    waiting: set[TaskId]
    asked: bool = False
    snapshots: dict[TaskId, TaskSnapshot] = field(default_factory=dict)
    writing: bool = False


@dataclass(frozen=True)
class CompletedCheckpoint:
    """The last checkpoint that was completed, for the user.

    Attributes:
        epoch: Its number.
        duration_ms: From trigger to manifest.
        size_bytes: All its files together.
        ended_ms: When its manifest was written.
    """

    epoch: int
    duration_ms: int
    size_bytes: int
    ended_ms: int


class Checkpoints:
    """All checkpoints of one job, one attempt after the other.

    Args:
        every_ms: From one trigger to the next; None for none but those asked for.
        timeout_ms: One not complete by then is aborted.
        min_pause_ms: At least so long between an end and the next trigger.
        tolerable_failures: So many aborts in a row are no reason to fail the job.
    """

    def __init__(
        self, *, every_ms: int | None, timeout_ms: int, min_pause_ms: int, tolerable_failures: int
    ) -> None:
        self._every_ms = every_ms
        self._timeout_ms = timeout_ms
        self._min_pause_ms = min_pause_ms
        self._tolerable_failures = tolerable_failures
        self._last_epoch = 0
        self._last_trigger_ms = 0
        self._last_end_ms = 0
        self._failures = 0
        self._asked = False
        self.pending: PendingCheckpoint | None = None
        self.completed: CompletedCheckpoint | None = None

    def reset(self, now_ms: int, last_epoch: int) -> None:
        """A new attempt begins: what was under way is forgotten, epochs go on growing."""
        self.forget()
        self._last_epoch = max(self._last_epoch, last_epoch)
        self._last_trigger_ms = self._last_end_ms = now_ms

    def forget(self) -> None:
        """The attempt is over, and with it the one under way."""
        if self.pending is not None and self.pending.asked:
            self._asked = True
        self.pending = None

    def next_due_ms(self) -> int | None:
        """When the next one is to be triggered, or the one under way is overdue."""
        if self.pending is not None:
            return self.pending.started_ms + self._timeout_ms
        if self._asked:
            return self._last_end_ms + (_AGAIN_MS if self._failures else 0)
        if self._every_ms is None:
            return None
        return max(self._last_trigger_ms + self._every_ms, self._last_end_ms + self._min_pause_ms)

    def ask(self) -> None:
        """Have the next one triggered as soon as none is under way."""
        self._asked = True

    def is_due(self, now_ms: int) -> bool:
        """Whether a checkpoint, periodic or asked for, is to be triggered."""
        due = self.next_due_ms()
        return self.pending is None and due is not None and now_ms >= due

    def is_overdue(self, now_ms: int) -> bool:
        """Whether the one under way has taken too long."""
        pending = self.pending
        return (
            pending is not None
            and not pending.writing
            and now_ms - pending.started_ms >= self._timeout_ms
        )

    def begin(
        self, now_ms: int, tasks: Iterable[TaskId], *, kind: str = "checkpoint", drain: bool = False
    ) -> PendingCheckpoint:
        """Trigger one.

        Raises:
            InvariantError: If one is under way.
        """
        if self.pending is not None:
            raise InvariantError(f"checkpoint {self.pending.epoch} is still under way")
        asked, self._asked = self._asked, False
        self._last_epoch += 1
        self._last_trigger_ms = now_ms
        self.pending = PendingCheckpoint(self._last_epoch, kind, drain, now_ms, set(tasks), asked)
        return self.pending

    def on_snapshot(self, task: TaskId, snapshot: TaskSnapshot) -> PendingCheckpoint | None:
        """A task has answered.

        Returns:
            The checkpoint, if with it all have answered; its manifest is to be written now.
        """
        pending = self.pending
        if pending is None or pending.epoch != snapshot.epoch or task not in pending.waiting:
            return None
        pending.waiting.remove(task)
        pending.snapshots[task] = snapshot
        if pending.waiting:
            return None
        pending.writing = True
        return pending

    def complete(self, epoch: int, now_ms: int, size_bytes: int) -> PendingCheckpoint | None:
        """The manifest is durable; None if that epoch was given up meanwhile."""
        pending = self.pending
        if pending is None or pending.epoch != epoch:
            return None
        self.completed = CompletedCheckpoint(epoch, now_ms - pending.started_ms, size_bytes, now_ms)
        self.pending = None
        self._failures = 0
        self._last_end_ms = now_ms
        return pending

    def abort(self, epoch: int, now_ms: int) -> bool:
        """Give one up.

        Returns:
            Whether the job may go on; False once too many in a row have failed.
        """
        if self.pending is not None and self.pending.epoch == epoch:
            self.forget()
            self._last_end_ms = now_ms
            self._failures += 1
        return self._failures <= self._tolerable_failures

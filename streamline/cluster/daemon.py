"""Daemon: the jobs of a cluster, kept on disk, run in processes of their own, given orders.

It owns the data folder: what is asked is checked, written to the journal and only then done, so
that the next daemon goes on where this one died. It speaks no HTTP (``api`` does), and never runs
a job's code in its own process.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from streamline.clock import Clock
from streamline.cluster.control import OrderFailedError
from streamline.cluster.files import JobFolder, MasterEnd, lock
from streamline.cluster.intake import Intake
from streamline.cluster.jobs import (
    JobRecord,
    Jobs,
    Operation,
    Verb,
    ended,
    submitted,
)
from streamline.cluster.journal import Journal
from streamline.cluster.keeper import Keeper, outcome
from streamline.cluster.log import LogSettings
from streamline.cluster.machine import Machine, ThisMachine
from streamline.cluster.removal import Remover, clear_unfinished, clear_worthless
from streamline.cluster.submission import Submission
from streamline.coordinator.lifecycle import ENDED, JobState
from streamline.errors import CheckpointError, StateError
from streamline.state.store import open_store

_COMPACT_BYTES = 1 << 20
_SUSPEND_S = 20.0
_PAUSE_S = 1.0
_ENDED_WITHIN_S = 10.0


class Daemon:
    """All that the API asks for.

    Args:
        folder: The data folder; made if it is not there.
        clock: The time.
        log: How logs of jobs are kept.
        machine: Where jobs run; this machine if not given.
        say: Told what whoever runs the cluster should know.

    Raises:
        LockedError: If another daemon uses the folder.
        StateError: If it cannot be used.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        *,
        log: LogSettings | None = None,
        machine: Machine | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder = folder
        self._say = say
        self._log = log or LogSettings()
        self._clock = clock
        try:
            (folder / "jobs").mkdir(parents=True, exist_ok=True)
            (folder / "savepoints").mkdir(exist_ok=True)
        except OSError as error:
            raise StateError(f"the data folder {folder} cannot be used: {error}") from error
        self._lock = lock(folder / "lock", f"the data folder {folder}")
        try:
            self._journal = Journal(folder / "journal")
            self.jobs = Jobs()
            for entry in self._journal.entries:
                self.jobs.apply(entry)
        except BaseException:
            self._lock.close()
            raise
        self.token = self._read_token("token")
        self._master_token = self._read_token("master-token")
        self._machine = machine or ThisMachine(self._master_token)
        self.keepers: dict[str, Keeper] = {}
        self._operations: dict[str, asyncio.Task[None]] = {}
        self._intake = Intake(
            self.jobs, self._machine, clock, folder_of=self.job_folder, take=self._take
        )
        self._remover = Remover(
            self.jobs, self._machine, self.job_folder, note=self._note, say=self._say
        )
        self._compact_at = _COMPACT_BYTES

    def start(self) -> None:
        """Take over all jobs that have not ended, and what was asked of them."""
        self._compact()
        for path in (self.folder / "jobs").iterdir():
            if path.name in self.jobs.jobs or path.name in self.jobs.removed:
                continue
            folder = JobFolder(path)
            if folder.settings.exists() or folder.state.exists():  # of a journal that was lost?
                self._say(f"{path} is of no job that the journal knows; it is left as it is")
            else:  # of a submission that was being looked at
                self._remover.begin(clear_unfinished, folder)
        self._remover.go_on()
        for job in self.jobs.jobs.values():
            if job.state is None:
                self._keep(job)
            for operation in self.jobs.pending(job.id):
                self._begin(operation)

    async def close(self, *, suspend: bool) -> None:
        """End.

        Args:
            suspend: Drain all jobs and end their processes; they go on when the daemon is started
                again. Otherwise the processes go on by themselves.
        """
        for task in self._operations.values():
            task.cancel()
        await asyncio.gather(*self._operations.values(), return_exceptions=True)
        await self._intake.close()
        keepers = self.keepers.values()
        if suspend:
            await asyncio.gather(*(keeper.suspend(_SUSPEND_S) for keeper in keepers))
        else:
            await asyncio.gather(*(keeper.let_go() for keeper in keepers))
        await self._remover.close()
        self._journal.close()
        self._lock.close()

    def job_folder(self, job: str) -> JobFolder:
        """Where a job's files are."""
        return JobFolder(self.folder / "jobs" / job)

    # ------------------------------------------------------------------ what can be asked

    async def submit(self, submission: Submission, key: str = "") -> JobRecord:
        """Take a job, and begin to run it.

        Args:
            submission: Its code, and how it is to be run.
            key: A second submission with the same key is answered with the first one's job.

        Raises:
            UsageError: For what cannot be.
            BrokenJobError: If it cannot be built.
            BrokenRequirementsError: If what it needs cannot be installed.
            OtherBodyError: If something else was submitted with the same key.
            EndingError: If this is the daemon's end.
        """
        return await self._intake.submit(submission, key)

    def take_no_more(self) -> None:
        """Give up the submissions that are being looked at, and refuse others: this is the end."""
        self._intake.end()

    async def remove(self, name: str) -> str:
        """Remove a job that has ended, with its log, its checkpoints and its code; its id.

        Savepoints that were asked for, and what it has written, stay: the job is not removed if
        such a thing stands in its own folder.

        Raises:
            UnknownJobError: If there is no such job.
            WrongStateError: If it has not ended, or something of its folder is to be kept.
        """
        return await self._remover.remove(name)

    def ask(self, name: str, verb: Verb, arguments: dict[str, Any]) -> Operation:
        """Ask something of a job; it is done in the background.

        Raises:
            UnknownJobError: If there is no such job.
            WrongStateError: If that cannot be done with it now.
        """
        job = self.jobs.find(name)
        self.jobs.check(job, verb)
        operation = Operation(f"op-{secrets.token_hex(6)}", job.id, verb, arguments)
        self._note({"kind": "asked", "operation": asdict(operation)})
        operation = self.jobs.operations[operation.id]
        self._begin(operation)
        return operation

    def default_savepoint(self, name: str) -> str:
        """A new place for a savepoint of a job, in the data folder."""
        job = self.jobs.find(name)
        return str((self.folder / "savepoints" / f"{job.id}-{secrets.token_hex(3)}").absolute())

    async def describe(self, job: JobRecord, *, fresh: bool = True) -> dict[str, Any]:
        """A job, as ``status --json`` shows it."""
        keeper = self.keepers.get(job.id)
        if keeper is None:
            status, state, restarts = job.last_status, str(job.state), 0
        else:
            status = await keeper.fresh_status() if fresh else keeper.status
            state, restarts = keeper.state, keeper.restarts
            if job.state is not None:
                state = str(job.state)
            elif state in ENDED:
                state = "stopping"  # it is not noted yet: what is asked of it now comes too soon
        if state == "running" and any(
            one.verb in ("stop", "cancel") for one in self.jobs.pending(job.id)
        ):
            state = "stopping"
        return {
            "id": job.id,
            "name": job.name,
            "state": state,
            "parallelism": status.get("parallelism", job.options.parallelism),
            "generation": status.get("generation", 0),
            "restarts": status.get("restarts", 0) + restarts,
            "submitted_ms": job.submitted_ms,
            "ended_ms": job.ended_ms or None,
            "uptime_s": status.get("uptime_s", 0.0),
            "records_in": status.get("records_in", 0),
            "records_out": status.get("records_out", 0),
            "last_checkpoint": status.get("last_checkpoint"),
            "tasks": status.get("tasks", []) if job.state is None else [],
            "workers": status.get("workers", []) if job.state is None else [],
            "counters": status.get("counters", {}),
            "refused": status.get("refused", 0),
            "last_error": job.reason or status.get("last_error", ""),
        }

    def checkpoints(self, job: JobRecord) -> list[dict[str, Any]]:
        """The complete checkpoints there are of a job, the newest last."""
        found: list[dict[str, Any]] = []
        store = open_store(str(self.job_folder(job.id).state / "checkpoints"))
        for epoch in store.epochs():
            try:
                manifest = store.read_manifest(epoch)
            except (CheckpointError, OSError):
                continue  # it was removed just now, or is damaged
            found.append(
                {
                    "epoch": epoch,
                    "created_ms": manifest.created_ms,
                    "duration_s": manifest.duration_ms / 1000,
                    "size_bytes": manifest.size_bytes,
                }
            )
        return found

    # ------------------------------------------------------------------ inside

    def _note(self, entry: dict[str, Any]) -> None:
        """Write an entry down, then take it into account."""
        self._journal.append(entry)
        self.jobs.apply(entry)
        if self._journal.size > self._compact_at:
            self._compact()

    def _compact(self) -> None:
        """Make the journal smaller, or try again once it has grown by as much as it is now."""
        with suppress(StateError):  # what was noted stands in it in any case
            self._journal.replace(self.jobs.entries())
        self._compact_at = max(_COMPACT_BYTES, 2 * self._journal.size)

    def _take(self, job: JobRecord) -> None:
        """Have it in the journal that there is a job, and run it."""
        self._note(submitted(job))
        self._keep(self.jobs.jobs[job.id])

    def _keep(self, job: JobRecord) -> None:
        self.keepers[job.id] = Keeper(
            job,
            self.job_folder(job.id),
            self._machine.process(self.job_folder(job.id)),
            log=self._log,
            token=self._master_token,
            clock=self._clock,
            on_end=lambda end: self._ended(job.id, end),
            say=self._say,
        )

    def _ended(self, job: str, end: MasterEnd) -> None:
        if self.jobs.jobs[job].state is None:
            now_ms = self._clock.now_ms()
            state = JobState(end.state)
            status = dict(end.status)
            if job in self.keepers:
                status["restarts"] = status.get("restarts", 0) + self.keepers[job].restarts
            end_of_job = ended(
                job, state, at_ms=now_ms, status=status, reason=end.reason, trace=end.trace
            )
            self._note(end_of_job)
        self._remover.begin(clear_worthless, self.job_folder(job))
        self.keepers.pop(job, None)

    def _begin(self, operation: Operation) -> None:
        task = asyncio.ensure_future(self._carry_out(operation))
        self._operations[operation.id] = task
        task.add_done_callback(lambda _: self._operations.pop(operation.id, None))

    async def _carry_out(self, operation: Operation) -> None:
        while True:
            try:
                await self._try(operation)
                return
            except (OSError, StateError) as error:  # such as a full disk; it may be done again
                self._say(f"{operation.verb} {operation.job}: {error}; trying again")
                await asyncio.sleep(_PAUSE_S)

    async def _try(self, operation: Operation) -> None:
        """Have something done, and note what came of it."""
        result: dict[str, Any] = {}
        error = ""
        keeper = self.keepers.get(operation.job)
        try:
            if keeper is not None:
                result = await keeper.carry_out(operation)
                if operation.verb in ("stop", "cancel"):  # whoever asks next finds it ended
                    await keeper.until_ended(_ENDED_WITHIN_S)
            else:  # it ended, and the daemon died before it could say what came of this
                result = outcome(self.job_folder(operation.job), operation)
        except OrderFailedError as failed:
            error = str(failed)
        except OSError:
            raise
        except Exception as failed:  # noqa: BLE001 - whoever asked is told
            error = f"the daemon failed by {failed!r}"
        if operation.verb == "rescale" and not error:
            job = self.jobs.jobs[operation.job]
            options = replace(job.options, parallelism=result["parallelism"], nodes=result["nodes"])
            self._note({"kind": "options", "id": job.id, "options": asdict(options)})
        self._note({"kind": "answered", "id": operation.id, "result": result, "error": error})

    def _read_token(self, name: str) -> str:
        path = self.folder / name
        try:
            if not path.exists():
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(descriptor, "w") as file:
                    file.write(secrets.token_urlsafe(32) + "\n")
            return path.read_text().strip()
        except OSError as error:
            raise StateError(f"{path} cannot be used: {error}") from error

"""Removal: what of an ended job's folder is ours to remove, and what its user may want to keep.

That a job was removed is in the journal before anything of it is touched, so what a crash leaves
undone is done at the next start. Removing takes time, and is done in threads.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from streamline.cluster.files import ArchiveFiles, JobFolder, SavepointClaim
from streamline.cluster.jobs import JobRecord, Jobs, WrongStateError
from streamline.cluster.machine import Machine
from streamline.errors import StateError
from streamline.state.store import open_store

_LOOK_EVERY_S = 0.05
_LOOKS = 100


class Remover:
    """Removes jobs, and what is worthless of them, in the background.

    Args:
        jobs: The jobs there are.
        machine: Where they run.
        folder_of: The folder of a job.
        note: Writes an entry to the journal, and takes it into account.
        say: Told what cannot be removed.
    """

    def __init__(
        self,
        jobs: Jobs,
        machine: Machine,
        folder_of: Callable[[str], JobFolder],
        *,
        note: Callable[[dict[str, Any]], None],
        say: Callable[[str], None],
    ) -> None:
        self._jobs = jobs
        self._machine = machine
        self._folder_of = folder_of
        self._note = note
        self._say = say
        self._at_work: dict[str, asyncio.Task[None]] = {}

    def go_on(self) -> None:
        """Do what a daemon before has left undone."""
        for job in self._jobs.removed:
            self._follow(job, lambda job=job: self._clear(job))  # type: ignore[misc]

    def begin(self, clear: Callable[[JobFolder], None], folder: JobFolder) -> None:
        """Have something of a job's folder removed."""
        self._follow(folder.root.name, lambda: asyncio.to_thread(clear, folder))

    async def remove(self, name: str) -> str:
        """Remove a job; see ``Daemon.remove``."""
        job = self._jobs.removable(name)
        folder = self._folder_of(job.id)
        kept = await asyncio.to_thread(not_ours, folder)
        if kept is not None:
            raise WrongStateError(
                f"job {job.id!r} cannot be removed: {kept} is neither its code nor a part of its "
                "state; move it elsewhere first"
            )
        self._check_unused(job)
        self._note({"kind": "removed", "id": self._jobs.removable(job.id).id})
        await asyncio.shield(self._follow(job.id, lambda: self._clear(job.id)))
        return job.id

    async def close(self) -> None:
        """Wait for what is being removed."""
        await asyncio.gather(*self._at_work.values(), return_exceptions=True)

    def _check_unused(self, job: JobRecord) -> None:
        """Refuse to remove what another job is yet to begin from.

        Raises:
            WrongStateError: Says which.
        """
        root = self._folder_of(job.id).root.resolve()
        for other in self._jobs.jobs.values():
            origin = other.options.origin
            if other.state is not None or not origin or "://" in origin:
                continue
            store = open_store(str(self._folder_of(other.id).state / "checkpoints"))
            if Path(origin).resolve().is_relative_to(root) and not store.epochs():
                raise WrongStateError(
                    f"job {job.id!r} cannot be removed yet: job {other.id!r} is to begin from it"
                )

    async def _clear(self, job: str) -> None:
        """Remove the folder of a job that the journal knows no more."""
        folder = self._folder_of(job)
        try:
            if folder.root.exists():
                process = self._machine.process(folder)
                for _ in range(_LOOKS):  # it may be about to end
                    if not process.is_run():
                        break
                    await asyncio.sleep(_LOOK_EVERY_S)
                else:
                    process.kill()
                await asyncio.to_thread(shutil.rmtree, folder.root)
            self._note({"kind": "cleared", "id": job})
        except (OSError, StateError) as error:
            self._say(f"{folder.root} cannot be removed: {error}; it is tried at the next start")

    def _follow(self, job: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Do something with a job's folder, behind what is being done with it already."""
        before = self._at_work.get(job)

        async def do() -> None:
            if before is not None:
                await asyncio.wait([before])
            await work()

        task = self._at_work[job] = asyncio.ensure_future(do())
        task.add_done_callback(lambda _: self._done(job, task))
        return task

    def _done(self, job: str, task: asyncio.Task[None]) -> None:
        if self._at_work.get(job) is task:
            del self._at_work[job]


def not_ours(folder: JobFolder) -> Path | None:
    """Something in a job's folder that is neither its code nor ours: a savepoint, or its output.

    Raises:
        OSError: If that cannot be said now.
    """
    for claim in folder.root.glob("claim-*"):
        path = msgspec.json.decode(claim.read_bytes(), type=SavepointClaim).path
        place = Path(path).resolve()
        if "://" not in path and place.is_relative_to(folder.root.resolve()) and place.exists():
            return place
    try:
        brought = msgspec.json.decode(folder.files.read_bytes(), type=ArchiveFiles).names
    except (FileNotFoundError, msgspec.MsgspecError):
        return None  # of a job that was begun by an older version
    known = {os.path.normpath(name) for name in brought}
    for parent, folders, files in os.walk(folder.source):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            found = Path(parent, name)
            if str(found.relative_to(folder.source)) not in known:
                return found
    return None


def clear_unfinished(folder: JobFolder) -> None:
    """Remove what a submission has left that never became a job."""
    shutil.rmtree(folder.root, ignore_errors=True)


def clear_worthless(folder: JobFolder) -> None:
    """Remove what nobody needs of a job that has ended; log, checkpoints and code stay."""
    for worthless in (folder.state / "live", folder.environment):
        shutil.rmtree(worthless, ignore_errors=True)

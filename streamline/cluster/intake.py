"""Intake: what is submitted becomes a job, in a folder of its own, or leaves nothing behind.

Unpacking and looking at a job takes time: it is done in threads and processes, beside what else
the daemon has to answer. It writes no journal; a job is one only when the daemon has noted it.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from streamline.clock import Clock
from streamline.cluster.files import ArchiveFiles, JobFolder, write_json
from streamline.cluster.jobs import JobOptions, JobRecord, Jobs
from streamline.cluster.machine import Machine
from streamline.cluster.removal import clear_unfinished
from streamline.cluster.submission import Submission, digest_of, unpack
from streamline.errors import StreamlineError, UsageError

T = TypeVar("T")


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Call something in a thread; also when this is cancelled, that has ended when it returns."""
    work = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        raise


class EndingError(StreamlineError):
    """The daemon is about to end."""

    def __init__(self) -> None:
        super().__init__("the cluster is ending, and takes no job; submit it again when it is up")


class Intake:
    """Takes submissions.

    Args:
        jobs: The jobs there are.
        machine: Where a job is built.
        clock: The time.
        folder_of: The folder of a job.
        take: Called with a job when its folder is ready; if it raises, there is no job.
    """

    def __init__(
        self,
        jobs: Jobs,
        machine: Machine,
        clock: Clock,
        *,
        folder_of: Callable[[str], JobFolder],
        take: Callable[[JobRecord], None],
    ) -> None:
        self._jobs = jobs
        self._machine = machine
        self._clock = clock
        self._folder_of = folder_of
        self._take = take
        self._under_way: dict[str, asyncio.Task[JobRecord]] = {}
        self._ending = False

    async def submit(self, submission: Submission, key: str) -> JobRecord:
        """Make a job of a submission, whatever becomes of whoever waits for it.

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
        digest = await asyncio.to_thread(digest_of, submission) if key else ""
        while key in self._under_way:
            await asyncio.wait([self._under_way[key]])
        known = self._jobs.submitted_with(key, digest)
        if known is not None:
            return known
        if self._ending:
            raise EndingError
        name = key or secrets.token_hex(8)
        making = self._under_way[name] = asyncio.ensure_future(self._make(submission, key, digest))
        making.add_done_callback(lambda _: self._under_way.pop(name))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            if making.cancelled():
                raise EndingError from None
            raise

    def end(self) -> None:
        """Give up what is under way, and refuse others."""
        self._ending = True
        for making in self._under_way.values():
            making.cancel()

    async def close(self) -> None:
        """End, and return when nothing of what was given up is left."""
        self.end()
        await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def _make(self, submission: Submission, key: str, digest: str) -> JobRecord:
        origin = submission.origin
        if origin and "://" not in origin and not Path(origin).is_absolute():
            raise UsageError(f"origin {origin!r}: give the whole path of a folder, or a URL")
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(submission.file).stem)[:40] or "job"
        job_id = f"{stem}-{secrets.token_hex(3)}"
        folder = self._folder_of(job_id)
        try:
            await in_thread(_unpack, folder, submission)
            found = await self._machine.look_at(folder, submission)
            await in_thread(_write_graph, folder, found)
            job = JobRecord(
                id=job_id,
                name=found["name"],
                file=submission.file,
                expose=submission.expose,
                params=submission.params,
                options=JobOptions(
                    parallelism=submission.parallelism,
                    checkpoint_every_ms=submission.checkpoint_every_ms,
                    origin=submission.origin,
                    allow_dropped_state=submission.allow_dropped_state,
                    memory_limit_bytes=submission.memory_limit_bytes,
                ),
                submitted_ms=self._clock.now_ms(),
                key=key,
                digest=digest,
            )
            self._take(job)
        except BaseException:
            await in_thread(clear_unfinished, folder)
            raise
        return job


def _unpack(folder: JobFolder, submission: Submission) -> None:
    folder.root.mkdir(mode=0o700)
    folder.source.mkdir()
    write_json(folder.files, ArchiveFiles(names=unpack(submission, folder.source)))


def _write_graph(folder: JobFolder, found: dict[str, Any]) -> None:
    (folder.root / "graph.json").write_text(json.dumps(found))

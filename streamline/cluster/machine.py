"""Machine: where the processes of jobs run, and how they are found again.

``Machine`` and ``JobProcess`` are what the daemon knows of it; another place to run jobs, or a
simulated one, offers the same. ``ThisMachine`` is the one at hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from streamline.cluster import child
from streamline.cluster.control import ControlClient
from streamline.cluster.environment import environment, install
from streamline.cluster.files import (
    Inspection,
    JobFolder,
    MasterSettings,
    lock,
    read_address,
    write_json,
)
from streamline.cluster.submission import Submission
from streamline.engines.pool import is_stopped
from streamline.errors import LockedError, StreamlineError

_INSPECT_S = 60.0
_REAP_S = 5.0


class BrokenJobError(StreamlineError):
    """The job's file cannot be built into a job; ``trace`` is cut to the user's own frames."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


class OrderLine(Protocol):
    """A connection over which orders are given to a job's process.

    Attributes:
        gone: Set when the connection is at its end.
    """

    gone: asyncio.Event

    async def call(self, verb: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
        """Give an order and wait for the answer.

        Raises:
            OrderFailedError: If it could not be done.
            MasterGoneError: If the process went away before it answered.
        """
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...


class JobProcess(ABC):
    """The process of one job: there is one at most at any time, whoever has started it."""

    @abstractmethod
    def is_run(self) -> bool:
        """Whether there is one, be it reached or not."""

    @abstractmethod
    async def connect(self) -> OrderLine | None:
        """Reach it, if that can be."""

    @abstractmethod
    def start(self, settings: MasterSettings) -> None:
        """Start one."""

    @abstractmethod
    def has_exited(self) -> bool:
        """Whether the one that was started here last has come to its end."""

    @abstractmethod
    async def reap(self) -> None:
        """Wait a little for the end of the one that was started here last, if there is one."""

    @abstractmethod
    def kill(self, *, stopped: bool = False) -> None:
        """End it at once, and its workers with it.

        Args:
            stopped: Only if a signal has stopped it: one that is busy will answer.
        """


class Machine(ABC):
    """Where jobs run."""

    @abstractmethod
    async def look_at(self, folder: JobFolder, submission: Submission) -> dict[str, Any]:
        """Install what a job needs, and build it; its name, graph and plan.

        Raises:
            BrokenJobError: If it cannot be built.
            BrokenRequirementsError: If what it needs cannot be installed.
        """

    @abstractmethod
    def process(self, folder: JobFolder) -> JobProcess:
        """The process of a job."""


class ThisMachine(Machine):
    """Processes on this machine.

    Args:
        token: What gives the right to give orders to them.
    """

    def __init__(self, token: str) -> None:
        self._token = token

    def process(self, folder: JobFolder) -> JobProcess:
        return _LocalProcess(folder, self._token)

    async def look_at(self, folder: JobFolder, submission: Submission) -> dict[str, Any]:
        if submission.requirements:
            await install(folder, submission.requirements)
        path = folder.source / submission.file
        told = folder.root / "inspect.json"
        asked = Inspection(
            path=str(path),
            expose=submission.expose,
            params=submission.params,
            parallelism=submission.parallelism,
            origin=submission.origin,
            allow_dropped_state=submission.allow_dropped_state,
        )
        write_json(told, asked)
        words = ""
        try:
            _, words = await child.run(
                folder.python,
                *("-m", "streamline.cluster.inspect", str(told)),
                cwd=path.parent,
                log=folder.root / "inspect.log",
                within_s=_INSPECT_S,
                env=environment(folder),
            )
            if told.stat().st_size > child.MOST_PRINTED:
                raise BrokenJobError("the job's graph is too large")
            found: dict[str, Any] = json.loads(told.read_bytes())["found"]
        except child.OverLimitError as error:
            raise BrokenJobError(f"the job file {error}") from None
        except (ValueError, KeyError):
            raise BrokenJobError("the process that built the job died", words) from None
        finally:
            told.unlink(missing_ok=True)
        if "error" in found:
            source = f"{path.parent}{os.sep}"
            raise BrokenJobError(
                found["error"].replace(source, ""), found.get("trace", "").replace(source, "")
            )
        return found


class _LocalProcess(JobProcess):
    """Found by the files in the job's folder; it outlives us."""

    def __init__(self, folder: JobFolder, token: str) -> None:
        self._folder = folder
        self._token = token
        self._process: subprocess.Popen[bytes] | None = None

    def is_run(self) -> bool:
        try:
            lock(self._folder.lock, "the job").close()
        except LockedError:
            return True
        return False

    async def connect(self) -> OrderLine | None:
        address = read_address(self._folder.address)
        # A stranger may have been given its port since: he must not be told the token.
        if address is None or not _is_master(address.pid, self._folder):
            return None
        try:
            return await ControlClient.connect(address.port, self._token)
        except OSError:
            return None

    def start(self, settings: MasterSettings) -> None:
        write_json(self._folder.settings, settings)
        self._folder.address.unlink(missing_ok=True)  # of the one before
        command = [self._folder.python, "-u", "-m", "streamline.cluster.master"]
        with self._folder.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - that is what it is for
                [*command, str(self._folder.root)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment(self._folder),
                cwd=self._folder.source,
            )

    def has_exited(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    async def reap(self) -> None:
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, _REAP_S)
                self._process = None

    def kill(self, *, stopped: bool = False) -> None:
        address = read_address(self._folder.address)
        pid = address.pid if address is not None else None
        if self._process is not None:
            pid = self._process.pid
        if stopped and (pid is None or not is_stopped(pid)):
            return
        if pid is not None and _is_master(pid, self._folder):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _is_master(pid: int, folder: JobFolder) -> bool:
    """Whether a process is that of the job, and not another that was given its number since."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return not Path("/proc/self").exists()  # not Linux: nobody can tell
    except OSError:
        return False
    return str(folder.root).encode() in command

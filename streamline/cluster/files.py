"""A job's folder in the cluster's data folder, and the small files through which it is passed on.

Daemon and the process of a job know each other by these alone, so either may die and be started
again. It knows where things are and what shape they have, not what is done about them.
"""

from __future__ import annotations

import fcntl
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from streamline.errors import LockedError, StateError

_MOST_FAILURES = 50
MOST_OF_ERROR, MOST_OF_TRACE = 4_000, 16_000
"""Letters of a sentence and of a traceback that are kept of a failure."""


class MasterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the process of a job is told.

    Attributes:
        id: The job's.
        name: As it called itself when it was submitted.
        token: Who has it may give orders.
        path: The job's file.
        expose: What the file exposes the job as.
        params: Values of its parameters.
        parallelism, nodes, checkpoint_every_ms, origin, allow_dropped_state, memory_limit_bytes:
            See ``JobOptions``.
        log_json: What is printed and logged becomes JSON lines.
    """

    id: str
    name: str
    token: str
    path: str
    expose: str
    params: dict[str, str]
    parallelism: int
    nodes: dict[str, int]
    checkpoint_every_ms: int
    origin: str
    allow_dropped_state: bool
    memory_limit_bytes: int
    log_json: bool


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be built before a job is taken; see ``inspect``.

    Attributes:
        path, expose, params, parallelism, origin, allow_dropped_state: See ``MasterSettings``.
    """

    path: str
    expose: str
    params: dict[str, str]
    parallelism: int
    origin: str
    allow_dropped_state: bool


class MasterAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the process of a job listens."""

    pid: int
    port: int


class MasterEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a job ended.

    Attributes:
        state, reason, trace: As its engine says.
        status: What it would have said last.
        results, errors: What came of the orders that it was given, by operation.
    """

    state: str
    reason: str = ""
    trace: str = ""
    status: dict[str, Any] = {}
    results: dict[str, dict[str, Any]] = {}
    errors: dict[str, str] = {}


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """One failure of a job.

    Attributes:
        at_ms: When (ms since the epoch).
        generation: The attempt that it ended; 0 if it was outside of any.
        node, index: The task that failed; an empty name if it was none.
        error: One sentence for the user.
        trace: The traceback behind that.
    """

    at_ms: int
    generation: int
    node: str
    index: int
    error: str
    trace: str = ""


class Failures(msgspec.Struct, frozen=True, kw_only=True):
    """The last failures of a job, the newest last."""

    failures: list[Failed] = []


class ArchiveFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What a job has brought along, by paths relative to ``src``."""

    names: list[str]


class SavepointClaim(msgspec.Struct, frozen=True, kw_only=True):
    """A place that was empty when an order came for a savepoint in it."""

    path: str


@dataclass(frozen=True)
class JobFolder:
    """The paths of one job.

    job.json      what is to be run, and how; written by the daemon before each start
    src/          the job's file, and those beside it
    venv/         its own virtual environment, if it has requirements
    state/        checkpoints and live state, as of ``streamline run``
    master.json   the process that runs it: pid and port
    master.lock   held by that process
    ended.json    how it ended; written by that process as its last act
    failures.json its last failures; by that process, and by the daemon when it has died
    files.json    what was brought along to src/: what else stands there, the job has written
    claim-*       where an order leaves a savepoint; what is found there is its own
    log           what it, its workers and the user's functions print
    """

    root: Path

    @property
    def settings(self) -> Path:
        """Settings for the process."""
        return self.root / "job.json"

    @property
    def source(self) -> Path:
        """Folder of the job's code."""
        return self.root / "src"

    @property
    def environment(self) -> Path:
        """Virtual environment of a job that has requirements of its own."""
        return self.root / "venv"

    @property
    def python(self) -> str:
        """The interpreter that runs the job."""
        own = self.environment / "bin" / "python"
        return str(own) if own.exists() else sys.executable

    def claim(self, order: str) -> Path:
        """Note of the place in which an order leaves a savepoint."""
        return self.root / f"claim-{order}"

    @property
    def state(self) -> Path:
        """Folder of checkpoints and live state."""
        return self.root / "state"

    @property
    def address(self) -> Path:
        """Where the process listens."""
        return self.root / "master.json"

    @property
    def lock(self) -> Path:
        """Held by the process that runs it."""
        return self.root / "master.lock"

    @property
    def end(self) -> Path:
        """How the job ended."""
        return self.root / "ended.json"

    @property
    def failures(self) -> Path:
        """Its last failures."""
        return self.root / "failures.json"

    @property
    def files(self) -> Path:
        """What was brought along."""
        return self.root / "files.json"

    @property
    def log(self) -> Path:
        """What was printed."""
        return self.root / "log"


def write_json(path: Path, value: msgspec.Struct) -> None:
    """Write a small file whole or not at all, readable for its owner alone.

    Raises:
        OSError: If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(value))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_settings(path: Path) -> MasterSettings:
    """Settings for a process.

    Raises:
        StateError: If they cannot be read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=MasterSettings)
    except (OSError, msgspec.MsgspecError) as error:
        raise StateError(f"{path} cannot be read: {error}") from error


def read_address(path: Path) -> MasterAddress | None:
    """Where a process listens, or did; None if there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=MasterAddress)
    except (OSError, msgspec.MsgspecError):
        return None


def read_end(path: Path) -> MasterEnd | None:
    """How a job ended; None if it has not.

    Raises:
        OSError: If that cannot be said now.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=MasterEnd)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def read_failures(path: Path) -> list[Failed]:
    """The last failures of a job, the newest last.

    Raises:
        OSError: If that cannot be said now.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Failures).failures
    except (FileNotFoundError, msgspec.MsgspecError):
        return []


def add_failure(path: Path, failed: Failed) -> None:
    """Note a failure; so many are kept.

    Raises:
        OSError: If it cannot be noted.
    """
    before = read_failures(path)[1 - _MOST_FAILURES :]
    write_json(path, Failures(failures=[*before, failed]))


def lock(path: Path, what: str) -> IO[str]:
    """Hold a lock until the file is closed, or the process ends.

    Raises:
        LockedError: If another process holds it; names it.
        StateError: If the file cannot be used.
    """
    try:
        file = path.open("a+")
    except OSError as error:
        raise StateError(f"{path} cannot be used: {error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        by = f" (process {holder})" if holder else ""
        raise LockedError(f"{what} is in use by another process{by}") from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file

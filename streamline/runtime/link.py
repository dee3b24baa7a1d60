"""The control connection between a worker process and its coordinator, worker's side.

It lives on a thread of its own, so that a slow user function neither delays commands nor
makes the worker look dead. When the coordinator goes away, the worker ends at once.

A message is a length, then the codec's bytes. The first one from the worker carries the token.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from streamline.codec import decode, encode
from streamline.config import RuntimeConfig
from streamline.ids import TaskId
from streamline.jobfile import JobSpec
from streamline.runtime.control import Command, TaskRestore

LENGTH = struct.Struct("<Q")
COORDINATOR_GONE = 3


@dataclass(frozen=True)
class Hello:
    """The worker's first message.

    Attributes:
        token: Shared secret of the job.
        worker: The worker's number.
        pid: Its process.
        host, port: Where it accepts channels.
    """

    token: bytes
    worker: int
    pid: int
    host: str
    port: int


@dataclass(frozen=True)
class DeployTasks:
    """Drop what runs and start these.

    Attributes:
        generation: Number of the attempt.
        parallelism: The job's default parallelism.
        nodes: Parallelism of nodes that were given another than the job says.
        run: Names the attempt for sinks.
        tasks: What this worker runs, each with its state.
        placement: Worker of every task of the job.
        peers: Address of every worker.
        whole_run, took_over: For sinks, as in ``WriterContext``.
    """

    generation: int
    parallelism: int
    nodes: dict[str, int]
    run: str
    tasks: dict[TaskId, TaskRestore]
    placement: dict[TaskId, int]
    peers: dict[int, tuple[str, int]]
    whole_run: str = ""
    took_over: bool = False


@dataclass(frozen=True)
class DropTasks:
    """Drop the tasks of this generation and all before."""

    generation: int


@dataclass(frozen=True)
class TaskCommand:
    """A command for one task."""

    task: TaskId
    command: Command


@dataclass(frozen=True)
class Quit:
    """End the process."""


@dataclass(frozen=True)
class Progress:
    """What the tasks of a worker have counted, sent from time to time.

    Attributes:
        counters: By node and name, summed over the worker's tasks of the node.
        watermarks: Event time of each task.
        tasks: For each task, what it has counted itself: records, and time in ms.
        refused: Connections by strangers that the worker has turned away.
        reached: Event time of source tasks, where others are to wait for them.
    """

    generation: int
    counters: dict[str, dict[str, int]]
    watermarks: dict[str, int]
    tasks: dict[str, dict[str, int]]
    refused: int = 0
    reached: dict[TaskId, int] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker process is told when it is started.

    Attributes:
        worker: Its number.
        token: Shared secret of the job.
        host, port: Where the coordinator listens.
        spec: The job.
        fingerprint: The graph that the coordinator has built from it.
        config: Settings of the run.
        directory: A folder for live state; emptied at the start.
        checkpoints: URL of the checkpoint store.
        log_as: What is printed becomes JSON lines of a job of this name; empty leaves it.
    """

    worker: int
    token: bytes
    host: str
    port: int
    spec: JobSpec
    fingerprint: dict[str, Any]
    config: RuntimeConfig
    directory: str
    checkpoints: str
    log_as: str = ""


class ControlLink:
    """The worker's end.

    Args:
        address: Where the coordinator listens.
        on_message: Called with each message, in the link's own thread.
        progress: Asked for what to report from time to time, in the link's own thread.
        every_s: How often.
    """

    def __init__(
        self,
        address: tuple[str, int],
        *,
        on_message: Callable[[Any], None],
        progress: Callable[[], Progress],
        every_s: float = 0.2,
    ) -> None:
        self._socket = socket.create_connection(address)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._on_message = on_message
        self._progress = progress
        self._every_s = every_s
        self._sending = threading.Lock()

    def start(self) -> None:
        """Begin to receive and to report progress."""
        threading.Thread(target=self._receive, name="control", daemon=True).start()
        threading.Thread(target=self._report, name="progress", daemon=True).start()

    def send(self, message: Any) -> None:
        """Send a message; ends the process if the coordinator is gone."""
        data = encode(message)
        try:
            with self._sending:
                self._socket.sendall(LENGTH.pack(len(data)) + data)
        except OSError:
            os._exit(COORDINATOR_GONE)

    def _receive(self) -> None:
        try:
            stream = self._socket.makefile("rb")
            while head := stream.read(LENGTH.size):
                (length,) = LENGTH.unpack(head) if len(head) == LENGTH.size else (0,)
                body = stream.read(length)
                if len(head) < LENGTH.size or len(body) < length:
                    break  # the coordinator has died in the middle of a message
                message = decode(body)
                if isinstance(message, Quit):
                    break
                self._on_message(message)
        except OSError:
            pass
        os._exit(COORDINATOR_GONE)

    def _report(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._every_s):
            self.send(self._progress())

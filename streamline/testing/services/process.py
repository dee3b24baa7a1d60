"""ServerProcess, a child that serves on loopback and dies with us, and Service around it.

Readiness is waited for, last words are shown, and no child outlives the test that began it, not
even one that was killed. What the program serves, it does not know.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from streamline.errors import StreamlineError

_LOOK_EVERY_S = 0.05
_STOP_S = 20.0
_SHOWN_BYTES = 2_000


class ServiceUnavailableError(StreamlineError):
    """A server for tests cannot be had on this machine; the message says why.

    >>> from streamline.testing.services import KafkaBroker
    >>> def broker_or_reason() -> KafkaBroker | str:
    ...     broker = KafkaBroker()
    ...     try:
    ...         broker.start()
    ...     except ServiceUnavailableError as error:
    ...         return f"not on this machine: {error}"
    ...     return broker
    """


def free_port() -> int:
    """A port of the loopback address that nobody listens on right now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class ServerProcess:
    """Runs one server program.

    Args:
        name: What to call it in messages.
        command: The program and its arguments.
        log: File that takes what it prints.
        port: Where it listens once it is up.
        ready: What it prints when it is, if to listen is not enough.
        before: Called in the child before the program begins, such as to give up rights.
        stop_signal: What ends it in order.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        port: int,
        ready: bytes = b"",
        before: Callable[[], None] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name = name
        self._command = list(command)
        self._log = log
        self._port = port
        self._ready = ready
        self._before = before
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, up_within_s: float = 60.0) -> None:
        """Start it, and return once it listens.

        Raises:
            ServiceUnavailableError: If it ends, or does not listen in time; shows its last words.
        """
        parent = os.getpid()
        said_before = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: _begin(parent, self._before),
            )
        deadline = time.monotonic() + up_within_s
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            if self._ready in self._log.read_bytes()[said_before:] and self._listens():
                return
            time.sleep(_LOOK_EVERY_S)
        ended = self._process.poll()
        self.kill()
        what = f"did not listen within {up_within_s:g} s" if ended is None else f"ended ({ended})"
        raise ServiceUnavailableError(f"{self.name} {what}; its last words:\n{self.last_words()}")

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True

    def last_words(self) -> str:
        """The end of what it printed."""
        data = self._log.read_bytes() if self._log.exists() else b""
        return data[-_SHOWN_BYTES:].decode(errors="replace").strip()

    def stop(self) -> None:
        """End it in order, or by force if it takes too long; nothing if it is not running."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it at once, as by kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it stand still (SIGSTOP)."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)


class Service(ABC):
    """A server for tests in a folder of its own, or one that a variable names.

    Args:
        given: Where the one is that the variable names; None starts one.
        variable: Its name.
    """

    def __init__(self, given: str | None, variable: str) -> None:
        self._given = given
        self._variable = variable
        self._folder: Path | None = None
        self._process: ServerProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start it, also again after ``stop`` or ``kill``, with what it held."""
        if self._given is not None:
            return
        if self._process is None:
            self._process = self._create()
        self._process.start()

    def stop(self) -> None:
        """End it in order; what it holds is kept."""
        self._running().stop()

    def kill(self) -> None:
        """End it as by kill -9; what it holds is kept."""
        self._running().kill()

    def close(self) -> None:
        """End it and remove what it holds."""
        if self._process is not None:
            self._process.kill()
            self._process = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise ServiceUnavailableError(f"the server of {self._variable} is not ours to stop")
        return self._process

    @abstractmethod
    def _create(self) -> ServerProcess:
        """Make its folder, and what is to be started.

        Raises:
            ServiceUnavailableError: If it cannot be had.
        """


def _begin(parent: int, before: Callable[[], None] | None) -> None:
    """In the child: give up rights, and have the kernel kill us when the parent dies."""
    if before is not None:
        before()
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

"""ProcessPool: the worker processes of one job on this machine, started and supervised.

A worker is dead when its control connection ends, which the kernel sees to at once. One that
is slow, or holds the interpreter's lock in a user's function, keeps its connection and counts
as alive. One that was stopped (SIGSTOP) would hold up the job for ever: it is killed.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from streamline.codec import decode, encode
from streamline.errors import ProtocolError
from streamline.runtime.link import LENGTH, Hello, Quit, WorkerSettings

_MESSAGE_LIMIT = 1 << 30
_HELLO_LIMIT = 4096
_HELLO_WITHIN_S = 10.0
_END_WAIT_S = 5.0
_LOOK_EVERY_S = 1.0
_STOPPED_LOOKS = 5


class WorkerPool(Protocol):
    """The workers of one job, wherever they run; see :class:`ProcessPool`."""

    refused: int
    addresses: dict[int, tuple[str, int]]

    @property
    def pids(self) -> dict[int, int]: ...
    @property
    def ready(self) -> list[int]: ...
    async def open(self) -> None: ...
    def ensure(self, workers: list[int]) -> None: ...
    def retire(self, workers: Iterable[int]) -> None: ...
    def send(self, worker: int, message: Any) -> None: ...
    async def close(self) -> None: ...


class MakePool(Protocol):
    """Makes a pool; the arguments are those of :class:`ProcessPool`."""

    def __call__(
        self,
        settings: WorkerSettings,
        live: Path,
        *,
        on_ready: Callable[[int], None],
        on_lost: Callable[[int, str], None],
        on_message: Callable[[int, Any], None],
    ) -> WorkerPool: ...


class ProcessPool:
    """Worker processes and the control connections to them.

    Args:
        settings: What each worker is told; number, address and folder are filled in.
        live: Folder for live state; each worker gets one in it.
        on_ready: Called with a worker's number when it can take tasks.
        on_lost: Called with a worker's number and how it went.
        on_message: Called with a worker's number and each message.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        live: Path,
        *,
        on_ready: Callable[[int], None],
        on_lost: Callable[[int, str], None],
        on_message: Callable[[int, Any], None],
    ) -> None:
        self.refused = 0
        self.addresses: dict[int, tuple[str, int]] = {}
        self._settings = settings
        self._live = live
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._on_message = on_message
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._closing = False
        self._leaving: set[subprocess.Popen[bytes]] = set()
        self._reasons: dict[int, str] = {}
        self._guarding: asyncio.Task[None] | None = None

    @property
    def pids(self) -> dict[int, int]:
        """Process ids by worker."""
        return {worker: process.pid for worker, process in self._processes.items()}

    async def open(self) -> None:
        """Listen for workers, on loopback."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._host, self._port = self._server.sockets[0].getsockname()[:2]
        self._guarding = asyncio.ensure_future(self._guard())

    def ensure(self, workers: list[int]) -> None:
        """Start the workers that are not there."""
        for worker in workers:
            if worker not in self._processes and not self._closing:
                self._start(worker)

    @property
    def ready(self) -> list[int]:
        """Workers that can take tasks."""
        return sorted(self._writers)

    def retire(self, workers: Iterable[int]) -> None:
        """End workers that are not needed any more; they do not count as lost."""
        for worker in workers:
            process = self._processes.pop(worker, None)
            if process is None:
                continue
            self._leaving.add(process)
            if worker in self._writers:
                self.send(worker, Quit())
                self._writers.pop(worker).close()
            else:
                process.kill()  # it is just starting, and knows of nothing yet

    def send(self, worker: int, message: Any) -> None:
        """Send a message; dropped if the worker is gone."""
        writer = self._writers.get(worker)
        if writer is not None:
            data = encode(message)
            writer.write(LENGTH.pack(len(data)) + data)

    async def close(self) -> None:
        """End all workers: ask, wait a little, kill."""
        self._closing = True
        if self._guarding is not None:
            self._guarding.cancel()
        for worker, process in self._processes.items():
            if worker in self._writers:
                self.send(worker, Quit())
            else:
                process.kill()  # it is just starting, and knows of nothing yet
        if self._exits:
            await asyncio.wait(self._exits.values(), timeout=_END_WAIT_S)
        for process in [*self._processes.values(), *self._leaving]:
            process.kill()  # does nothing to one that has ended
        await asyncio.gather(*self._watchers, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        for writer in self._serving.values():
            writer.close()  # also those of strangers who have said nothing yet
        await asyncio.gather(*self._serving, return_exceptions=True)

    def kill(self) -> None:
        """Kill all workers at once."""
        self._closing = True
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _start(self, worker: int) -> None:
        settings = replace(
            self._settings,
            worker=worker,
            host=self._host,
            port=self._port,
            directory=str(self._live / f"worker-{worker}-{secrets.token_hex(4)}"),
        )
        try:
            # -u: what a user's function prints appears at once, also in a pipe.
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", "streamline.runtime.worker"],
                stdin=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        except OSError as error:  # no memory, too many processes
            loop = asyncio.get_running_loop()
            loop.call_soon(self._on_lost, worker, f"could not be started: {error}")
            return
        assert process.stdin is not None
        try:
            process.stdin.write(encode(settings))
            process.stdin.close()
        except BrokenPipeError:
            pass  # it is dead already, which is seen like any other death
        self._processes[worker] = process
        self._exits[process.pid] = exit_of(process)
        watching = asyncio.ensure_future(self._watch(worker, process, settings.directory))
        self._watchers.add(watching)
        watching.add_done_callback(self._watchers.discard)

    async def _guard(self) -> None:
        """Kill workers that stay stopped while we are not, or take more memory than they may."""
        looks: dict[int, int] = {}
        limit = self._settings.config.worker_memory_bytes
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for process in list(self._processes.values()):
                pid = process.pid
                looks[pid] = looks.get(pid, 0) + 1 if is_stopped(pid) else 0
                held = memory_bytes(pid) if limit is not None else 0
                if limit is not None and held > limit:
                    self._reasons[pid] = (
                        f"held {held >> 20} MiB of memory, more than the {limit >> 20} MiB allowed"
                    )
                elif looks[pid] < _STOPPED_LOOKS:
                    continue
                if process.poll() is None:
                    process.kill()

    async def _watch(self, worker: int, process: subprocess.Popen[bytes], directory: str) -> None:
        status = await self._exits[process.pid]
        del self._exits[process.pid]
        retired = process in self._leaving
        self._leaving.discard(process)
        if not retired:
            self._processes.pop(worker, None)
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
        if retired:
            return
        writer = self._writers.pop(worker, None)
        if writer is not None:
            writer.close()
        reason = self._reasons.pop(process.pid, None)
        if not self._closing:
            self._on_lost(worker, reason or _how(status))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            hello = await self._admit(reader)
            if hello is None:
                self.refused += 1
                return
            self._writers[hello.worker] = writer
            self.addresses[hello.worker] = (hello.host, hello.port)
            self._on_ready(hello.worker)
            process = self._processes[hello.worker]
            try:
                while True:
                    self._on_message(hello.worker, await _read(reader, _MESSAGE_LIMIT))
            except (OSError, EOFError, ProtocolError):
                # The process may hang on after its connection; it is of no use without.
                if process.poll() is None:
                    process.kill()
        finally:
            del self._serving[task]
            writer.close()

    async def _admit(self, reader: asyncio.StreamReader) -> Hello | None:
        """What a worker of ours says first; None if it is somebody else."""
        try:
            async with asyncio.timeout(_HELLO_WITHIN_S):
                hello = await _read(reader, _HELLO_LIMIT)
            process = self._processes.get(hello.worker)
            ours = (
                isinstance(hello, Hello)
                and hmac.compare_digest(hello.token, self._settings.token)
                and process is not None
                and process.pid == hello.pid
            )
        except Exception:  # noqa: BLE001 - whatever a stranger sends, it is refused
            return None
        return hello if ours else None


def exit_of(process: subprocess.Popen[bytes]) -> asyncio.Future[int]:
    """The exit status of a process, once it has ended.

    Each process has a thread of its own that waits: the event loop's pool of threads is small, and
    as many long waits in it would leave none for anything else.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[int] = loop.create_future()

    def ended(status: int) -> None:
        if not future.done():
            future.set_result(status)

    def wait() -> None:
        status = process.wait()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended, status)

    threading.Thread(target=wait, name=f"exit of {process.pid}", daemon=True).start()
    return future


async def _read(reader: asyncio.StreamReader, limit: int) -> Any:
    (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    if length > limit:
        raise ProtocolError(f"a message of {length} bytes is over the limit")
    try:
        return decode(await reader.readexactly(length))
    except (ValueError, struct.error) as error:
        raise ProtocolError(f"a message cannot be read: {error}") from error


def memory_bytes(pid: int) -> int:
    """Resident memory of a process; 0 where there is no /proc, as nobody knows."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal; where there is no /proc, nobody knows."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(") ")[2][:1] == "T"


def _how(status: int) -> str:
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = str(-status)
        return f"was killed ({name})"
    return f"ended by itself (exit status {status})"

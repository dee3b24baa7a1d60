"""A worker process: runs the tasks it is given on one event loop, and ends with its coordinator.

Started as ``python -m streamline.runtime.worker``; its settings come on standard input.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from streamline.clock import Clock, SystemClock
from streamline.codec import decode
from streamline.errors import StateError, StreamlineError
from streamline.graph import JobGraph
from streamline.ids import ChannelId, TaskId
from streamline.logs import JsonLog, current_task
from streamline.plan import ExecutionPlan, make_plan, with_parallelism
from streamline.runtime.channel import Receiver, Sender
from streamline.runtime.control import Failed, Finished, Report
from streamline.runtime.credits import Credits
from streamline.runtime.deploy import RemoteEnds, build_tasks
from streamline.runtime.drive import failure, run_task
from streamline.runtime.keyed_state import StateServices
from streamline.runtime.link import (
    ControlLink,
    DeployTasks,
    DropTasks,
    Hello,
    Progress,
    TaskCommand,
    WorkerSettings,
)
from streamline.runtime.task import Task, TaskServices
from streamline.runtime.transport import Exchange
from streamline.state.manifest import StateFile
from streamline.state.restore import OpenStore
from streamline.state.rocksdb import open_rocksdb
from streamline.state.store import CheckpointStore, open_store

_CLOSE_WITHIN_S = 30.0
CRASH_VARIABLE = "STREAMLINE_TEST_CRASH"


class Channels(Protocol):
    """Channels to the tasks of other workers; see :class:`Exchange`."""

    refused: int

    def begin(self, generation: int) -> None: ...
    def sender(self, channel: ChannelId, credits: Credits, worker: int) -> Sender: ...
    def receiver(self, channel: ChannelId, worker: int) -> Receiver: ...
    async def connect(self, peers: dict[int, tuple[str, int]]) -> None: ...


class Worker:
    """The tasks of one process.

    Args:
        settings: What it was told.
        graph: The job.
        channels: How its tasks reach those of other workers.
        send: Takes what the coordinator is to be told.
        clock: The time.
        open_kv: Opens key-value stores.
        store: Where checkpoints go.
        log: Where lines are written that are to be JSON.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        graph: JobGraph,
        channels: Channels,
        send: Callable[[Any], None],
        *,
        clock: Clock,
        open_kv: OpenStore,
        store: CheckpointStore,
        log: JsonLog | None = None,
    ) -> None:
        self._settings = settings
        self._graph = graph
        self._channels = channels
        self._send = send
        self._clock = clock
        self._open_kv = open_kv
        self._store = store
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._generation = 0
        self._tasks: dict[TaskId, Task] = {}
        self._running: dict[TaskId, asyncio.Task[None]] = {}
        self._last_words: dict[TaskId, Report] = {}
        self._changing = asyncio.Lock()
        self._probe = make_probe(os.environ.get(CRASH_VARIABLE, ""))

    def take(self, message: Any) -> None:
        """Something that the coordinator wants."""
        if isinstance(message, TaskCommand):
            self._command(message)
        elif isinstance(message, DeployTasks):
            self._background(self._deploy(message))
        elif isinstance(message, DropTasks):
            self._background(self._drop(message.generation))

    def _background(self, work: Any) -> None:
        future = asyncio.ensure_future(work)
        future.add_done_callback(self._check)

    def _check(self, future: asyncio.Future[None]) -> None:
        if not future.cancelled() and future.exception() is not None:
            raise SystemExit(f"streamline worker: {future.exception()}")

    def _command(self, message: TaskCommand) -> None:
        task = self._tasks.get(message.task)
        last = self._last_words.get(message.task)
        if last is not None and last.generation == message.command.generation:
            self._send(last)  # it may have been lost
        elif task is not None:
            task.deliver(message.command)

    async def _drop(self, generation: int) -> None:
        async with self._changing:
            if self._generation <= generation:
                await self._end_tasks()

    async def _end_tasks(self) -> None:
        running, self._running = self._running, {}
        for future in running.values():
            future.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
        for task in self._tasks.values():
            await self._close(task)
        self._tasks = {}
        shutil.rmtree(self._settings.directory, ignore_errors=True)

    async def _deploy(self, message: DeployTasks) -> None:
        async with self._changing:
            if message.generation < self._generation:
                return
            if message.generation == self._generation:
                for task in self._tasks.values():
                    task.report_running()
                return
            await self._end_tasks()
            self._generation = message.generation
            if self._log is not None:
                self._log.generation = message.generation
            self._last_words = {}
            self._channels.begin(message.generation)
            plan = make_plan(with_parallelism(self._graph, message.nodes), message.parallelism)
            services = self._services(message)
            placement = message.placement
            remote = RemoteEnds(
                sender=lambda channel, credits, task: self._channels.sender(
                    channel, credits, placement[task]
                ),
                receiver=lambda channel, task: self._channels.receiver(channel, placement[task]),
            )
            self._build(plan, message, services, remote=remote)
            try:
                await self._channels.connect(message.peers)
            except OSError as error:
                for task_id in message.tasks:
                    reason = f"worker {self._settings.worker} cannot reach another worker: {error}"
                    self._end(Failed(message.generation, task_id, reason))
                return
            for task_id, task in self._tasks.items():
                restore = message.tasks[task_id]
                running = self._running[task_id] = asyncio.ensure_future(self._run(task, restore))
                running.add_done_callback(self._check)

    def _build(
        self,
        plan: ExecutionPlan,
        message: DeployTasks,
        services: TaskServices,
        *,
        remote: RemoteEnds,
    ) -> None:
        self._tasks = build_tasks(plan, message.tasks.keys(), services, remote=remote)

    async def _run(self, task: Task, restore: Any) -> None:
        generation = self._generation
        current_task.set(task.id)
        try:
            await run_task(task, restore, self._clock)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            assert current is not None
            if current.cancelling():
                raise
            # What it waited for was cancelled by somebody else, such as a client's own close.
            await self._close(task)
            reason = f"{task.id} waited for something that was given up"
            trace = traceback.format_exc()
            self._end(Failed(generation, task.id, reason, trace))
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the task
            await self._close(task)
            self._end(failure(generation, task.id, error))
        else:
            await self._close(task)
            self._end(Finished(generation, task.id))

    async def _close(self, task: Task) -> None:
        """Close a task that has ended; an error in that is told, but it is not the reason."""
        try:
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await task.close()
        except TimeoutError:
            print(f"streamline: {task.id} could not be closed; going on", file=sys.stderr)
        except Exception as error:  # noqa: BLE001 - it has ended already; this is only told
            print(f"streamline: closing {task.id} failed: {error!r}", file=sys.stderr)

    def _end(self, report: Report) -> None:
        self._send(self.progress())  # the last one, so that counts are complete
        self._last_words[report.task] = report
        self._send(report)

    def _services(self, message: DeployTasks) -> TaskServices:
        settings = self._settings
        directory = Path(settings.directory)
        return TaskServices(
            job=self._graph.name,
            run=message.run,
            whole_run=message.whole_run,
            took_over=message.took_over,
            generation=message.generation,
            clock=self._clock,
            config=settings.config,
            report=self._send,
            state=StateServices(
                directory=directory / f"{message.generation:06d}",
                open_kv=self._open_kv,
                store=self._store,
                aside=self._aside,
            ),
            probe=self._probe,
        )

    def _aside(
        self,
        work: Callable[[], list[StateFile]],
        done: Callable[[list[StateFile] | BaseException], None],
    ) -> None:
        def finished(future: asyncio.Future[list[StateFile]]) -> None:
            error = future.exception()
            done(error if error is not None else future.result())

        self._loop.run_in_executor(None, work).add_done_callback(finished)

    def progress(self) -> Progress:
        """What its tasks have counted; may be asked from another thread."""
        tasks = list(self._tasks.items())
        counters: dict[str, dict[str, int]] = {}
        for _, task in tasks:
            for node, counted in task.counters.items():
                counted.add_to(counters.setdefault(str(node), {}))
        watermarks = {str(task_id): task.watermark for task_id, task in tasks}
        counted_of = {str(task_id): task.counted() for task_id, task in tasks}
        reached = {id_: at for id_, task in tasks if (at := task.reached) is not None}
        return Progress(
            self._generation,
            counters,
            watermarks,
            counted_of,
            self._channels.refused,
            reached,
        )


def make_probe(script: str) -> Callable[[str, TaskId, int], None]:
    """A probe that kills this process at a scripted point: ``[all:]point@epoch[@node]``.

    Only tests set it. ``epoch`` may be ``*``; with ``all:`` the coordinator is killed as well, and
    so every process of the job. Without a script the probe does nothing.
    """
    if not script:
        return _no_probe
    point, epoch, *node = script.removeprefix("all:").split("@")
    also = os.getppid() if script.startswith("all:") else None
    return partial(_crash, point, epoch, node[0] if node else "", also)


def _no_probe(point: str, task: TaskId, epoch: int) -> None:
    pass


def _crash(
    want: str, at: str, node: str, also: int | None, point: str, task: TaskId, epoch: int
) -> None:
    if point == want and at in ("*", str(epoch)) and node in ("", task.node):
        if also is not None:
            os.kill(also, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def _die_with_parent() -> None:
    """Have the kernel kill us when the coordinator dies, even inside a user's C code."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def tune_gc() -> None:
    """Keep the cycle collector away from the record path.

    A full collection visits every entry of the tables; with a million of them it takes longer
    than any pause allowed. Young garbage is still collected, and old now and then.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 1_000)


def _run(main: Coroutine[Any, Any, None]) -> None:
    """On uvloop where it is installed: its sockets cost half as much."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def _main(settings: WorkerSettings, log: JsonLog | None) -> None:
    """Serve the coordinator until it goes away."""
    graph = settings.spec.load().graph()
    if graph.to_dict() != settings.fingerprint:
        raise StateError(
            f"the job file {settings.spec.path} built another graph in a worker than in the "
            "coordinator; it must not depend on time, chance or the environment"
        )
    loop = asyncio.get_running_loop()
    exchange = Exchange(settings.token, settings.worker, limit=settings.config.max_frame_bytes)
    host, port = await exchange.listen()

    def from_thread(message: Any) -> None:
        loop.call_soon_threadsafe(worker.take, message)

    link = ControlLink(
        (settings.host, settings.port), on_message=from_thread, progress=lambda: worker.progress()
    )
    worker = Worker(
        settings,
        graph,
        exchange,
        link.send,
        clock=SystemClock(),
        open_kv=open_rocksdb,
        store=open_store(settings.checkpoints),
        log=log,
    )
    link.send(Hello(settings.token, settings.worker, os.getpid(), host, port))
    link.start()
    await asyncio.Event().wait()


def main() -> None:
    """Entry point of the process."""
    parent = os.getppid()
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the coordinator
    data = sys.stdin.buffer.read()
    settings = decode(data)
    if os.getppid() != parent:
        return  # it died before we asked to be told
    tune_gc()
    log = JsonLog(sys.stderr, SystemClock(), settings.log_as) if settings.log_as else None
    if log is not None:
        log.install()
    try:
        _run(_main(settings, log))
    except StreamlineError as error:
        print(f"streamline: {error}", file=sys.stderr)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()

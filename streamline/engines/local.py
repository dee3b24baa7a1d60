"""LocalEngine: a job on this machine, coordinator here, tasks in worker processes."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamline.clock import SystemClock
from streamline.config import RuntimeConfig
from streamline.coordinator.assignment import workers_needed
from streamline.coordinator.durable import (
    complete_checkpoint,
    discover_partitions,
    load_checkpoint,
    sweep,
)
from streamline.coordinator.job import (
    Deploy,
    Ended,
    EnsureWorkers,
    Instruction,
    JobMachine,
    JobState,
    LoadCheckpoint,
    Say,
    StopTasks,
    Tell,
    WriteManifest,
)
from streamline.coordinator.status import JobStatus
from streamline.engines.pool import ProcessPool
from streamline.errors import InvariantError, StreamlineError
from streamline.graph import JobGraph
from streamline.ids import TaskId
from streamline.io import Sink, Source
from streamline.jobfile import JobSpec
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP
from streamline.plan import make_plan
from streamline.runtime.control import Report
from streamline.runtime.link import (
    DeployTasks,
    DropTasks,
    Progress,
    TaskCommand,
    WorkerSettings,
)
from streamline.runtime.worker import CRASH_VARIABLE, make_probe
from streamline.state.store import open_store

_DISCOVER_EVERY_S = 2.0
STOPPING = (signal.SIGINT, signal.SIGTERM)
"""Signals that stop a job."""


@dataclass(frozen=True)
class LocalSettings:
    """How a job is run on this machine.

    Attributes:
        spec: The job, for the workers.
        graph: The same, built here.
        parallelism: Its default parallelism.
        config: Settings of the run.
        checkpoints: URL of the checkpoint store.
        live: Folder for live state.
    """

    spec: JobSpec
    graph: JobGraph
    parallelism: int
    config: RuntimeConfig
    checkpoints: str
    live: Path


class LocalEngine:
    """Runs one job to its end.

    Args:
        settings: What and how.
        say: Takes a level and what the user should be told.
    """

    def __init__(self, settings: LocalSettings, say: Callable[[str, str], None]) -> None:
        self._settings = settings
        self._say = say
        self._clock = SystemClock()
        self._plan = make_plan(settings.graph, settings.parallelism)
        self._workers = list(range(workers_needed(self._plan)))
        self._machine = JobMachine(
            self._plan,
            settings.config,
            workers=self._workers,
            jitter=random.SystemRandom().random,
            run=secrets.token_hex(4),
        )
        self._store = open_store(settings.checkpoints)
        self._probe = make_probe(os.environ.get(CRASH_VARIABLE, ""))
        self._pool = ProcessPool(
            WorkerSettings(
                worker=-1,
                token=secrets.token_bytes(32),
                host="",
                port=0,
                spec=settings.spec,
                fingerprint=settings.graph.to_dict(),
                config=settings.config,
                directory="",
                checkpoints=settings.checkpoints,
            ),
            settings.live,
            on_ready=self._worker_ready,
            on_lost=self._worker_lost,
            on_message=self._message,
        )
        self._progress: dict[int, Progress] = {}
        self._known_partitions: dict[str, set[str]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._ended: Ended | None = None
        self._stops = 0
        self.status = JobStatus(
            settings.graph.name,
            parallelism=settings.parallelism,
            sources=tuple(n.id for n in settings.graph.nodes if isinstance(n.body, Source)),
            sinks=tuple(n.id for n in settings.graph.nodes if isinstance(n.body, Sink)),
        )

    async def run(self) -> JobStatus:
        """Run the job to its end; the first SIGINT or SIGTERM drains it, the second ends it.

        Returns:
            How it ended.
        """
        loop = asyncio.get_running_loop()
        for number in STOPPING:
            loop.add_signal_handler(number, self.stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # the caller may have blocked them
        await self._pool.open()
        discovering = asyncio.ensure_future(self._discover())
        try:
            self._do(self._machine.start(self._now()))
            while self._ended is None:
                for instruction in self._machine.tick(self._now()):
                    self._carry_out(instruction)
                await self._sleep()
            self._collect()
        finally:
            discovering.cancel()
            for number in STOPPING:
                loop.remove_signal_handler(number)
            await self._pool.close()
            await asyncio.gather(discovering, *self._background, return_exceptions=True)
            await asyncio.to_thread(sweep, self._store)
        self.status.state = self._ended.state
        self.status.reason = self._ended.reason
        self.status.trace = self._ended.trace
        return self.status

    def stop(self) -> None:
        """Drain and end; the second time, end at once."""
        self._stops += 1
        if self._stops == 1:
            self._say("info", "stopping: draining to a last checkpoint (Ctrl-C again ends at once)")
            self._do(self._machine.stop(self._now()))
        else:
            self._do(self._machine.cancel())
        self._wake.set()

    # ------------------------------------------------------------------ facts

    def _now(self) -> int:
        return self._clock.now_ms()

    async def _sleep(self) -> None:
        """Until something happened or the machine wants to be called."""
        due = self._machine.next_tick_ms()
        timeout = None if due is None else max(0.0, (due - self._now()) / 1000)
        try:
            await asyncio.wait_for(self._wake.wait(), timeout)
        except TimeoutError:
            pass
        self._wake.clear()

    def _worker_ready(self, worker: int) -> None:
        self._do(self._machine.on_worker_ready(worker, self._now()))

    def _worker_lost(self, worker: int, how: str) -> None:
        self._do(self._machine.on_worker_lost(worker, how, self._now()))

    def _message(self, worker: int, message: Any) -> None:
        if isinstance(message, Progress):
            if not message.counters:
                return  # it has dropped its tasks; what they had counted still counts
            self._progress[worker] = message
            self._collect()
        else:
            report: Report = message
            try:
                self._do(self._machine.on_report(report, self._now()))
            except InvariantError as error:
                self._ended = Ended(JobState.FAILED, f"the coordinator failed: {error}")
                self._wake.set()

    def _collect(self) -> None:
        """Sum up what the workers have counted."""
        status, machine = self.status, self._machine
        status.state, status.generation = machine.state, machine.generation
        status.restarts, status.checkpoint = machine.restarts, machine.checkpoints.completed
        counters: dict[str, dict[str, int]] = {}
        watermarks: list[int] = []
        for progress in self._progress.values():
            if progress.generation != machine.generation:
                continue
            watermarks += progress.watermarks.values()
            for node, counted in progress.counters.items():
                total = counters.setdefault(node, {})
                for name, value in counted.items():
                    total[name] = total.get(name, 0) + value
        if counters:
            status.counters = counters
        known = [w for w in watermarks if MIN_TIMESTAMP < w < MAX_TIMESTAMP]
        status.watermark = min(known, default=status.watermark)

    # ------------------------------------------------------------------ instructions

    def _do(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            self._carry_out(instruction)
        self._wake.set()

    def _carry_out(self, instruction: Instruction) -> None:
        if isinstance(instruction, EnsureWorkers):
            self._pool.ensure(self._workers)
        elif isinstance(instruction, LoadCheckpoint):
            self._spawn(self._load(instruction.generation))
        elif isinstance(instruction, Deploy):
            self._pool.send(
                instruction.worker,
                DeployTasks(
                    generation=instruction.generation,
                    parallelism=self._settings.parallelism,
                    run=instruction.run,
                    tasks=instruction.tasks,
                    placement=instruction.placement,
                    peers=dict(self._pool.addresses),
                ),
            )
        elif isinstance(instruction, StopTasks):
            for worker in self._workers:
                self._pool.send(worker, DropTasks(instruction.generation))
        elif isinstance(instruction, Tell):
            self._pool.send(instruction.worker, TaskCommand(instruction.task, instruction.command))
        elif isinstance(instruction, WriteManifest):
            self._spawn(self._write(instruction))
        elif isinstance(instruction, Say):
            self._say(instruction.level, instruction.text)
        else:
            self._ended = instruction

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._spawned)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            self._do(self._machine.fail(f"the coordinator failed by {error!r}"))

    async def _load(self, generation: int) -> None:
        try:
            loaded = await asyncio.to_thread(load_checkpoint, self._store, self._settings.graph)
            await discover_partitions(loaded, self._settings.graph)
        except (StreamlineError, OSError) as error:
            self._do(self._machine.on_load_failed(generation, str(error), self._now()))
            return
        for problem in loaded.problems:
            self._say("warning", problem)
        for node, partitions in loaded.partitions.items():
            self._known_partitions.setdefault(node, set()).update(partitions)
        self._do(
            self._machine.on_loaded(generation, loaded.manifest, loaded.partitions, self._now())
        )

    async def _write(self, instruction: WriteManifest) -> None:
        manifest = instruction.manifest
        coordinator = TaskId(self._plan.stages[0].id, -1)
        self._probe("manifest", coordinator, manifest.epoch)
        retained = self._settings.config.retained_checkpoints
        error = await asyncio.to_thread(complete_checkpoint, self._store, manifest, retained)
        self._probe("completed", coordinator, manifest.epoch)
        self._do(self._machine.on_manifest(manifest.epoch, error, manifest.size_bytes, self._now()))

    async def _discover(self) -> None:
        """Look for new partitions of sources that do not end."""
        sources = [
            node
            for node in self._settings.graph.nodes
            if isinstance(node.body, Source) and not node.body.bounded
        ]
        while sources:
            await asyncio.sleep(_DISCOVER_EVERY_S)
            for node in sources:
                known = self._known_partitions.get(node.id)
                if known is None or not isinstance(node.body, Source):
                    continue
                try:
                    found = await node.body.discover()
                except (StreamlineError, OSError) as error:
                    self._say("warning", f"source {node.id!r}: {error}")
                    continue
                new = [partition for partition in found if partition not in known]
                if new and self._machine.state == "running":
                    known.update(new)
                    self._do(self._machine.on_partitions(node.id, new))

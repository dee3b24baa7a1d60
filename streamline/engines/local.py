"""LocalEngine: a job on this machine, coordinator here, tasks in worker processes.

It carries out the machine's instructions: workers are made and told what to run, checkpoints
loaded and completed, savepoints copied; what comes of it goes back to the machine as facts. How
processes are started and watched stands in ``pool``. Records never come through here.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streamline.clock import Clock, SystemClock
from streamline.config import RuntimeConfig
from streamline.coordinator.assignment import workers_needed
from streamline.coordinator.durable import (
    NotLoaded,
    complete_checkpoint,
    discover_new,
    load,
    sweep,
)
from streamline.coordinator.instructions import (
    Deploy,
    Ended,
    EnsureWorkers,
    Failure,
    Instruction,
    LoadCheckpoint,
    Say,
    StopTasks,
    Tell,
    WriteManifest,
)
from streamline.coordinator.job import JobMachine
from streamline.coordinator.lifecycle import JobState
from streamline.coordinator.status import JobStatus, WorkerState
from streamline.engines.pool import MakePool, ProcessPool
from streamline.engines.restarted import Restarted
from streamline.errors import (
    CheckpointError,
    InvariantError,
    StateError,
    StreamlineError,
)
from streamline.graph import JobGraph
from streamline.ids import TaskId
from streamline.io import Sink, Source
from streamline.jobfile import JobSpec
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP
from streamline.plan import ExecutionPlan, make_plan, with_parallelism
from streamline.runtime.control import Report
from streamline.runtime.link import (
    DeployTasks,
    DropTasks,
    Progress,
    TaskCommand,
    WorkerSettings,
)
from streamline.runtime.worker import CRASH_VARIABLE, make_probe
from streamline.state.manifest import Manifest
from streamline.state.savepoint import check_empty, export_checkpoint
from streamline.state.store import CheckpointStore, open_store

_DISCOVER_EVERY_S = 2.0
_ALL = 1 << 30
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
        nodes: Parallelism of single nodes, where it is not as the job says.
        log_as: What workers print becomes JSON lines of a job of this name; empty leaves it.
    """

    spec: JobSpec
    graph: JobGraph
    parallelism: int
    config: RuntimeConfig
    checkpoints: str
    live: Path
    nodes: Mapping[str, int] = field(default_factory=dict)
    log_as: str = ""


@dataclass
class _Savepoint:
    """One that was asked for.

    Attributes:
        target: Where it is to be copied.
        behind: A checkpoint behind this epoch will do.
        done: Its manifest, in the end.
    """

    target: str
    behind: int
    done: asyncio.Future[Manifest]
    copying: bool = False


@dataclass
class _Rescaling:
    """A change of parallelism under way.

    Attributes:
        wanted, before: Default parallelism and that of single nodes.
        done: Set once all tasks run again.
        switched: What ran before has been drained.
        reason: Why it goes back to what was before.
    """

    wanted: tuple[int, dict[str, int]]
    before: tuple[int, dict[str, int]]
    done: asyncio.Future[None]
    switched: bool = False
    reason: str = ""


class LocalEngine:
    """Runs one job to its end.

    Args:
        settings: What and how.
        say: Takes a level and what the user should be told.
        clock: The time.
        jitter: Gives a number from 0 to 1, for pauses.
        make_pool: Makes the workers; processes on this machine if not given.
        run: A name that no other run ever has; one by chance if not given.
        store: The checkpoint store, if it is not to be opened by its URL.

    Attributes:
        on_failure: Told of each failure, also of those that another attempt follows.
    """

    def __init__(
        self,
        settings: LocalSettings,
        say: Callable[[str, str], None],
        *,
        clock: Clock | None = None,
        jitter: Callable[[], float] | None = None,
        make_pool: MakePool = ProcessPool,
        run: str = "",
        store: CheckpointStore | None = None,
    ) -> None:
        self.on_failure: Callable[[Failure], None] = lambda failure: None
        self._settings = settings
        self._say = say
        self._clock = clock or SystemClock()
        self._jitter = jitter or random.SystemRandom().random
        self._run = run or secrets.token_hex(4)
        self._parallelism, self._nodes = settings.parallelism, dict(settings.nodes)
        self._plan = self._make_plan()
        self._workers = list(range(workers_needed(self._plan)))
        self._machine = self._make_machine(0)
        self._store = store or open_store(settings.checkpoints)
        self._probe = make_probe(os.environ.get(CRASH_VARIABLE, ""))
        self._pool = make_pool(
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
                log_as=settings.log_as,
            ),
            settings.live,
            on_ready=self._worker_ready,
            on_lost=self._worker_lost,
            on_message=self._message,
        )
        self._progress: dict[int, Progress] = {}
        self._known_partitions: dict[str, set[str]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._loading: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._runs = asyncio.Event()
        self._ended: Ended | None = None
        self._stops = 0
        self._earlier_restarts = 0
        self._rescaling: _Rescaling | None = None
        self._restarted: Restarted | None = None
        self._savepoints: list[_Savepoint] = []
        self.status = JobStatus(
            settings.graph.name,
            parallelism=settings.parallelism,
            sources=tuple(n.id for n in settings.graph.nodes if isinstance(n.body, Source)),
            sinks=tuple(n.id for n in settings.graph.nodes if isinstance(n.body, Sink)),
        )

    def _make_plan(self) -> ExecutionPlan:
        graph = with_parallelism(self._settings.graph, self._nodes)
        return make_plan(graph, self._parallelism)

    def _make_machine(self, generation: int) -> JobMachine:
        return JobMachine(
            self._plan,
            self._settings.config,
            workers=self._workers,
            jitter=self._jitter,
            run=self._run,
            generation=generation,
        )

    async def run(self) -> JobStatus:
        """Run the job to its end; the first SIGINT or SIGTERM drains it, the second ends it.

        Returns:
            How it ended.
        """
        loop = asyncio.get_running_loop()
        for number in STOPPING:
            loop.add_signal_handler(number, self.interrupt)
        await self._pool.open()
        discovering = asyncio.ensure_future(self._discover())
        try:
            self._do(self._machine.start(self._now()))
            while self._ended is None:
                for instruction in self._machine.tick(self._now()):
                    self._carry_out(instruction)
                if self._machine.state == JobState.RUNNING:
                    self._runs.set()
                await self._sleep()
            self._collect()
        finally:
            discovering.cancel()
            if self._loading is not None:
                self._loading.cancel()  # it may be waiting for a source that is away
            await self._pool.close()
            await asyncio.gather(discovering, *self._background, return_exceptions=True)
            await asyncio.to_thread(sweep, self._store)
            self._give_up_waiting()
            for number in STOPPING:
                loop.remove_signal_handler(number)
        self.status.state = self._ended.state
        self.status.reason = self._ended.reason
        self.status.trace = self._ended.trace
        return self.status

    @property
    def parallelism(self) -> int:
        """The default parallelism at which it runs."""
        return self._parallelism

    @property
    def nodes(self) -> dict[str, int]:
        """Nodes that run at another parallelism than the job says."""
        return dict(self._nodes)

    def interrupt(self) -> None:
        """Drain and end; the second time, end at once."""
        if not self._stops:
            self._say("info", "stopping: draining to a last checkpoint (Ctrl-C again ends at once)")
            self.drain()
        else:
            self.cancel()

    def drain(self) -> None:
        """Drain to a last checkpoint, and end."""
        self._stops += 1
        self._do(self._machine.stop(self._now()))

    def cancel(self) -> None:
        """End at once."""
        self._stops += 1
        self._do(self._machine.cancel())

    async def until_running(self) -> None:
        """Return when the job runs, or has ended."""
        while self._ended is None and self._machine.state != JobState.RUNNING:
            self._runs.clear()
            await self._runs.wait()

    # ------------------------------------------------------------------ verbs of a running job

    async def savepoint(self, target: str) -> Manifest:
        """Take a checkpoint and copy it to a place of its own.

        Args:
            target: Folder or URL; it must not hold checkpoints yet.

        Raises:
            UsageError: If it does.
            StateError: If the job ends first.
            CheckpointError: If it cannot be written.
        """
        check_empty(target)
        if self._ended is not None:
            raise self._too_late()
        waiting = _Savepoint(target, self._machine.last_epoch, asyncio.Future())
        self._savepoints.append(waiting)
        self._machine.checkpoint_now()
        self._wake.set()
        return await waiting.done

    async def rescale(self, parallelism: int | None, nodes: Mapping[str, int]) -> Restarted:
        """Go on at another parallelism: drain, restore what was drained, run.

        Worker processes are kept, and only missing ones started. If the job cannot run like
        that, it goes back to how it ran before.

        Args:
            parallelism: The new default; None leaves it.
            nodes: New parallelism of single nodes.

        Returns:
            How long it took until all tasks ran again.

        Raises:
            UsageError: If the graph cannot run like that; nothing is touched then.
            StateError: If the job does not run, or had to go back; says why.
        """
        if self._rescaling is not None:
            raise StateError("the job is being rescaled already")
        if self._machine.state != JobState.RUNNING or self._stops:
            raise StateError(f"only a running job can be rescaled; this one is {self.status.state}")
        before = (self._parallelism, self._nodes)
        wanted = (parallelism or self._parallelism, {**self._nodes, **nodes})
        try:
            self._parallelism, self._nodes = wanted
            self._make_plan()
        finally:
            self._parallelism, self._nodes = before
        rescaling = self._rescaling = _Rescaling(wanted, before, asyncio.Future())
        self.status.state = JobState.RESCALING
        times = self._restarted = Restarted(self._clock.monotonic_s())
        self._do(self._machine.stop(self._now()))
        try:
            await rescaling.done
        finally:
            self._rescaling = None
        return times

    def _switch(self, wanted: tuple[int, dict[str, int]]) -> None:
        """Begin a new machine on what the last one has left."""
        last = self._machine
        self._parallelism, self._nodes = wanted
        self._plan = self._make_plan()
        workers = list(range(workers_needed(self._plan)))
        self._pool.retire(set(self._workers) - set(workers))
        for gone in set(self._workers) - set(workers):
            self._progress.pop(gone, None)
        self._workers = workers
        self._earlier_restarts += last.restarts
        self._machine = self._make_machine(last.generation)
        self._machine.checkpoints.completed = last.checkpoints.completed
        self.status.parallelism = self._parallelism
        instructions = self._machine.start(self._now())
        for worker in self._pool.ready:
            if worker in workers:
                instructions += self._machine.on_worker_ready(worker, self._now())
        self._do(instructions)

    def _over(self, ended: Ended) -> None:
        """A machine has ended; that may be the job's end, or a part of rescaling."""
        rescaling = self._rescaling
        if rescaling is None or self._stops:
            self._ended = ended
        elif not rescaling.switched and ended.state == JobState.STOPPED:
            rescaling.switched = True
            if self._restarted is not None:
                self._restarted.drained = self._clock.monotonic_s()
            self._switch(rescaling.wanted)
        elif rescaling.switched and ended.state == JobState.FAILED and not rescaling.reason:
            rescaling.reason = ended.reason
            self._say("warning", f"going back to parallelism {rescaling.before[0]}: {ended.reason}")
            self._switch(rescaling.before)
        else:
            self._ended = ended

    def _look_at_rescaling(self) -> None:
        """Tell whoever waits once the new machine runs."""
        rescaling = self._rescaling
        if rescaling is None or rescaling.done.done() or not rescaling.switched:
            return
        if self._machine.state == JobState.RUNNING:
            if rescaling.reason:
                back = f"the job went back to how it ran before: {rescaling.reason}"
                rescaling.done.set_exception(StateError(back))
            else:
                rescaling.done.set_result(None)
            self._collect()

    def _look_at_restart(self) -> None:
        """Tell how long it took once the job runs again."""
        times = self._restarted
        if times is not None and times.deployed and self._machine.state == JobState.RUNNING:
            times.running = self._clock.monotonic_s()
            self._restarted = None
            self._say("info", f"running again after {times}")

    def _give_up_waiting(self) -> None:
        """The job is over: whoever waits for something of it is told."""
        self._runs.set()
        waiting: list[asyncio.Future[Any]] = [one.done for one in self._savepoints]
        if self._rescaling is not None:
            waiting.append(self._rescaling.done)
        for one in waiting:
            if not one.done():
                one.set_exception(self._too_late())

    def _too_late(self) -> StateError:
        state = self._ended.state if self._ended is not None else JobState.FAILED
        return StateError(f"the job has ended before that: it is {state}")

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
            if message.reached:
                for told in self._machine.on_reached(message.generation, message.reached):
                    self._carry_out(told)
        else:
            report: Report = message
            try:
                self._do(self._machine.on_report(report, self._now()))
            except InvariantError as error:
                self._ended = Ended(JobState.FAILED, f"the coordinator failed: {error}")
                self._wake.set()
            except Exception as error:  # noqa: BLE001 - else this worker would be read no more
                self._do(self._machine.fail(f"the coordinator failed by {error!r}"))

    def _collect(self) -> None:
        """Sum up what the workers have counted."""
        status, machine = self.status, self._machine
        status.state, status.generation = machine.state, machine.generation
        if self._rescaling is not None and not self._rescaling.done.done():
            status.state = JobState.RESCALING
        status.restarts = self._earlier_restarts + machine.restarts
        status.checkpoint = machine.checkpoints.completed
        status.placement = {str(task): worker for task, worker in machine.placement.items()}
        status.task_states = {str(task): state for task, state in machine.task_states.items()}
        status.workers = self._pool.pids
        status.worker_states = {worker: self._state_of(worker) for worker in self._workers}
        status.refused = self._pool.refused + sum(one.refused for one in self._progress.values())
        counters: dict[str, dict[str, int]] = {}
        watermarks: list[int] = []
        tasks: dict[str, dict[str, int]] = {}
        for progress in self._progress.values():
            if progress.generation != machine.generation:
                continue
            watermarks += progress.watermarks.values()
            tasks.update(
                {
                    task: {**counted, "watermark": progress.watermarks[task]}
                    for task, counted in progress.tasks.items()
                }
            )
            for node, counted in progress.counters.items():
                total = counters.setdefault(node, {})
                for name, value in counted.items():
                    total[name] = total.get(name, 0) + value
        if counters:
            status.counters, status.tasks = counters, tasks
        known = [w for w in watermarks if MIN_TIMESTAMP < w < MAX_TIMESTAMP]
        status.watermark = min(known, default=status.watermark)

    def _state_of(self, worker: int) -> WorkerState:
        if worker in self._pool.ready:
            return WorkerState.RUNNING
        return WorkerState.STARTING if worker in self._pool.pids else WorkerState.LOST

    # ------------------------------------------------------------------ instructions

    def _do(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            self._carry_out(instruction)
        self._look_at_restart()
        self._look_at_rescaling()
        self._collect()
        self._wake.set()

    def _carry_out(self, instruction: Instruction) -> None:
        if isinstance(instruction, EnsureWorkers):
            self._pool.ensure(self._workers)
        elif isinstance(instruction, LoadCheckpoint):
            if self._restarted is not None:
                self._restarted.loading = self._clock.monotonic_s()
            self._loading = self._spawn(self._load(instruction.generation))
        elif isinstance(instruction, Deploy):
            if self._restarted is not None:
                self._restarted.deployed = self._clock.monotonic_s()
            self._pool.send(
                instruction.worker,
                DeployTasks(
                    generation=instruction.generation,
                    parallelism=self._parallelism,
                    nodes=self._nodes,
                    run=instruction.run,
                    tasks=instruction.tasks,
                    placement=instruction.placement,
                    peers=dict(self._pool.addresses),
                    whole_run=instruction.whole_run,
                    took_over=instruction.took_over,
                ),
            )
        elif isinstance(instruction, StopTasks):
            if self._machine.state == JobState.RECOVERING and self._restarted is None:
                now_s = self._clock.monotonic_s()
                self._restarted = Restarted(now_s, drained=now_s)
            for worker in self._workers:
                self._pool.send(worker, DropTasks(instruction.generation))
        elif isinstance(instruction, Tell):
            self._pool.send(instruction.worker, TaskCommand(instruction.task, instruction.command))
        elif isinstance(instruction, WriteManifest):
            self._spawn(self._write(instruction))
        elif isinstance(instruction, Say):
            if instruction.failure is not None:
                self.on_failure(instruction.failure)
            self._say(instruction.level, instruction.text)
        else:
            if instruction.failure is not None:
                self.on_failure(instruction.failure)
            self._over(instruction)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._spawned)
        return task

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            self._do(self._machine.fail(f"the coordinator failed by {error!r}"))

    async def _load(self, generation: int) -> None:
        loaded = await load(
            self._store,
            self._settings.graph,
            allow_dropped=self._settings.config.allow_dropped_state,
            aside=asyncio.to_thread,
        )
        if isinstance(loaded, NotLoaded):
            self._do(
                self._machine.on_load_failed(
                    generation,
                    loaded.reason,
                    self._now(),
                    outage=loaded.outage,
                    goes_on=loaded.goes_on,
                )
            )
            return
        for problem in loaded.problems:
            self._say("warning", problem)
        for note in loaded.notes:
            self._say("info", note)
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
        if self._savepoints:
            retained = _ALL  # what is being copied must stay
        error = await asyncio.to_thread(complete_checkpoint, self._store, manifest, retained)
        self._probe("completed", coordinator, manifest.epoch)
        if error is None:
            for waiting in [one for one in self._savepoints if not one.copying]:
                if manifest.epoch > waiting.behind:
                    waiting.copying = True
                    self._spawn(self._copy(waiting, manifest))
        self._do(self._machine.on_manifest(manifest.epoch, error, manifest.size_bytes, self._now()))

    async def _copy(self, waiting: _Savepoint, manifest: Manifest) -> None:
        try:
            copied = await asyncio.to_thread(
                export_checkpoint,
                self._store,
                manifest,
                waiting.target,
                scratch=self._settings.live,
            )
            if not waiting.done.done():
                waiting.done.set_result(copied)
        except Exception as error:  # noqa: BLE001 - a store has errors of its own; the job goes on
            if not waiting.done.done():
                told = (
                    error
                    if isinstance(error, StreamlineError)
                    else CheckpointError(
                        f"the savepoint cannot be written to {waiting.target}: {error}"
                    )
                )
                waiting.done.set_exception(told)
        finally:
            self._savepoints.remove(waiting)

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
                new, problem = await discover_new(node.body, known)
                if problem is not None:
                    self._say("warning", f"source {node.id!r}: {problem}")
                if new and self._machine.state == "running":
                    known.update(new)
                    self._do(self._machine.on_partitions(node.id, new))

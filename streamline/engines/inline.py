"""InlineEngine: a whole job in one thread, step by step: for tests, notebooks and simulation.

Coordinator, workers and tasks are the real ones; only processes, sockets and time are not.
With a ManualClock and a seed a run is the same every time, whatever goes wrong in it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from streamline.clock import Clock, ManualClock, SystemClock
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
    Instruction,
    LoadCheckpoint,
    Say,
    StopTasks,
    Tell,
    WriteManifest,
)
from streamline.coordinator.job import JobMachine
from streamline.coordinator.lifecycle import JobState
from streamline.coordinator.status import JobStatus
from streamline.errors import InvariantError, StreamlineError
from streamline.graph import JobGraph
from streamline.ids import ChannelId, NodeId, TaskId
from streamline.io import Counters, Sink, Source
from streamline.plan import make_plan
from streamline.runtime.channel import Receiver, Sender, local_channel
from streamline.runtime.control import AssignPartitions, Command, Finished, Report, TaskRestore
from streamline.runtime.credits import Credits
from streamline.runtime.deploy import RemoteEnds, build_tasks
from streamline.runtime.drive import failure
from streamline.runtime.keyed_state import StateServices
from streamline.runtime.task import Task, TaskServices, Wait
from streamline.state.manifest import StateFile
from streamline.state.restore import OpenStore
from streamline.state.store import CheckpointStore

_SOURCE_POLL_MS = 10
_DISCOVER_EVERY_MS = 2_000
_STUCK_MS = 3_600_000
_PACE_EVERY_MS = 100
_T = TypeVar("_T")


class WorkerKilled(BaseException):
    """Raised by a probe to kill the worker that reached it, as kill -9 would."""


class CoordinatorKilled(BaseException):
    """Raised by a probe to kill the whole engine, as kill -9 of the process tree would."""


@dataclass
class Faults:
    """What goes wrong in a simulated run; decided by a seeded generator.

    Attributes:
        rng: Chooses the order of steps and the faults.
        drop: Part of the control messages that are lost.
        delay_ms: Longest delay of a control message.
        kill: Chance, at each step, that a worker is killed.
        kills: At most so many workers are killed in all.
        step_ms: Longest time that a step takes.

    >>> import random
    >>> import streamline as sl
    >>> from streamline.testing import CollectingSink, Faults, Pause, ScriptedSource, run_job
    >>> job, sink = sl.Job("copy"), CollectingSink()
    >>> script = [1, Pause("2s"), 2, Pause("2s"), 3]
    >>> job.source("in", ScriptedSource(script)).sink("out", sink)
    >>> status = run_job(job, faults=Faults(random.Random(7), kill=0.05, kills=2, drop=0.1))
    >>> status.restarts, sink.records
    (2, [1, 2, 3])
    """

    rng: random.Random
    drop: float = 0.0
    delay_ms: int = 0
    kill: float = 0.0
    kills: int = 0
    step_ms: int = 2


Probe = Callable[[str, TaskId, int], None]


async def _at_once(work: Callable[[], _T]) -> _T:
    return work()


def _no_probe(point: str, task: TaskId, epoch: int) -> None:
    pass


@dataclass
class _Running:
    """A task, and when it wants to be called."""

    task: Task
    restore: TaskRestore | None
    awake: bool = True
    until_ms: int | None = None


@dataclass
class _Mail:
    """Control messages of one worker in one direction, in order."""

    queue: deque[tuple[int, Callable[[], None]]] = field(default_factory=deque)


class InlineEngine:
    """Runs a job in the calling thread.

    Args:
        graph: The job.
        parallelism: Its default parallelism.
        config: Settings of the run.
        store: Where checkpoints go.
        open_kv: Opens the key-value store of a task's state.
        directory: A folder for live state.
        clock: The time; with a ManualClock it jumps to whatever is due next.
        faults: What goes wrong; None for nothing.
        probe: Called at the points where a crash is worth a test; may raise WorkerKilled.
        run: Names this run for sinks.
        say: Takes what the user should be told.
    """

    def __init__(
        self,
        graph: JobGraph,
        *,
        store: CheckpointStore,
        open_kv: OpenStore,
        directory: Path,
        parallelism: int = 1,
        config: RuntimeConfig | None = None,
        clock: Clock | None = None,
        faults: Faults | None = None,
        probe: Probe = _no_probe,
        run: str = "0",
        say: Callable[[str, str], None] = lambda level, text: None,
    ) -> None:
        self._graph = graph
        self._config = config or RuntimeConfig()
        self._plan = make_plan(graph, parallelism)
        self._store = store
        self._open_kv = open_kv
        self._directory = directory
        self._clock: Clock = clock or SystemClock()
        self._faults = faults
        self._probe = probe
        self._say = say
        self._rng = faults.rng if faults else random.Random(0)
        self._workers = list(range(workers_needed(self._plan)))
        self._machine = JobMachine(
            self._plan, self._config, workers=self._workers, jitter=self._rng.random, run=run
        )
        self._alive: set[int] = set()
        self._kills = 0
        self._tasks: dict[int, dict[TaskId, _Running]] = {}
        self._last_words: dict[TaskId, Report] = {}
        self._generation_of: dict[int, int] = {}
        self._channels: dict[tuple[int, ChannelId], tuple[Sender, Receiver]] = {}
        self._down = {worker: _Mail() for worker in self._workers}
        self._up = {worker: _Mail() for worker in self._workers}
        self._aside: dict[int, list[Callable[[], None]]] = {w: [] for w in self._workers}
        self._growing = [
            n for n in graph.nodes if isinstance(n.body, Source) and not n.body.bounded
        ]
        self._known_partitions: dict[NodeId, set[str]] = {}
        self._discover_at_ms = self._pace_at_ms = 0
        self._loop = asyncio.new_event_loop()
        self._turn = 0
        self._ended: Ended | None = None
        self._counted: dict[tuple[int, TaskId], dict[NodeId, Counters]] = {}
        self._steps = 0
        self._stop_at: int | None = None
        self._interrupts = self._obeyed = 0
        self.status = JobStatus(
            graph.name,
            parallelism=parallelism,
            sources=tuple(n.id for n in graph.nodes if isinstance(n.body, Source)),
            sinks=tuple(n.id for n in graph.nodes if isinstance(n.body, Sink)),
        )

    # ------------------------------------------------------------------ running

    def run(self, max_steps: int | None = None) -> JobStatus:
        """Run to the end.

        Args:
            max_steps: Refuse to go on after so many steps.

        Raises:
            InvariantError: If nothing can happen any more, or the steps are used up.
        """
        try:
            self._do(self._machine.start(self._clock.now_ms()))
            while self._ended is None:
                self.step()
                if self._steps == self._stop_at:
                    self.stop()
                if self._interrupts > self._obeyed:
                    self._obey_interrupt()
                if max_steps is not None and self._steps > max_steps:
                    raise InvariantError(
                        f"job {self._graph.name!r} has not ended by {max_steps} steps"
                    )
            sweep(self._store)
            return self._finish()
        finally:
            self.close()

    def stop(self) -> None:
        """Drain, checkpoint and end; ``run`` or ``step`` carry it out."""
        self._do(self._machine.stop(self._clock.now_ms()))

    def interrupt(self) -> None:
        """Drain and end; the second time, end at once. May be called by a signal handler."""
        self._interrupts += 1

    def stop_after(self, steps: int) -> None:
        """Have ``run`` call :meth:`stop` after so many steps."""
        self._stop_at = steps

    def _obey_interrupt(self) -> None:
        self._obeyed = self._interrupts
        if self._obeyed == 1:
            self._say("info", "stopping: draining to a last checkpoint (Ctrl-C again ends at once)")
            self.stop()
        else:
            self._do(self._machine.cancel())

    def close(self) -> None:
        """Let go of everything."""
        for worker in self._workers:
            self._drop(worker)
        if not self._loop.is_closed():
            self._loop.close()

    def step(self) -> None:
        """Let one thing happen."""
        self._steps += 1
        if self._faults is not None and isinstance(self._clock, ManualClock):
            self._clock.advance(self._rng.randint(0, self._faults.step_ms))
        now = self._clock.now_ms()
        due = self._machine.next_tick_ms()
        if due is not None and due <= now:
            self._do(self._machine.tick(now))
            return
        if self._growing and now >= self._discover_at_ms:
            self._discover(now)
            return
        if now >= self._pace_at_ms:
            self._keep_pace(now)
        self._maybe_kill()
        actions = self._actions(now)
        if not actions:
            self._wait(now)
            return
        if self._faults is not None:
            action = self._rng.choice(actions)
        else:
            action = actions[self._turn % len(actions)]
            self._turn += 1
        action()

    def _keep_pace(self, now: int) -> None:
        """Tell the tasks of a source how far the others are."""
        self._pace_at_ms = now + _PACE_EVERY_MS
        for worker, tasks in self._tasks.items():
            reached = {
                running.task.id: at
                for running in tasks.values()
                if (at := running.task.reached) is not None
            }
            if reached:
                self._do(self._machine.on_reached(self._generation_of[worker], reached))

    def _actions(self, now: int) -> list[Callable[[], None]]:
        """All that could happen next."""
        actions: list[Callable[[], None]] = []
        for mail in (*self._up.values(), *self._down.values()):
            if mail.queue and mail.queue[0][0] <= now:
                actions.append(partial(self._open_mail, mail))
        for worker, works in self._aside.items():
            if works:
                actions.append(partial(self._work_aside, worker))
        for worker, tasks in self._tasks.items():
            for running in tasks.values():
                if running.awake or (running.until_ms is not None and running.until_ms <= now):
                    actions.append(partial(self._step_task, worker, running))
        return actions

    def _wait(self, now: int) -> None:
        """Nothing can happen now: move on to when something can."""
        times = [
            mail.queue[0][0] for mail in (*self._up.values(), *self._down.values()) if mail.queue
        ]
        for tasks in self._tasks.values():
            times += [r.until_ms for r in tasks.values() if r.until_ms is not None]
        due = self._machine.next_tick_ms()
        if due is not None:
            times.append(due)
        if not times:
            raise InvariantError(f"job {self._graph.name!r} is stuck: nothing can happen any more")
        if isinstance(self._clock, ManualClock):
            self._clock.advance(max(1, min(times) - now))
        else:
            time.sleep(max(0, min(times) - now) / 1000)

    def _finish(self) -> JobStatus:
        assert self._ended is not None
        self._collect()
        self.status.state = self._ended.state
        self.status.reason = self._ended.reason
        self.status.trace = self._ended.trace
        return self.status

    def _collect(self) -> None:
        """Sum up what the tasks have counted."""
        status, machine = self.status, self._machine
        status.state, status.generation = machine.state, machine.generation
        status.restarts, status.checkpoint = machine.restarts, machine.checkpoints.completed
        for worker, tasks in self._tasks.items():
            generation = self._generation_of[worker]
            for running in tasks.values():
                self._counted[generation, running.task.id] = running.task.counters
        newest = max((generation for generation, _ in self._counted), default=0)
        counters: dict[str, dict[str, int]] = {}
        for place, of_task in list(self._counted.items()):
            if place[0] < newest:
                del self._counted[place]
                continue
            for node, counted in of_task.items():
                counted.add_to(counters.setdefault(str(node), {}))
        if counters:
            status.counters = counters

    # ------------------------------------------------------------------ tasks

    def _step_task(self, worker: int, running: _Running) -> None:
        task = running.task
        running.awake, running.until_ms = False, None
        try:
            if running.restore is not None:
                restore, running.restore = running.restore, None
                self._await(task.start(restore))
                running.awake = True
                return
            step = task.step()
            if step.work is not None:
                self._await(step.work)
            if step.wait is Wait.END:
                self._end(worker, task, Finished(self._generation_of[worker], task.id))
            elif step.wait in (Wait.NOTHING, Wait.WORK):
                running.awake = True
            else:
                running.until_ms = step.until_ms
                if step.wait is Wait.SOURCE:
                    poll = self._clock.now_ms() + _SOURCE_POLL_MS
                    running.until_ms = min(poll, step.until_ms or poll)
        except WorkerKilled:
            self.kill(worker)
        except InvariantError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the task
            self._end(worker, task, failure(self._generation_of[worker], task.id, error))

    def _end(self, worker: int, task: Task, report: Report) -> None:
        self._collect()
        del self._tasks[worker][task.id]
        self._close(task)
        self._last_words[task.id] = report
        self._report(worker, report)

    def _close(self, task: Task) -> None:
        """Close a task that has ended; an error in that is told, but it is not the reason."""
        try:
            self._await(task.close())
        except Exception as error:  # noqa: BLE001 - it has ended already; this is only told
            self._say("warning", f"closing {task.id} failed: {error!r}")

    def _await(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run_until_complete(work)

    def _open_mail(self, mail: _Mail) -> None:
        mail.queue.popleft()[1]()

    def _worker_ready(self, worker: int) -> None:
        self._do(self._machine.on_worker_ready(worker, self._clock.now_ms()))

    def _work_aside(self, worker: int) -> None:
        try:
            self._aside[worker].pop(0)()
        except WorkerKilled:
            self.kill(worker)

    # ------------------------------------------------------------------ workers

    def kill(self, worker: int) -> None:
        """The worker is gone, with all that was not durable."""
        if worker not in self._alive:
            return
        self._alive.discard(worker)
        self._collect()
        self._drop(worker)
        for mail in (self._up[worker], self._down[worker]):
            mail.queue.clear()
        self._do(self._machine.on_worker_lost(worker, "was killed", self._clock.now_ms()))

    def _drop(self, worker: int) -> None:
        """Forget the tasks of a worker; channels to it break."""
        tasks = self._tasks.pop(worker, {})
        self._aside[worker].clear()
        generation = self._generation_of.get(worker, 0)
        for (of, channel), (sender, receiver) in self._channels.items():
            edge = self._plan.edges[channel.edge]
            if of != generation:
                continue
            if TaskId(edge.source, channel.source) in tasks:
                receiver.break_off()
            if TaskId(edge.target, channel.target) in tasks:
                sender.break_off()
        for running in tasks.values():
            self._close(running.task)

    def _maybe_kill(self) -> None:
        faults = self._faults
        if faults is None or self._kills >= faults.kills or not self._alive:
            return
        if self._rng.random() < faults.kill:
            self._kills += 1
            self.kill(self._rng.choice(sorted(self._alive)))

    def _post(self, mail: _Mail, deliver: Callable[[], None], *, lossy: bool) -> None:
        """Send a control message; it may be late or lost, but never overtakes another."""
        faults = self._faults
        due = self._clock.now_ms()
        if faults is not None:
            if lossy and self._rng.random() < faults.drop:
                return
            due += self._rng.randint(0, faults.delay_ms)
        if mail.queue:
            due = max(due, mail.queue[-1][0])
        mail.queue.append((due, deliver))

    def _report(self, worker: int, report: Report) -> None:
        def deliver() -> None:
            self._do(self._machine.on_report(report, self._clock.now_ms()))

        self._post(self._up[worker], deliver, lossy=True)

    def _deliver(self, worker: int, task: TaskId, command: Command) -> None:
        running = self._tasks.get(worker, {}).get(task)
        last = self._last_words.get(task)
        if last is not None and last.generation == command.generation:
            self._report(worker, last)
        elif running is not None:
            running.task.deliver(command)

    # ------------------------------------------------------------------ instructions

    def _do(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            self._carry_out(instruction)

    def _carry_out(self, instruction: Instruction) -> None:
        now = self._clock.now_ms
        if isinstance(instruction, EnsureWorkers):
            for worker in self._workers:
                if worker not in self._alive:
                    self._alive.add(worker)
                    self._up[worker].queue.append((now(), partial(self._worker_ready, worker)))
        elif isinstance(instruction, LoadCheckpoint):
            self._load(instruction.generation)
        elif isinstance(instruction, Deploy):
            worker = instruction.worker
            self._post(self._down[worker], lambda: self._deploy(worker, instruction), lossy=True)
        elif isinstance(instruction, StopTasks):
            self._collect()
            for worker in self._workers:
                self._drop(worker)
        elif isinstance(instruction, Tell):
            told = instruction
            self._post(
                self._down[told.worker],
                lambda: self._deliver(told.worker, told.task, told.command),
                lossy=not isinstance(told.command, AssignPartitions),  # not said again
            )
        elif isinstance(instruction, WriteManifest):
            self._write(instruction)
        elif isinstance(instruction, Say):
            self._say(instruction.level, instruction.text)
        else:
            self._ended = instruction

    def _load(self, generation: int) -> None:
        loaded = self._await(
            load(
                self._store,
                self._graph,
                allow_dropped=self._config.allow_dropped_state,
                aside=_at_once,
            )
        )
        if isinstance(loaded, NotLoaded):
            self._do(
                self._machine.on_load_failed(
                    generation,
                    loaded.reason,
                    self._clock.now_ms(),
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
            self._known_partitions[node] = set(partitions)
        self._discover_at_ms = self._clock.now_ms() + _DISCOVER_EVERY_MS
        self._do(
            self._machine.on_loaded(
                generation, loaded.manifest, loaded.partitions, self._clock.now_ms()
            )
        )

    def _discover(self, now: int) -> None:
        """Look for new partitions of sources that do not end."""
        self._discover_at_ms = now + _DISCOVER_EVERY_MS
        for node in self._growing:
            known = self._known_partitions.get(node.id)
            if known is None or not isinstance(node.body, Source):
                continue
            new, problem = self._loop.run_until_complete(discover_new(node.body, known))
            if problem is not None:
                self._say("warning", f"source {node.id!r}: {problem}")
            if new and self._machine.state == JobState.RUNNING:
                known.update(new)
                self._do(self._machine.on_partitions(node.id, new))

    def _write(self, instruction: WriteManifest) -> None:
        manifest = instruction.manifest
        coordinator = TaskId(self._plan.stages[0].id, -1)
        self._probe("manifest", coordinator, manifest.epoch)
        error = complete_checkpoint(self._store, manifest, self._config.retained_checkpoints)
        self._probe("completed", coordinator, manifest.epoch)
        now = self._clock.now_ms()
        self._do(self._machine.on_manifest(manifest.epoch, error, manifest.size_bytes, now))

    def _deploy(self, worker: int, deploy: Deploy) -> None:
        if worker not in self._alive or deploy.generation < self._generation_of.get(worker, 0):
            return
        if deploy.generation == self._generation_of.get(worker, 0):
            for running in self._tasks.get(worker, {}).values():
                running.task.report_running()
            return
        self._drop(worker)
        self._generation_of[worker] = deploy.generation
        generation = deploy.generation

        def ends(channel: ChannelId, credits: Credits) -> tuple[Sender, Receiver]:
            place = (generation, channel)
            if place not in self._channels:
                self._channels[place] = local_channel(channel, credits)
            return self._channels[place]

        config = self._config
        remote = RemoteEnds(
            sender=lambda channel, credits, task: ends(channel, credits)[0],
            receiver=lambda channel, task: ends(
                channel, Credits(batches=config.channel_batches, size_bytes=config.channel_bytes)
            )[1],
        )
        self._last_words = {
            task: last for task, last in self._last_words.items() if task not in deploy.tasks
        }
        tasks = build_tasks(self._plan, deploy.tasks, self._services(worker, deploy), remote=remote)
        self._tasks[worker] = {
            task_id: self._wakeable(task, deploy.tasks[task_id]) for task_id, task in tasks.items()
        }

    def _wakeable(self, task: Task, restore: TaskRestore) -> _Running:
        running = _Running(task, restore)

        def wake() -> None:
            running.awake = True

        task.wake = wake
        return running

    def _services(self, worker: int, deploy: Deploy) -> TaskServices:
        generation = deploy.generation

        def aside(
            work: Callable[[], list[StateFile]],
            done: Callable[[list[StateFile] | BaseException], None],
        ) -> None:
            def carry_out() -> None:
                try:
                    result: list[StateFile] | BaseException = work()
                except (StreamlineError, OSError) as error:
                    result = error
                done(result)

            self._aside[worker].append(carry_out)

        return TaskServices(
            job=self._graph.name,
            run=deploy.run,
            whole_run=deploy.whole_run,
            took_over=deploy.took_over,
            generation=generation,
            clock=self._clock,
            config=self._config,
            report=lambda report: self._report(worker, report),
            state=StateServices(
                directory=self._directory / f"{generation:06d}" / f"{worker}",
                open_kv=self._open_kv,
                store=self._store,
                aside=aside,
            ),
            probe=self._probe,
        )

"""JobMachine: the life of one job, decided. Facts in, instructions out; pure.

It is told what happened (a worker is ready or lost, a task reported, a manifest was written,
time passed) and answers with what is to be done. It owns no socket, file, clock or thread,
and can be replayed from a list of facts. The driver carries the instructions out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from streamline.config import RuntimeConfig
from streamline.coordinator.assignment import make_restores, place_tasks
from streamline.coordinator.checkpoints import Checkpoints, PendingCheckpoint
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
from streamline.coordinator.lifecycle import ENDED, LEGAL, JobState, TaskState
from streamline.coordinator.pace import Pace
from streamline.coordinator.restart import RestartStrategy
from streamline.errors import InvariantError
from streamline.ids import NodeId, TaskId
from streamline.plan import ExecutionPlan
from streamline.runtime.control import (
    Abort,
    AssignPartitions,
    Command,
    Commit,
    Committed,
    Failed,
    Finished,
    KeepPace,
    Report,
    Running,
    SnapshotDeclined,
    SnapshotTaken,
    SourceEnded,
    TaskRestore,
    Trigger,
)
from streamline.state.manifest import Manifest

_RESEND_MS = 1_000


class JobMachine:
    """Decides about one job.

    Args:
        plan: What runs.
        config: Settings of the run.
        workers: Numbers of the workers it may use.
        jitter: Gives a number from 0 to 1, for the backoff.
        run: A name that no other run ever has.
        generation: Number of the last attempt before, if others have gone before.
    """

    def __init__(
        self,
        plan: ExecutionPlan,
        config: RuntimeConfig,
        *,
        workers: Sequence[int],
        jitter: Callable[[], float],
        run: str = "0",
        generation: int = 0,
    ) -> None:
        self.plan = plan
        self.state = JobState.STARTING
        self.generation = generation
        self.restarts = 0
        self.checkpoints = Checkpoints(
            every_ms=config.checkpoint_every_ms,
            timeout_ms=config.checkpoint_timeout_ms,
            min_pause_ms=config.checkpoint_min_pause_ms,
            tolerable_failures=config.tolerable_checkpoint_failures,
        )
        self._config = config
        self._run = run
        self._took_over = False
        self._lineage = ""
        self._workers = list(workers)
        self._ready: set[int] = set()
        self._restarts = RestartStrategy(
            initial_ms=config.restart_initial_ms,
            max_ms=config.restart_max_ms,
            budget=config.restart_budget,
            window_ms=config.restart_window_ms,
            jitter=jitter,
        )
        self._tasks = plan.tasks()
        self._sources = {task for stage in plan.stages if stage.is_source for task in stage.tasks()}
        self._pace = Pace(stage.tasks() for stage in plan.stages if stage.is_source)
        self._placement: dict[TaskId, int] = {}
        self._restores: dict[TaskId, TaskRestore] = {}
        self._running: set[TaskId] = set()
        self._source_ended: set[TaskId] = set()
        self._finished: set[TaskId] = set()
        self._uncommitted: set[TaskId] = set()
        self._committing: Commit | None = None
        self._loading = False
        self._writing = False
        self._drain_at_ms: int | None = None
        self._restored_epoch = 0
        self._deployed_ms: int | None = None
        self._resume_at_ms: int | None = 0
        self._start_at_ms: int | None = None
        self._resend_at_ms = 0
        self._stop_asked = False
        self._draining: str | None = None
        self._last_failure: str | None = None
        self._partitions: dict[NodeId, int] = {}
        self._story: deque[str] = deque(maxlen=40)
        self._out: list[Instruction] = []

    # ------------------------------------------------------------------ facts

    def start(self, now_ms: int) -> list[Instruction]:
        """Begin, unless it was stopped before."""
        if self.state in ENDED:
            return []
        self._note(f"start at {now_ms}")
        self._resume_at_ms = now_ms
        self._out.append(EnsureWorkers())
        return self._take()

    def on_worker_ready(self, worker: int, now_ms: int) -> list[Instruction]:
        """A worker can take tasks."""
        if self.state in ENDED:
            return []
        self._note(f"worker {worker} ready")
        self._ready.add(worker)
        self._resume(now_ms)
        return self._take()

    def on_worker_lost(self, worker: int, reason: str, now_ms: int) -> list[Instruction]:
        """A worker is gone, with all its tasks."""
        self._note(f"worker {worker} lost: {reason}")
        was_ready = worker in self._ready
        self._ready.discard(worker)
        if self.state in ENDED:
            return []
        if was_ready and self._resume_at_ms is not None:
            # The attempt has failed already, it may be because a task saw the connection go
            # before we saw the worker go: this is the reason then, so it is said too.
            text = f"worker {worker} {reason}"
            self._out.append(Say("warning", text, Failure(self.generation, None, text)))
            self._out.append(EnsureWorkers())
        else:
            # One that dies before it is ready may do so always: it is not started anew at once.
            self._fail_attempt(
                f"worker {worker} {reason}",
                now_ms,
                repeatable=True,
                worker_lost=True,
                start_at_once=was_ready,
            )
        return self._take()

    def on_loaded(
        self,
        generation: int,
        manifest: Manifest | None,
        partitions: Mapping[NodeId, Sequence[str]],
        now_ms: int,
    ) -> list[Instruction]:
        """The checkpoint to go on from is known, and so are the partitions."""
        if generation != self.generation or self.state in ENDED or not self._loading:
            return []
        self._note(f"loaded {manifest.epoch if manifest else None} for generation {generation}")
        self._loading = False
        self._lineage = manifest.lineage if manifest else self._attempt
        self._restored_epoch = manifest.epoch if manifest else 0
        self._restores = make_restores(self.plan, manifest, partitions, lineage=self._lineage)
        self._placement = place_tasks(self.plan, self._workers)
        self._partitions = {
            stage.id: sum(
                len(self._restores[task].positions.get(stage.id, {})) for task in stage.tasks()
            )
            for stage in self.plan.stages
            if stage.is_source
        }
        self.checkpoints.reset(now_ms, manifest.epoch if manifest else 0)
        self._deploy(now_ms)
        return self._take()

    def on_load_failed(
        self,
        generation: int,
        reason: str,
        now_ms: int,
        *,
        outage: bool = False,
        goes_on: bool = False,
    ) -> list[Instruction]:
        """The checkpoint or the sources cannot be read.

        Args:
            generation: The attempt that was to begin.
            reason: Why.
            now_ms: The time.
            outage: It may come right by itself.
            goes_on: There is a checkpoint to go on from: it has run before. A job that never ran
                is told what is wrong, rather than tried again.
        """
        if generation == self.generation and self.state not in ENDED and self._loading:
            self._loading = False
            if self.state == JobState.STARTING and not (outage and goes_on):
                self._end(JobState.FAILED, reason)
            else:
                self._fail_attempt(reason, now_ms, repeatable=True, passing=outage)
        return self._take()

    def on_report(self, report: Report, now_ms: int) -> list[Instruction]:
        """A task has something to say."""
        if report.generation != self.generation or self.state in ENDED:
            return []
        self._note(f"{type(report).__name__} {report.task} {getattr(report, 'epoch', '')}")
        if isinstance(report, Running):
            self._on_running(report.task, now_ms)
        elif isinstance(report, SourceEnded):
            self._source_ended.add(report.task)
            self._maybe_finish(now_ms)
        elif isinstance(report, SnapshotTaken):
            done = self.checkpoints.on_snapshot(report.task, report.snapshot)
            if done is not None:
                self._writing = True
                self._out.append(WriteManifest(self._manifest(done, now_ms)))
        elif isinstance(report, SnapshotDeclined):
            self._abort(report.epoch, f"{report.task} could not take part: {report.reason}", now_ms)
        elif isinstance(report, Committed):
            self._on_committed(report, now_ms)
        elif isinstance(report, Finished):
            self._finished.add(report.task)
            self._uncommitted.discard(report.task)  # it has ended because it has committed
            self._maybe_end()
        else:
            self._on_failed(report, now_ms)
        return self._take()

    def on_manifest(
        self, epoch: int, error: str | None, size_bytes: int, now_ms: int
    ) -> list[Instruction]:
        """A manifest was written and is durable, or could not be."""
        self._writing = False
        if self.state in ENDED:
            return []
        self._note(f"manifest {epoch} {error or 'written'}")
        if error is not None:
            self._abort(epoch, error, now_ms)
            self._resume(now_ms)
            return self._take()
        done = self.checkpoints.complete(epoch, now_ms, size_bytes)
        if done is not None:
            self._last_failure = None
            self._restarts.progressed()
            self._committing = Commit(self.generation, epoch, done.drain)
            self._uncommitted = set(self._tasks)
            self._resend_at_ms = now_ms + _RESEND_MS
            for task in self._tasks:
                self._tell(task, self._committing)
        self._resume(now_ms)
        return self._take()

    def on_partitions(self, node: NodeId, partitions: Sequence[str]) -> list[Instruction]:
        """A running source has partitions that nobody reads yet."""
        if self.state == JobState.RUNNING:
            stage = self.plan.stage(node)
            for partition in partitions:
                index = self._partitions[node] % stage.parallelism
                self._partitions[node] += 1
                command = AssignPartitions(self.generation, node, [partition])
                self._tell(TaskId(node, index), command)
        return self._take()

    def on_reached(self, generation: int, reached: Mapping[TaskId, int]) -> list[Instruction]:
        """Source tasks say how far they are in event time, as they do all the time."""
        if generation == self.generation and self.state in (JobState.RUNNING, JobState.STOPPING):
            for task, others in self._pace.on_reached(reached).items():
                self._tell(task, KeepPace(generation, others))
        return self._take()

    def stop(self, now_ms: int) -> list[Instruction]:
        """Asked to stop: drain, checkpoint, commit, end; the job can go on later."""
        if self.state in (JobState.STARTING, JobState.RECOVERING):
            if self.last_epoch:
                text = "stopped while it recovered: what the sinks had prepared with checkpoint "
                text += f"{self.last_epoch} is committed when the job goes on"
                self._out.append(Say("warning", text))
            self._end(JobState.STOPPED)
        elif self.state == JobState.RUNNING:
            self._stop_asked = True
            self._maybe_finish(now_ms)
        return self._take()

    def checkpoint_now(self) -> None:
        """Asked for a checkpoint beside the periodic ones; call ``tick`` next."""
        self.checkpoints.ask()

    def cancel(self) -> list[Instruction]:
        """Asked to end at once."""
        if self.state not in ENDED:
            self._end(JobState.CANCELED)
        return self._take()

    def fail(self, reason: str) -> list[Instruction]:
        """The coordinator itself cannot go on."""
        if self.state not in ENDED:
            self._end(JobState.FAILED, reason)
        return self._take()

    def tick(self, now_ms: int) -> list[Instruction]:
        """Time has passed."""
        if self.state in ENDED:
            return []
        if self._start_at_ms is not None and now_ms >= self._start_at_ms:
            self._start_at_ms = None
            self._out.append(EnsureWorkers())
        self._resume(now_ms)
        if self.state in (JobState.RUNNING, JobState.STOPPING):
            if self.checkpoints.is_overdue(now_ms):
                assert self.checkpoints.pending is not None
                seconds = self._config.checkpoint_timeout_ms / 1000
                self._abort(
                    self.checkpoints.pending.epoch, f"not complete after {seconds:g} s", now_ms
                )
            self._maybe_finish(now_ms)
            drains = self._draining is not None or self._drain_at_ms is not None
            if not drains and self.checkpoints.is_due(now_ms):
                if self._committing is None:
                    self._trigger(now_ms)
        self._resend(now_ms)
        return self._take()

    def next_tick_ms(self) -> int | None:
        """When ``tick`` is to be called next, if nothing happens before."""
        times: list[int] = []
        waits_for_workers = not self._ready.issuperset(self._workers)
        if self._resume_at_ms is not None and not waits_for_workers and not self._writing:
            times.append(self._resume_at_ms)
        if self._start_at_ms is not None:
            times.append(self._start_at_ms)
        if self._deployed_ms is not None or self._committing is not None:
            times.append(self._resend_at_ms)
        if self._drain_at_ms is not None:
            times.append(self._drain_at_ms)
        due = self.checkpoints.next_due_ms()
        pending = self.checkpoints.pending
        if pending is not None:
            waits = pending.writing
        else:
            drains = self._draining is not None or self._drain_at_ms is not None
            waits = drains or self._committing is not None
        if due is not None and not waits and self.state in (JobState.RUNNING, JobState.STOPPING):
            times.append(due)
        return min(times, default=None)

    # ------------------------------------------------------------------ deploying

    @property
    def _attempt(self) -> str:
        """A name that no other attempt, of whatever run, ever has."""
        return f"{self._run}g{self.generation}"

    def _resume(self, now_ms: int) -> None:
        """Begin the next attempt once its time has come and all workers are there."""
        if self._resume_at_ms is None or now_ms < self._resume_at_ms:
            return
        if not self._ready.issuperset(self._workers):
            return
        if self._writing:
            return  # it may become the checkpoint to go on from, or else it would be one later
        self._resume_at_ms = None
        self.generation += 1
        self._loading = True
        self._out.append(LoadCheckpoint(self.generation))

    def _deploy(self, now_ms: int) -> None:
        self._running.clear()
        self._source_ended.clear()
        self._finished.clear()
        self._uncommitted.clear()
        self._pace.reset()
        self._committing = None
        self._draining = None
        self._deployed_ms = now_ms
        self._resend_at_ms = now_ms + self._config.task_timeout_ms
        self._send_deploys(self._workers)

    def _send_deploys(self, workers: Sequence[int]) -> None:
        for worker in workers:
            tasks = {
                task: self._restores[task]
                for task in self._tasks
                if self._placement[task] == worker
            }
            self._out.append(
                Deploy(
                    self.generation,
                    worker,
                    tasks,
                    self._placement,
                    run=self._attempt,
                    whole_run=self._run,
                    took_over=self._took_over,
                )
            )

    def _on_running(self, task: TaskId, now_ms: int) -> None:
        self._running.add(task)
        if len(self._running) < len(self._tasks) or self._deployed_ms is None:
            return
        self._deployed_ms = None
        self._took_over = True
        self._restores = {}
        self.checkpoints.reset(now_ms, 0)
        if self.state in (JobState.STARTING, JobState.RECOVERING):
            self._move(JobState.RUNNING)
        self._maybe_finish(now_ms)

    # ------------------------------------------------------------------ checkpoints

    def _trigger(self, now_ms: int, *, drain: bool = False) -> None:
        pending = self.checkpoints.begin(now_ms, self._tasks, drain=drain)
        for task in self._tasks:
            if task in self._sources:
                command = Trigger(self.generation, pending.epoch, pending.kind, drain)
                self._tell(task, command)

    def _manifest(self, done: PendingCheckpoint, now_ms: int) -> Manifest:
        return Manifest(
            job=self.plan.job,
            epoch=done.epoch,
            kind=done.kind,
            created_ms=now_ms,
            duration_ms=now_ms - done.started_ms,
            max_parallelism=self.plan.max_parallelism,
            nodes={
                str(node.id): {"kind": node.kind, "parallelism": stage.parallelism}
                for stage in self.plan.stages
                for node in stage.nodes
            },
            tasks=[done.snapshots[task] for task in self._tasks],
            lineage=self._lineage,
        )

    def _abort(self, epoch: int, reason: str, now_ms: int) -> None:
        pending = self.checkpoints.pending
        if pending is None or pending.epoch != epoch:
            return
        going_on = self.checkpoints.abort(epoch, now_ms)
        if pending.drain:
            self._draining = None
            self._drain_at_ms = now_ms + _RESEND_MS
        last = self.last_epoch
        safe = f"the last complete one is {last}" if last else "there is none yet"
        if not going_on:
            self._fail_attempt(
                f"checkpoint {epoch} failed, as did those before it ({reason}); {safe}",
                now_ms,
                repeatable=False,
            )
            return
        self._out.append(
            Say("warning", f"checkpoint {epoch} failed, the job goes on ({reason}); {safe}")
        )
        for task in self._tasks:
            self._tell(task, Abort(self.generation, epoch))

    @property
    def placement(self) -> Mapping[TaskId, int]:
        """Worker of each task of the attempt."""
        return self._placement

    @property
    def task_states(self) -> dict[TaskId, TaskState]:
        """Where each task is that has been placed."""
        return {task: self._state_of(task) for task in self._placement}

    def _state_of(self, task: TaskId) -> TaskState:
        if self.state in ENDED or task in self._finished:
            return TaskState.ENDED
        if self._resume_at_ms is not None or self._loading:
            return TaskState.WAITING
        return TaskState.RUNNING if task in self._running else TaskState.STARTING

    @property
    def last_epoch(self) -> int:
        """The last complete checkpoint; 0 if there is none."""
        done = self.checkpoints.completed
        return done.epoch if done is not None else self._restored_epoch

    def _on_committed(self, report: Committed, now_ms: int) -> None:
        if self._committing is None or report.epoch < self._committing.epoch:
            return
        self._uncommitted.discard(report.task)
        if self._uncommitted:
            return
        if not self._committing.drain:
            self._committing = None
            self._maybe_finish(now_ms)
        else:
            self._maybe_end()

    # ------------------------------------------------------------------ draining

    def _maybe_finish(self, now_ms: int) -> None:
        """Begin the one drain, if there is a reason and nothing else is under way."""
        if self.state not in (JobState.RUNNING, JobState.STOPPING) or self._draining is not None:
            return
        all_ended = self._sources <= self._source_ended
        if not all_ended and not self._stop_asked:
            return
        if self._stop_asked and self.state == JobState.RUNNING:
            self._move(JobState.STOPPING)
        if self._drain_at_ms is not None and now_ms < self._drain_at_ms:
            return  # it has just failed
        self._drain_at_ms = None
        if self.checkpoints.pending is not None or self._committing is not None:
            return
        self._draining = "finish" if all_ended else "stop"
        self._trigger(now_ms, drain=True)

    def _maybe_end(self) -> None:
        committing = self._committing
        if committing is None or not committing.drain or self._uncommitted:
            return
        if len(self._finished) == len(self._tasks):
            state = JobState.FINISHED if self._draining == "finish" else JobState.STOPPED
            self._end(state)

    def _resend(self, now_ms: int) -> None:
        """Repeat what has not been confirmed: messages may be lost with a connection."""
        if now_ms < self._resend_at_ms:
            return
        if self._deployed_ms is not None:
            self._resend_at_ms = now_ms + self._config.task_timeout_ms
            late = {self._placement[task] for task in self._tasks if task not in self._running}
            self._send_deploys(sorted(late))
        elif self._committing is not None:
            self._resend_at_ms = now_ms + _RESEND_MS
            silent = set(self._uncommitted)
            if self._committing.drain:
                silent |= set(self._tasks) - self._finished
            for task in sorted(silent):
                self._tell(task, self._committing)

    # ------------------------------------------------------------------ failure and end

    def _on_failed(self, report: Failed, now_ms: int) -> None:
        if report.fatal:
            self._end(JobState.FAILED, report.reason, report.trace, task=report.task)
            return
        self._fail_attempt(
            report.reason,
            now_ms,
            repeatable=True,
            trace=report.trace,
            task=report.task,
            passing=report.echo or report.outage,
        )

    def _fail_attempt(
        self,
        reason: str,
        now_ms: int,
        *,
        repeatable: bool,
        trace: str = "",
        task: TaskId | None = None,
        worker_lost: bool = False,
        start_at_once: bool = True,
        passing: bool = False,
    ) -> None:
        """The attempt is over: fence it, then try again or give up.

        The same failure twice in a row would come for ever, unless it is a passing one.
        """
        if self._resume_at_ms is not None and not worker_lost:
            return  # between two attempts already
        self._loading = False
        self._deployed_ms = None
        self._committing = None
        self._draining = self._drain_at_ms = None
        self.checkpoints.forget()
        delay_ms = self._restarts.delay_ms(now_ms) if repeatable else None
        if delay_ms is None:
            budget = f" (gave up after {self._restarts.budget})" if repeatable else ""
            self._end(JobState.FAILED, f"{reason}{budget}", trace, task=task)
            return
        if reason == self._last_failure and not passing:
            again = "; it failed the same way twice without a checkpoint in between"
            self._end(JobState.FAILED, reason + again, trace, task=task)
            return
        self._last_failure = None if worker_lost or passing else reason
        if self.state == JobState.STOPPING:
            self._stop_asked = True
        if self.state != JobState.RECOVERING and self.state != JobState.STARTING:
            self._move(JobState.RECOVERING)
        self.restarts += 1
        self._resume_at_ms = now_ms + delay_ms
        last = self.last_epoch
        where = f"from checkpoint {last}" if last else "from where this run began"
        text = f"{reason}; trying again in {delay_ms} ms, {where}"
        failure = Failure(self.generation, task, reason, trace)
        self._out.append(Say("warning", text, failure))
        self._out.append(StopTasks(self.generation))
        if start_at_once:
            self._out.append(EnsureWorkers())
        else:
            self._start_at_ms = self._resume_at_ms

    def _end(
        self, state: JobState, reason: str = "", trace: str = "", *, task: TaskId | None = None
    ) -> None:
        self._move(state)
        self._resume_at_ms = self._start_at_ms = None
        self._loading = False
        self._out.append(StopTasks(self.generation))
        failure = None
        if state == JobState.FAILED:
            failure = Failure(self.generation, task, reason, trace)
        self._out.append(Ended(state, reason, trace, failure))

    def _move(self, state: JobState) -> None:
        if state not in LEGAL.get(self.state, set()):
            story = "; ".join(self._story)
            raise InvariantError(f"a job cannot go from {self.state} to {state}; before: {story}")
        self._note(f"{self.state} -> {state}")
        self.state = state

    def _tell(self, task: TaskId, command: Command) -> None:
        self._out.append(Tell(self._placement[task], task, command))

    def _note(self, event: str) -> None:
        self._story.append(event)

    def _take(self) -> list[Instruction]:
        out, self._out = self._out, []
        return out

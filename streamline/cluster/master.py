"""The process of one job: its coordinator, in a process of its own, with its workers below it.

Started by the daemon as ``python -m streamline.cluster.master FOLDER``, in a session of its own: it
outlives the daemon, and the next one finds it by the files in the folder. When it dies itself, its
workers die with it, and the daemon starts another, which goes on from the last checkpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from streamline.clock import Clock, SystemClock
from streamline.cluster.control import ControlServer, MasterGoneError
from streamline.cluster.files import (
    MOST_OF_ERROR,
    MOST_OF_TRACE,
    Failed,
    JobFolder,
    MasterAddress,
    MasterEnd,
    MasterSettings,
    SavepointClaim,
    add_failure,
    lock,
    read_settings,
    write_json,
)
from streamline.cluster.status import describe
from streamline.config import RuntimeConfig, checks_wanted
from streamline.coordinator.instructions import Failure
from streamline.coordinator.lifecycle import JobState
from streamline.engines.local import LocalEngine, LocalSettings
from streamline.engines.statedir import StateDir
from streamline.errors import CheckpointError, LockedError, StateError, StreamlineError
from streamline.graph import JobGraph
from streamline.jobfile import JobSpec
from streamline.logs import JsonLog
from streamline.plan import make_plan, with_parallelism
from streamline.state.savepoint import check_empty, check_writable, replace_savepoint, saved_epoch

MakeEngine: TypeAlias = Callable[[Callable[[str, str], None]], LocalEngine]


class _Engine(LocalEngine):
    """One that does not end the job by a signal: see ``Master.suspend``."""

    on_signal: Callable[[], None]

    def interrupt(self) -> None:
        self.on_signal()


class Master:
    """Runs one job and takes orders for it.

    Args:
        folder: The job's.
        settings: What is to be run.
        state: Where its checkpoints are.
        make_engine: Gets what takes a level and a sentence for the user; makes the engine.
        clock: The time.
        log: Where it says what happens, if that is to be JSON.

    Attributes:
        refused: How many strangers have come to give orders.
    """

    def __init__(
        self,
        folder: JobFolder,
        settings: MasterSettings,
        state: StateDir,
        *,
        make_engine: MakeEngine,
        clock: Clock,
        log: JsonLog | None = None,
    ) -> None:
        self.refused: Callable[[], int] = lambda: 0
        self._folder = folder
        self._settings = settings
        self._state = state
        self._clock = clock
        self._began_ms = clock.now_ms()
        self._last_error = ""
        self._log = log
        self._suspended = False
        self._ending = False
        self._orders: dict[str, asyncio.Task[dict[str, Any]]] = {}
        self._ended = asyncio.Event()
        self._engine = make_engine(self._say)
        self._engine.on_failure = self._failed

    def suspend(self) -> None:
        """Drain the job to a checkpoint and end this process; the job itself goes on with another.

        That is also what a signal means: it is for the process, or for the machine.
        """
        if not self._suspended:
            self._suspended = True
            self._engine.drain()

    async def run(self) -> None:
        """Run the job to its end, and write down how it ended."""
        status = await self._engine.run()
        self._ended.set()  # from here on no order is taken any more
        # What waits for the end, such as the savepoint of a stop, is part of it.
        answers = await asyncio.gather(*self._orders.values(), return_exceptions=True)
        self._say("info", f"job {status.name!r} {status.state}")
        if not self._goes_on:
            end = MasterEnd(
                state=str(status.state),
                reason=status.reason,
                trace=status.trace,
                status=self._describe(),
                results={
                    order: answer
                    for order, answer in zip(self._orders, answers, strict=True)
                    if isinstance(answer, dict)
                },
                errors={
                    order: str(answer)
                    for order, answer in zip(self._orders, answers, strict=True)
                    if isinstance(answer, StreamlineError)
                    and not isinstance(answer, MasterGoneError)
                },
            )
            write_json(self._folder.end, end)

    @property
    def _goes_on(self) -> bool:
        """The job has not ended, though this process of it does: nobody has ordered that."""
        stopped = self._engine.status.state == JobState.STOPPED
        return self._ended.is_set() and stopped and self._suspended and not self._ending

    def _failed(self, failure: Failure) -> None:
        """Note a failure where whoever asks finds it, whatever becomes of this process."""
        try:
            _note_failure(self._folder, failure, self._clock)
        except OSError as error:  # such as a full disk; the job is not to fail of that
            self._say("warning", f"{self._folder.failures} cannot be written: {error}")

    def _say(self, level: str, text: str) -> None:
        if level != "info":
            self._last_error = text
        if self._log is None:
            say(level, text)
        else:
            self._log.generation = self._engine.status.generation
            self._log.say(level, text)

    def _describe(self) -> dict[str, Any]:
        described = describe(
            self._engine.status,
            now_ms=self._clock.now_ms(),
            began_ms=self._began_ms,
            last_error=self._last_error,
        )
        described["refused"] += self.refused()
        return {"job": self._settings.id} | described

    # ------------------------------------------------------------------ orders

    async def handle(self, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Carry out an order, and say what came of it.

        Raises:
            StreamlineError: If it cannot be done.
        """
        if verb == "status":
            return self._describe()
        if verb == "suspend":
            self.suspend()
            return {}
        # An order is carried out once, however often it is repeated.
        order = arguments.pop("operation")
        task = self._orders.get(order)
        if task is None and self._goes_on:
            raise MasterGoneError("the job goes on in another process")
        if task is None and self._ended.is_set():
            state = str(self._engine.status.state)
            if verb == "cancel":
                return {"state": state}
            raise StateError(f"the job has ended before that: it is {state}")
        if task is None:
            task = asyncio.ensure_future(self._carry_out(order, verb, arguments))
            self._orders[order] = task
        try:
            return await asyncio.shield(task)
        except StreamlineError as error:
            if self._goes_on:  # it failed because of that, and may not with the next process
                raise MasterGoneError("the job goes on in another process") from error
            raise

    async def _carry_out(self, order: str, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if verb == "savepoint":
            return await self._savepoint(order, **arguments)
        if verb == "rescale":
            return await self._rescale(**arguments)
        if verb == "stop":
            return await self._stop(order, **arguments)
        if verb == "cancel":
            self._ending = True
            self._engine.cancel()
            await self._ended.wait()
            return {"state": str(self._engine.status.state)}
        raise StreamlineError(f"the job's process knows no order {verb!r}")

    async def _savepoint(self, order: str, target: str) -> dict[str, Any]:
        await asyncio.to_thread(self._claim, order, target)
        if (done := await asyncio.to_thread(saved_epoch, target)) is not None:
            return {"path": target, "epoch": done}
        manifest = await self._engine.savepoint(target)
        return {"path": target, "epoch": manifest.epoch}

    async def _rescale(self, parallelism: int | None, nodes: dict[str, int]) -> dict[str, Any]:
        await self._engine.until_running()
        times = await self._engine.rescale(parallelism, nodes)
        options = {"parallelism": self._engine.parallelism, "nodes": self._engine.nodes}
        return {**options, "seconds": times.seconds, "parts": times.parts}

    async def _stop(self, order: str, savepoint: str) -> dict[str, Any]:
        if savepoint:
            await asyncio.to_thread(self._claim, order, savepoint)
        if savepoint and not self._state.has_checkpoint:
            await self._engine.until_running()  # it has nothing yet that could be saved
        if self._suspended:
            raise MasterGoneError("the job goes on in another process")
        self._ending = True
        self._engine.drain()
        await self._ended.wait()
        status = self._engine.status
        if status.state not in (JobState.STOPPED, JobState.FINISHED):
            why = f": {status.reason}" if status.reason else ""
            raise StateError(f"the job has ended before that: it is {status.state}{why}")
        result: dict[str, Any] = {"state": str(status.state)}
        if savepoint:
            result |= await asyncio.to_thread(self._export, savepoint)
        return result

    def _claim(self, order: str, target: str) -> None:
        """Refuse a place that holds something, unless it is what this order has left there itself.

        That is written down before anything is left: the order may be repeated to another process.
        """
        claim = self._folder.claim(order)
        if not claim.exists():
            check_empty(target)
            check_writable(target)
            write_json(claim, SavepointClaim(path=target))

    def _export(self, target: str) -> dict[str, Any]:
        """Copy the last checkpoint; what this order has left before, perhaps of an older, goes."""
        store = self._state.store
        manifest, _ = store.latest_usable()
        if manifest is None:
            raise CheckpointError("the job was stopped before it had a checkpoint to be saved")
        replace_savepoint(store, manifest, target, scratch=self._state.root / "scratch")
        return {"path": target, "epoch": manifest.epoch}


def say(level: str, text: str) -> None:
    """A line of the job's log."""
    at = datetime.fromtimestamp(SystemClock().now_ms() / 1000, UTC)
    print(f"{at:%Y-%m-%d %H:%M:%S}Z {level}: {text}", file=sys.stderr, flush=True)


def spec_of(settings: MasterSettings) -> JobSpec:
    """The job as its workers are told of it."""
    spec = JobSpec.from_file(settings.path, settings.params)
    return JobSpec(spec.path, spec.source, settings.expose, dict(settings.params))


def _note_failure(folder: JobFolder, failure: Failure, clock: Clock) -> None:
    task = failure.task
    failed = Failed(
        at_ms=clock.now_ms(),
        generation=failure.generation,
        node=task.node if task is not None else "",
        index=task.index if task is not None else 0,
        error=failure.reason[:MOST_OF_ERROR],
        trace=failure.trace[-MOST_OF_TRACE:],
    )
    add_failure(folder.failures, failed)


def settings_of_engine(settings: MasterSettings, graph: JobGraph, state: StateDir) -> LocalSettings:
    """How the engine is to run a job."""
    return LocalSettings(
        spec_of(settings),
        graph,
        settings.parallelism,
        RuntimeConfig(
            checkpoint_every_ms=settings.checkpoint_every_ms,
            allow_dropped_state=settings.allow_dropped_state,
            worker_memory_bytes=settings.memory_limit_bytes or None,
            check_invariants=checks_wanted(os.environ),
        ),
        state.url,
        state.live,
        dict(settings.nodes),
        settings.id if settings.log_json else "",
    )


async def _serve(
    folder: JobFolder,
    settings: MasterSettings,
    graph: JobGraph,
    *,
    state: StateDir,
    log: JsonLog | None,
) -> None:
    """Run a job, and take orders for it by a socket."""
    given = settings_of_engine(settings, graph, state)

    def make_engine(say: Callable[[str, str], None]) -> LocalEngine:
        engine = _Engine(given, say)
        engine.on_signal = lambda: master.suspend()
        return engine

    master = Master(folder, settings, state, make_engine=make_engine, clock=SystemClock(), log=log)
    server = ControlServer(settings.token, master.handle)
    master.refused = lambda: server.refused
    port = await server.open()
    write_json(folder.address, MasterAddress(pid=os.getpid(), port=port))
    await master.run()
    await server.close()


def _begin(folder: JobFolder, settings: MasterSettings) -> tuple[JobGraph, StateDir]:
    graph = spec_of(settings).load().graph()
    make_plan(with_parallelism(graph, settings.nodes), settings.parallelism)
    state = StateDir(folder.state, graph.name)
    try:
        if settings.origin and not state.has_checkpoint:
            state.begin_from(settings.origin, replace=False)
    except BaseException:
        state.close()
        raise
    return graph, state


def main() -> None:
    """Entry point of the process."""
    folder = JobFolder(Path(sys.argv[1]))
    try:
        held = lock(folder.lock, f"the job in {folder.root}")
    except LockedError:
        return  # it is being run already
    with held, contextlib.suppress(KeyboardInterrupt):
        if folder.end.exists():
            return
        settings = read_settings(folder.settings)
        log = JsonLog(sys.stderr, SystemClock(), settings.id) if settings.log_json else None
        if log is not None:
            log.install()
        try:
            graph, state = _begin(folder, settings)
        except (StreamlineError, OSError) as error:
            (log.say if log is not None else say)("error", str(error))
            trace = getattr(error, "trace", "") or traceback.format_exc()
            _note_failure(folder, Failure(0, None, str(error), trace), SystemClock())
            end = MasterEnd(state="failed", reason=str(error), trace=trace)
            write_json(folder.end, end)
            return
        with closing(state):
            asyncio.run(_serve(folder, settings, graph, state=state, log=log))


if __name__ == "__main__":
    main()

"""Keeper: keeps the process of one job running, and passes on what is asked of the job.

It finds the process if there is one, starts one if there is none, and starts another if it dies.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from streamline.clock import Clock
from streamline.cluster.control import MasterGoneError, OrderFailedError
from streamline.cluster.files import (
    Failed,
    JobFolder,
    MasterEnd,
    MasterSettings,
    add_failure,
    read_end,
    write_json,
)
from streamline.cluster.jobs import JobRecord, Operation
from streamline.cluster.log import LogSettings, cut_log
from streamline.cluster.machine import JobProcess, OrderLine
from streamline.coordinator.lifecycle import JobState
from streamline.errors import StreamlineError

_LOOK_EVERY_S = 0.05
_STATUS_EVERY_S = 0.25
_UP_WITHIN_S = 60.0
_ANSWER_WITHIN_S = 5.0
_CANCEL_WITHIN_S = 5.0
_SILENT_S = 5.0
_CUT_EVERY_S, _CUT_AGAIN_S = 1.0, 3_600.0
_PAUSE_S = 0.1
_TROUBLE_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 10.0
_BUDGET, _WINDOW_S = 10, 600.0
_FINAL = (JobState.FINISHED, JobState.FAILED, JobState.CANCELED)
"""Behind these nothing comes; one that says it is stopped may have been suspended."""


class Keeper:
    """Looks after one job.

    Args:
        job: The job; its options may change.
        folder: Its folder.
        process: Its process.
        log: How its log is kept.
        token: What gives the right to give orders to its process.
        clock: The time.
        on_end: Called when the job has ended; again if it raises.
        say: Told what is wrong, if it is not the job that is.

    Attributes:
        status: What the job's process has said last.
        restarts: How often its process was replaced.
    """

    def __init__(
        self,
        job: JobRecord,
        folder: JobFolder,
        process: JobProcess,
        *,
        log: LogSettings,
        token: str,
        clock: Clock,
        on_end: Callable[[MasterEnd], None],
        say: Callable[[str], None],
    ) -> None:
        self.status: dict[str, Any] = {}
        self.restarts = 0
        self._job = job
        self._folder = folder
        self._token = token
        self._log = log
        self._cut_at_s = 0.0
        self._clock = clock
        self._on_end = on_end
        self._say = say
        self._said = ""
        self._client: OrderLine | None = None
        self._connected = asyncio.Event()
        self._process = process
        self._deaths: deque[float] = deque(maxlen=_BUDGET)
        self._pause_s = _PAUSE_S
        self._leaving = False
        self._forced = asyncio.Event()
        self._ended = asyncio.Event()
        self._running = asyncio.ensure_future(self._run())

    @property
    def state(self) -> str:
        """Where the job is in its life, as far as it is known."""
        state = str(self.status.get("state", "starting"))
        if self._client is None and self.status and state not in _FINAL:
            return "recovering"
        return state

    async def carry_out(self, operation: Operation) -> dict[str, Any]:
        """Have the job's process do something; waits until there is one.

        Args:
            operation: What. It may have been done before, by a process that then died.

        Raises:
            OrderFailedError: If it could not be done, or the job ended first.
        """
        deadline = self._clock.monotonic_s() + _CANCEL_WITHIN_S
        while not self._ended.is_set():
            if operation.verb == "cancel" and self._clock.monotonic_s() > deadline:
                self._forced.set()  # it does not listen, or does not come up
                self._process.kill()
            client = await self._wait_for_client(_LOOK_EVERY_S * 10)
            if client is None:
                continue
            arguments = {**operation.arguments, "operation": operation.id}
            try:
                limit = _CANCEL_WITHIN_S if operation.verb == "cancel" else None
                async with asyncio.timeout(limit):
                    return await client.call(operation.verb, arguments)
            except TimeoutError:
                pass
            except MasterGoneError:
                await asyncio.sleep(_LOOK_EVERY_S)  # the watching part will see it as well
        return outcome(self._folder, operation)

    async def fresh_status(self) -> dict[str, Any]:
        """What the job says now; what it said last if it does not answer."""
        client = self._client
        if client is not None:
            try:
                async with asyncio.timeout(1.0):
                    self.status = await client.call("status")
            except (TimeoutError, MasterGoneError, OrderFailedError):
                pass
        return self.status

    async def until_ended(self, within_s: float) -> None:
        """Return when it is known how the job has ended, or after a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._ended.wait()

    async def suspend(self, within_s: float) -> None:
        """Drain the job to a checkpoint and end its process; the job itself has not ended."""
        self._leaving = True
        client = self._client
        try:
            async with asyncio.timeout(within_s):
                if client is not None:
                    await client.call("suspend")
                    await client.gone.wait()
        except (TimeoutError, MasterGoneError, OrderFailedError):
            pass
        self._process.kill()
        await self.let_go()

    async def let_go(self) -> None:
        """Look after it no more; its process goes on."""
        self._leaving = True
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        if self._client is not None:
            await self._client.close()
            self._client = None

    # ------------------------------------------------------------------ inside

    async def _wait_for_client(self, within_s: float) -> OrderLine | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._connected.wait()
        return self._client

    async def _run(self) -> None:
        while not self._leaving and not self._ended.is_set():
            try:
                await self._look_after()
                self._said = ""
            except (OSError, StreamlineError) as error:
                # Such as a full disk, or no more processes. The job is not to blame.
                await self._trouble(str(error))
            except Exception as error:  # noqa: BLE001 - or else nobody would look after it any more
                await self._trouble(f"the daemon failed by {error!r}")

    async def _trouble(self, what: str) -> None:
        """Say once what is wrong, and wait a little."""
        if what != self._said:
            self._said = what
            self._say(f"job {self._job.id} cannot be looked after: {what}; trying again")
        await self._pause(_TROUBLE_PAUSE_S)

    async def _look_after(self) -> None:
        """Find or start its process and watch it to its end, or see that the job has ended."""
        end = read_end(self._folder.end)
        if end is None and self._forced.is_set() and not self._process.is_run():
            end = MasterEnd(state="canceled", status=self.status)
            write_json(self._folder.end, end)  # one that is just starting will see it
        if end is not None:
            self._finish(end)
            return
        if self._forced.is_set():
            self._process.kill()
            await asyncio.sleep(_LOOK_EVERY_S)
            return
        began_s = self._clock.monotonic_s()
        if await self._connect() or (not self._process.is_run() and await self._start()):
            await self._watch()
        if self._process.is_run():
            await asyncio.sleep(_LOOK_EVERY_S)  # it is busy, or has not come that far yet
        elif read_end(self._folder.end) is None and not self._leaving:
            if not self._may_try_again():
                reason = f"its process ended {_BUDGET} times; see its log"
                end = MasterEnd(state="failed", reason=reason, status=self.status)
                write_json(self._folder.end, end)
                return
            if self._clock.monotonic_s() - began_s > _WINDOW_S:
                self._pause_s = _PAUSE_S
            await self._pause(self._pause_s)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless the job is to be ended at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._forced.wait()

    def _finish(self, end: MasterEnd) -> None:
        self._on_end(end)
        self._ended.set()
        self._connected.clear()
        self._client = None

    async def _connect(self) -> bool:
        """Find the process that runs it, if there is one."""
        client = await self._process.connect()
        if client is None:
            return False
        status: dict[str, Any] = {}
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                status = await client.call("status")
        except TimeoutError:
            self._process.kill(stopped=True)
        except (MasterGoneError, OrderFailedError):
            pass
        if status.get("job") != self._job.id:  # somebody else was given its port since
            await client.close()
            return False
        self.status, self._client = status, client
        self._connected.set()
        return True

    async def _start(self) -> bool:
        """Start a process, and wait until it listens."""
        job, options = self._job, self._job.options
        settings = MasterSettings(
            id=job.id,
            name=job.name,
            token=self._token,
            path=str(self._folder.source / job.file),
            expose=job.expose,
            params=job.params,
            parallelism=options.parallelism,
            nodes=options.nodes,
            checkpoint_every_ms=options.checkpoint_every_ms,
            origin=options.origin,
            allow_dropped_state=options.allow_dropped_state,
            memory_limit_bytes=options.memory_limit_bytes,
            log_json=self._log.as_json,
        )
        if self.status:
            gone = Failed(
                at_ms=self._clock.now_ms(),
                generation=self.status.get("generation", 0),
                node="",
                index=0,
                error="the job's own process ended; see its log",
            )
            add_failure(self._folder.failures, gone)
            self.restarts += 1
        self._process.start(settings)
        deadline = self._clock.monotonic_s() + _UP_WITHIN_S
        while self._clock.monotonic_s() < deadline:
            if await self._connect():
                return True
            if self._process.has_exited() or self._forced.is_set():
                return False
            await asyncio.sleep(_LOOK_EVERY_S)
        self._process.kill()
        return False

    async def _watch(self) -> None:
        """Ask how it goes, until its process is gone."""
        client = self._client
        assert client is not None
        while not client.gone.is_set():
            try:
                async with asyncio.timeout(_STATUS_EVERY_S):
                    await client.gone.wait()
            except TimeoutError:
                await self._cut_log()
                try:
                    async with asyncio.timeout(_SILENT_S):
                        self.status = await client.call("status")
                except TimeoutError:
                    self._process.kill(stopped=True)
                except (MasterGoneError, OrderFailedError):
                    break
        self._client = None
        self._connected.clear()
        await client.close()
        await self._process.reap()

    async def _cut_log(self) -> None:
        """Keep the log from growing for ever; one that cannot be cut is no reason to end."""
        now_s = self._clock.monotonic_s()
        if now_s < self._cut_at_s:
            return
        self._cut_at_s = now_s + _CUT_EVERY_S
        try:
            await asyncio.to_thread(cut_log, self._folder.log, self._log.most_bytes)
        except OSError as error:
            self._cut_at_s = now_s + _CUT_AGAIN_S
            self._say(f"{self._folder.log} cannot be cut to its size: {error}; it grows on")

    def _may_try_again(self) -> bool:
        now_s = self._clock.monotonic_s()
        self._deaths.append(now_s)
        return len(self._deaths) < _BUDGET or now_s - self._deaths[0] > _WINDOW_S


def outcome(folder: JobFolder, operation: Operation) -> dict[str, Any]:
    """What came of something that was asked of a job which has ended since.

    Raises:
        OrderFailedError: If it ended first.
    """
    end = read_end(folder.end)
    state = end.state if end is not None else "canceled"
    if end is not None and operation.id in end.results:
        return end.results[operation.id]
    if end is not None and operation.id in end.errors:
        raise OrderFailedError(end.errors[operation.id])
    if operation.verb == "cancel":
        return {"state": state}
    reason = f": {end.reason}" if end is not None and end.reason else ""
    raise OrderFailedError(f"the job has ended before that: it is {state}{reason}")

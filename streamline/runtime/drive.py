"""Drive a task on an event loop: a few lines of asyncio around ``step``.

It waits for what a step says it waits for, measures how long, and names what ended a task. The
inline engine does without it and steps tasks itself.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from streamline.clock import Clock
from streamline.errors import (
    ChannelBrokenError,
    ChannelClosedError,
    DecodeError,
    EncodeError,
    FencedError,
    OutageError,
    StreamlineError,
    UsageError,
    UserFunctionError,
)
from streamline.ids import TaskId
from streamline.runtime.control import Failed, TaskRestore
from streamline.runtime.task import Task, Wait

_FATAL = (DecodeError, EncodeError, FencedError, UsageError)


async def run_task(task: Task, restore: TaskRestore, clock: Clock) -> None:
    """Start a task and step it to its end.

    Raises:
        Exception: Whatever ended it; the caller closes the task and reports that.
    """
    woken = asyncio.Event()
    task.wake = woken.set
    await task.start(restore)
    while True:
        step = task.step()
        if step.wait is Wait.NOTHING:
            await asyncio.sleep(0)  # sockets and the other tasks have their turn
        elif step.wait is Wait.WORK:
            assert step.work is not None
            await step.work
        elif step.wait is Wait.END:
            return
        else:
            delay_s = None
            if step.until_ms is not None:
                delay_s = max(0, step.until_ms - clock.now_ms()) / 1000
            began_s, blocked = clock.monotonic_s(), task.blocked
            await _wait(task, woken, step.wait, within_s=delay_s)
            waited_s = clock.monotonic_s() - began_s
            if blocked:
                task.backpressured_s += waited_s
            else:
                task.idle_s += waited_s
        woken.clear()


async def _wait(task: Task, woken: asyncio.Event, wait: Wait, *, within_s: float | None) -> None:
    """Until the task is woken, time is up, or its source may have something."""
    if woken.is_set():
        return
    waiting: list[asyncio.Future[Any]] = [asyncio.ensure_future(woken.wait())]
    if wait is Wait.SOURCE and task.reader is not None:
        waiting.append(asyncio.ensure_future(task.reader.wait()))
    try:
        done, _ = await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        for future in done:
            future.result()  # a reader's error is the task's
    finally:
        for future in waiting:
            future.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def failure(generation: int, task: TaskId, error: BaseException) -> Failed:
    """What to report of an error that ended a task.

    Errors of the user's data or settings are fatal: they would come again. So is a newer run of
    the job: to try again would shut that one out.
    """
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, UserFunctionError):
        return Failed(generation, task, str(error), error.trace or trace)
    if isinstance(error, _FATAL):
        return Failed(generation, task, str(error), trace, fatal=True)
    if isinstance(error, ChannelBrokenError | ChannelClosedError):
        reason = f"task {task} lost its connection ({error})"
        return Failed(generation, task, reason, trace, echo=True)
    if isinstance(error, StreamlineError):
        outage = isinstance(error, OutageError)
        return Failed(generation, task, str(error), trace, outage=outage)
    reason = f"task {task} failed by {type(error).__name__}: {error}"
    return Failed(generation, task, reason, trace)

"""ScriptedSource: a source that does what a script says, crashes and pauses among it.

The script is a list: records, and between them what is to happen. The place in it is the
position of the partition, so a restored job goes on where the snapshot was taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from streamline.batch import Batch, RowBatch
from streamline.config import Duration, duration_ms
from streamline.errors import StreamlineError, UsageError
from streamline.io import Position, ReaderContext, Source, SourceReader
from streamline.messages import MIN_TIMESTAMP, Watermark
from streamline.testing.event import Event
from streamline.testing.shared import Shared

T = TypeVar("T")
_WAIT_S = 0.005


class ScriptedCrashError(StreamlineError):
    """The error that a :class:`Crash` raises; the job is restarted as after any other.

    >>> import streamline as sl
    >>> from streamline.testing import CollectingSink, Crash, ScriptedSource, run_job
    >>> job = sl.Job("crashing")
    >>> job.source("in", ScriptedSource([1, Crash("a test")])).sink("out", CollectingSink())
    >>> try:
    ...     _ = run_job(job, config=sl.RuntimeConfig(restart_budget=0))
    ... except Exception as error:
    ...     print("source 'in' crashes at 00000[1]: a test" in str(error))
    True
    """


@dataclass(frozen=True)
class Crash:
    """The task fails when it comes here; once, it then goes past.

    Attributes:
        reason: Text of the error.

    >>> import streamline as sl
    >>> from streamline.testing import CollectingSink, Crash, ScriptedSource, run_job
    >>> job, sink = sl.Job("crashing"), CollectingSink()
    >>> job.source("in", ScriptedSource(["a", Crash(), "b"])).sink("out", sink)
    >>> run_job(job).restarts, sink.records
    (1, ['a', 'b'])
    """

    reason: str = "the script says so"


@dataclass(frozen=True)
class Pause:
    """There is nothing to read for a while.

    Attributes:
        duration: For how long, by the job's clock; at least one ``poll`` brings nothing.

    >>> import streamline as sl
    >>> from streamline.testing import CollectingSink, ManualClock, Pause, ScriptedSource, run_job
    >>> job, sink, clock = sl.Job("pausing"), CollectingSink(), ManualClock()
    >>> job.source("in", ScriptedSource(["a", Pause("2s"), "b"])).sink("out", sink)
    >>> _ = run_job(job, clock=clock)
    >>> sink.records, clock.monotonic_s() >= 2
    (['a', 'b'], True)
    """

    duration: Duration = "0ms"


@dataclass(frozen=True)
class End:
    """The partition ends here; what stands behind is not read.

    >>> import streamline as sl
    >>> from streamline.testing import CollectingSink, End, ScriptedSource, run_job
    >>> job, sink = sl.Job("ending"), CollectingSink()
    >>> job.source("in", ScriptedSource(["a", End(), "b"])).sink("out", sink)
    >>> _ = run_job(job)
    >>> sink.records
    ['a']
    """


ScriptItem: TypeAlias = T | Event[T] | Watermark | Crash | Pause | End


class ScriptedSource(Source[T]):
    """Plays scripts, one to a partition.

    What is in a script: ``Event(value, at)`` is a record with its event time, ``Watermark(at)``
    says that nothing older follows (the stream's is that of the slowest partition), ``Crash()``,
    ``Pause()`` and ``End()`` are what they say, anything else is a record without event time.
    Records side by side are one batch, up to the job's ``batch_rows``.

    A crash happens once to a source, however often the job or the source is copied; in worker
    processes, which build the job themselves, once in each.

    Args:
        scripts: For each partition, its script.
        bounded: Whether the source ends with its scripts; otherwise it falls silent.

    Raises:
        UsageError: For a script that contradicts itself.

    >>> import streamline as sl
    >>> from streamline.testing import CollectingSink, Crash, Event, ScriptedSource, run_job
    >>> job, sink = sl.Job("counts"), CollectingSink()
    >>> script = [Event("a", 1), Event("b", 2), Crash(), Event("a", 3)]
    >>> words = job.source("words", ScriptedSource(script))
    >>> words.key_by(lambda word: word).aggregate(n=sl.Count()).sink("out", sink)
    >>> run_job(job).restarts
    1
    >>> sorted((count.key, count.n) for count in sink.records)
    [('a', 1), ('a', 2), ('b', 1)]
    """

    def __init__(self, *scripts: Sequence[ScriptItem[T]], bounded: bool = True) -> None:
        self.scripts = [list(script) for script in scripts]
        self._bounded = bounded
        self._happened = _Happened()
        records = [item for script in self.scripts for item in script if not _happens(item)]
        timed = [isinstance(item, Event) for item in records]
        if any(timed) and not all(timed):
            bare = records[timed.index(False)]
            raise UsageError(
                f"a script has records with event times and without ({bare!r:.80}); write "
                "Event(value, at) for all of them or for none"
            )
        self.assigns_timestamps = any(timed)
        for script in self.scripts:
            _check(script)

    @property
    def bounded(self) -> bool:
        return self._bounded

    async def discover(self) -> list[str]:
        return [f"{number:05d}" for number in range(len(self.scripts))]

    def reader(self) -> SourceReader[T]:
        return _Reader(self.scripts, self._bounded, self._happened)


class _Happened(Shared):
    """The crashes that have been: partition and place."""

    def __init__(self) -> None:
        super().__init__()
        self.crashes: set[tuple[str, int]] = set()


class _Reader(SourceReader[T]):
    """The position in a script is the number of items gone by; watermarks go at once."""

    def __init__(self, scripts: list[list[Any]], bounded: bool, happened: _Happened) -> None:
        self._scripts = scripts
        self._bounded = bounded
        self._happened = happened
        self._next: dict[str, int] = {}
        self._reached: dict[str, int] = {}
        self._until_ms: dict[str, int] = {}
        self.active: set[str] = set()

    async def open(self, context: ReaderContext) -> None:
        self._context = context

    def assign(self, positions: Mapping[str, Position | None]) -> None:
        for name, position in positions.items():
            start = position or 0
            passed = [item for item in self._scripts[int(name)][:start] if _is_watermark(item)]
            self._reached[name] = passed[-1].timestamp if passed else MIN_TIMESTAMP
            self.active.add(name)
            self._go_to(name, start)

    @property
    def watermark(self) -> int | None:
        reached = min((self._reached[name] for name in self.active), default=MIN_TIMESTAMP)
        return None if reached == MIN_TIMESTAMP else reached

    def poll(self) -> Batch | None:
        for name in sorted(self.active, key=lambda name: (self._next[name], name)):
            if self._ready(name):
                return self._read(name)
        return None

    async def wait(self) -> None:
        await asyncio.sleep(_WAIT_S)

    def snapshot(self) -> dict[str, Position]:
        return dict(self._next)

    async def close(self) -> None:
        pass

    def _ready(self, name: str) -> bool:
        """Let happen what stands before the next record; whether there is one now."""
        script, now = self._scripts[int(name)], self._context.clock.now_ms()
        while name in self.active and self._next[name] < len(script):
            place = self._next[name]
            item = script[place]
            if isinstance(item, Crash):
                if (name, place) not in self._happened.crashes:
                    self._happened.crashes.add((name, place))
                    node = self._context.node
                    raise ScriptedCrashError(
                        f"source {node!r} crashes at {name}[{place}]: {item.reason}"
                    )
            elif isinstance(item, Pause):
                if name not in self._until_ms:
                    self._until_ms[name] = now + duration_ms(item.duration)
                    return False
                if now < self._until_ms[name]:
                    return False
                del self._until_ms[name]
            else:
                return True
            self._go_to(name, place + 1)
            if _is_watermark(script[self._next[name] - 1]):
                return False  # it is told before what stands behind it
        return False

    def _read(self, name: str) -> Batch:
        script, start = self._scripts[int(name)], self._next[name]
        end = start
        most = min(len(script), start + self._context.batch_rows)
        while end < most and not _happens(script[end]):
            end += 1
        part = script[start:end]
        self._go_to(name, end)
        if not isinstance(part[0], Event):
            return RowBatch(part, partition=name)
        times = np.array([event.at for event in part], dtype=np.int64)
        return RowBatch([event.value for event in part], times, partition=name)

    def _go_to(self, name: str, place: int) -> None:
        """Go on to a place, past watermarks, and note the end."""
        script = self._scripts[int(name)]
        while place < len(script) and _is_watermark(script[place]):
            self._reached[name] = script[place].timestamp
            place += 1
        self._next[name] = place
        ended = place >= len(script) and self._bounded
        if ended or (place < len(script) and isinstance(script[place], End)):
            self.active.discard(name)


def _is_watermark(item: object) -> bool:
    return isinstance(item, Watermark)


def _happens(item: object) -> bool:
    return isinstance(item, Watermark | Crash | Pause | End)


def _check(script: Sequence[object]) -> None:
    reached = MIN_TIMESTAMP
    for item in script:
        if isinstance(item, Pause):
            duration_ms(item.duration, "Pause(duration)")
        if isinstance(item, Watermark):
            if item.idle:
                raise UsageError("a script says nothing of idleness; use Pause() and idle_after=")
            if item.timestamp < reached:
                raise UsageError(f"watermark {item.timestamp} stands behind {reached} in a script")
            reached = item.timestamp

"""process: a user's function with state and timers of its own for each key.

It binds declared states and timers to the current key, calls the function for each record and
timer, and says which record was at hand when it raises. How state is stored is the backend's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from streamline.batch import Batch, RowBatch
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP, Watermark
from streamline.operators.base import Operator, OperatorContext, OperatorSpec, Output
from streamline.operators.timers import TIMERS, Timers
from streamline.state.schema import Layout
from streamline.state.views import Scope, StateView
from streamline.user_code import shorten, user_error

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")
U = TypeVar("U")


class ProcessContext(Generic[K]):
    """What a process function knows besides the record; the same object for every call.

    Attributes:
        key: Key of the record, or of the timer.
        timestamp: Event time of the record, or the timer's time; ms since the epoch.
        watermark: Event time reached; ms since the epoch.

    >>> import streamline as sl
    >>> from streamline.testing import Event, OperatorHarness
    >>> class Silent(sl.ProcessFunction[str, dict, str]):
    ...     due = sl.ValueState(int)
    ...     def process(self, value, ctx):
    ...         if (due := self.due.get()) is not None:
    ...             ctx.delete_timer(due)
    ...         self.due.set(ctx.timestamp + 60_000)
    ...         ctx.set_timer(ctx.timestamp + 60_000)
    ...     def on_timer(self, timestamp, ctx):
    ...         yield f"{ctx.key} is silent" + (" at the end" if ctx.input_ended else "")
    >>> harness = OperatorHarness.of(lambda stream: stream.key_by("user").process(Silent()))
    >>> harness.push(Event({"user": "ada"}, 0), Event({"user": "ada"}, 50_000))
    >>> harness.watermark(70_000)
    >>> harness.values()
    []
    >>> harness.watermark(110_000)
    >>> harness.events()
    [Event(value='ada is silent', at=110000)]
    """

    key: K
    timestamp: int
    watermark: int

    def __init__(self, event: Timers, processing: Timers, now_ms: Callable[[], int]) -> None:
        self._event = event
        self._processing = processing
        self._now_ms = now_ms
        self.watermark = MIN_TIMESTAMP

    @property
    def input_ended(self) -> bool:
        """Whether there are no more records: event time is at its end, and all timers ring.

        Those that ``on_timer`` sets then ring too; one that sets another each time has to stop.
        """
        return self.watermark >= MAX_TIMESTAMP

    def now_ms(self) -> int:
        """Processing time: ms since the epoch. See :meth:`set_processing_timer`."""
        return self._now_ms()

    def set_timer(self, at_ms: int) -> None:
        """Have ``on_timer`` called for this key once event time passes ``at_ms``.

        A timer that is due already rings right after the current batch. Setting the same timer
        again changes nothing.
        """
        self._event.set(at_ms, self.key)

    def delete_timer(self, at_ms: int) -> None:
        """Take back a timer."""
        self._event.delete(at_ms, self.key)

    def set_processing_timer(self, at_ms: int) -> None:
        """Have ``on_timer`` called for this key once the clock passes ``at_ms``.

        >>> import streamline as sl
        >>> from streamline.testing import OperatorHarness
        >>> class Later(sl.ProcessFunction[str, str, str]):
        ...     due = sl.ValueState(int, 0)
        ...     def process(self, value, ctx):
        ...         ctx.delete_processing_timer(self.due.get())
        ...         self.due.set(ctx.now_ms() + 5_000)
        ...         ctx.set_processing_timer(self.due.get())
        ...     def on_timer(self, timestamp, ctx):
        ...         yield f"nothing from {ctx.key} for 5 s"
        >>> harness = OperatorHarness.of(lambda words: words.key_by(str.lower).process(Later()))
        >>> harness.push("a")
        >>> harness.advance(3_000)
        >>> harness.push("A")
        >>> harness.advance(3_000)
        >>> harness.values()
        []
        >>> harness.advance(2_000)
        >>> harness.values()
        ['nothing from a for 5 s']
        """
        self._processing.set(at_ms, self.key)

    def delete_processing_timer(self, at_ms: int) -> None:
        """Take back a timer of the clock."""
        self._processing.delete(at_ms, self.key)


class ProcessFunction(Generic[K, T, U]):
    """A function with state and timers; subclass it and declare state as class attributes.

    Other attributes of an object are not stored: set them in ``__init__`` for settings, or in
    ``open`` for what each task makes anew.

    >>> import streamline as sl
    >>> from streamline.testing import Event, OperatorHarness
    >>> class Repeats(sl.ProcessFunction[str, str, str]):
    ...     last = sl.ValueState(str)
    ...     def open(self):
    ...         self.say = "{} said {} again".format
    ...     def process(self, value, ctx):
    ...         if self.last.get() == value:
    ...             yield self.say(ctx.key, value)
    ...         self.last.set(value)
    ...         ctx.set_timer(ctx.timestamp + 1_000)
    ...     def on_timer(self, timestamp, ctx):
    ...         self.last.clear()
    ...     def close(self):
    ...         del self.say
    >>> harness = OperatorHarness.of(lambda words: words.key_by(str.lower).process(Repeats()))
    >>> harness.push(Event("hi", 0), Event("Hi", 10), Event("Hi", 20))
    >>> harness.watermark(1_020)
    >>> harness.push(Event("Hi", 1_030))
    >>> harness.values()
    ['hi said Hi again']
    """

    def open(self) -> None:
        """Called once in each task, before the first record."""

    def process(self, value: T, ctx: ProcessContext[K]) -> Iterable[U] | None:
        """Called for each record; what it yields or returns is handed on at its event time."""
        raise NotImplementedError

    def on_timer(self, timestamp: int, ctx: ProcessContext[K]) -> Iterable[U] | None:
        """Called when a timer rings; results have the timer's time."""
        return None

    def close(self) -> None:
        """Called once in each task, at its end."""


@dataclass(frozen=True)
class ProcessSpec(OperatorSpec):
    """Run a process function."""

    keyed: ClassVar[bool] = True
    function: ProcessFunction[Any, Any, Any]

    def build(self) -> Operator:
        return Process(self.function)

    def layouts(self) -> dict[str, Layout]:
        own = {f"state:{n}": view.layout() for n, view in states_of(self.function).items()}
        return {**own, "event-timers": TIMERS, "processing-timers": TIMERS}


def states_of(function: ProcessFunction[Any, Any, Any]) -> dict[str, StateView]:
    """The states that a function's class declares, by name."""
    found: dict[str, StateView] = {}
    for cls in reversed(type(function).__mro__):
        found.update({n: view for n, view in vars(cls).items() if isinstance(view, StateView)})
    return found


class Process(Operator):
    """Runs a process function for the keys of one task."""

    keyed = True

    def __init__(self, function: ProcessFunction[Any, Any, Any]) -> None:
        self._function = copy(function)
        self._opened = False

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        state = context.state
        assert state is not None
        self._scope = Scope()
        for name, view in states_of(self._function).items():
            bound = view.bind(state.table(context.node, f"state:{name}"), self._scope)
            setattr(self._function, name, bound)
        self._event = Timers(state.table(context.node, "event-timers"))
        self._processing = Timers(state.table(context.node, "processing-timers"))
        self._ctx: ProcessContext[Any] = ProcessContext(
            self._event, self._processing, context.clock.now_ms
        )
        try:
            self._function.open()
        except Exception as error:
            doing = "it was being opened"
            raise user_error(context.node, error, None, meanwhile=doing) from error
        self._opened = True

    def process(self, batch: Batch, out: Output) -> None:
        assert batch.keys is not None
        scope, ctx, function = self._scope, self._ctx, self._function.process
        results: list[Any] = []
        times: list[int] = []
        value: Any = None
        try:
            for value, key, at in zip(
                batch.to_rows().values, batch.keys, batch.timestamps.tolist(), strict=True
            ):
                scope.key = ctx.key = key
                ctx.timestamp = at
                made = function(value, ctx)
                if made is not None:
                    results += made
                    times += [at] * (len(results) - len(times))
        except Exception as error:
            raise user_error(self.context.node, error, value) from error
        self._emit(results, times, out)
        self._ring(self._event, ctx.watermark, out)

    def on_watermark(self, watermark: Watermark, out: Output) -> None:
        if watermark.timestamp > self._ctx.watermark:
            self._ctx.watermark = watermark.timestamp
            self._ring(self._event, watermark.timestamp, out)
        out.watermark(watermark)

    def next_clock_ms(self) -> int | None:
        return self._processing.next_ms

    def on_clock(self, now_ms: int, out: Output) -> None:
        self._ring(self._processing, now_ms, out)

    def snapshot(self) -> Any:
        return self._ctx.watermark

    def restore(self, states: list[Any]) -> None:
        self._ctx.watermark = min(states)

    def close(self) -> None:
        if self._opened:
            self._opened = False
            self._function.close()

    def _ring(self, timers: Timers, upto_ms: int, out: Output) -> None:
        """Call ``on_timer`` for all that is due, also for timers it sets that are due."""
        if timers.next_ms is None or timers.next_ms > upto_ms:
            return
        scope, ctx = self._scope, self._ctx
        results: list[Any] = []
        times: list[int] = []
        for at, key in timers.ring(upto_ms):
            scope.key = ctx.key = key
            ctx.timestamp = at
            try:
                made = self._function.on_timer(at, ctx)
                if made is not None:
                    results += made
            except Exception as error:
                timer = f"timer {at} of {shorten(key)}"
                doing = f"it was called for the {timer}"
                raise user_error(self.context.node, error, timer, meanwhile=doing) from error
            times += [at] * (len(results) - len(times))
        self._emit(results, times, out)

    def _emit(self, results: list[Any], times: list[int], out: Output) -> None:
        if results:
            out.emit(RowBatch(results, np.array(times, dtype=np.int64)))

"""with_timestamps: event times from the records, and watermarks per source partition.

The watermark of a partition is its highest event time less the allowed out-of-orderness; the
stream's is the lowest of its partitions that are not idle. When all are idle, event time goes
on at the pace of the clock, so that windows still close. A record too far in the future is
counted and does not move the watermark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import numpy as np

from streamline.batch import Batch, ColumnBatch, Timestamps
from streamline.errors import StreamlineError, UsageError
from streamline.expr import Expr, as_function
from streamline.io import OnError
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP, Watermark
from streamline.operators.base import Operator, OperatorContext, OperatorSpec, Output
from streamline.operators.refused import attempt
from streamline.user_code import blame

_MIXED = ""
_TICK_MS = 100


@dataclass(frozen=True)
class TimestampsSpec(OperatorSpec):
    """Where the event time stands, and how far records may be out of order.

    Attributes:
        time: Field name, expression or function that gives ms since the epoch, or a datetime.
        max_out_of_orderness_ms: How much older than its predecessors a record may be.
        idle_after_ms: A partition silent for so long is not waited for; None waits for ever.
        max_future_ms: Event times further ahead of the clock do not move the watermark.
        on_error: What becomes of records without a usable event time.
    """

    assigns_timestamps: ClassVar[bool] = True
    time: str | Expr | Callable[[Any], Any]
    max_out_of_orderness_ms: int
    idle_after_ms: int | None
    max_future_ms: int
    on_error: OnError = "fail"

    @property
    def kind(self) -> str:
        return "timestamps"

    @property
    def dead_letters(self) -> bool:
        return self.on_error == "dead_letter"

    def build(self) -> Operator:
        return AssignTimestamps(self)


class AssignTimestamps(Operator):
    """Sets ``timestamps`` of every batch and makes watermarks."""

    def __init__(self, spec: TimestampsSpec) -> None:
        self._spec = spec
        self._highest: dict[str, int] = {}
        self._heard_ms: dict[str, int] = {}
        self._watermark = Watermark(MIN_TIMESTAMP)
        self._next_tick_ms = 0

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        self._opened_ms = context.clock.now_ms()

    def process(self, batch: Batch, out: Output) -> None:
        on_error = self._spec.on_error
        done = attempt(
            batch,
            self._extract,
            context=self.context,
            on_error=on_error,
            explain=self._explain,
            out=out,
        )
        if done is None:
            return
        batch, timestamps = done
        now = self.context.clock.now_ms()
        partition = batch.partition or _MIXED
        if self.context.active_partitions is None:
            partition = _MIXED
        highest = self._highest_of(timestamps, now)
        if highest is not None:
            reached = max(self._highest.get(partition, MIN_TIMESTAMP), highest)
            self._highest[partition] = reached
            self.context.partition_watermarks[partition] = reached
        self._heard_ms[partition] = now
        out.emit(batch.with_timestamps(timestamps))
        self._advance(now, out)

    def on_watermark(self, watermark: Watermark, out: Output) -> None:
        """Ours go on from the records; one from upstream that is further ahead is passed on."""
        if watermark.timestamp > self._watermark.timestamp:
            self._watermark = watermark
            out.watermark(watermark)
        elif watermark.idle and not self._highest:
            out.watermark(Watermark(self._watermark.timestamp, idle=True))

    def next_clock_ms(self) -> int | None:
        return None if self._spec.idle_after_ms is None else self._next_tick_ms

    def on_clock(self, now_ms: int, out: Output) -> None:
        self._next_tick_ms = now_ms + _TICK_MS
        self._advance(now_ms, out)

    def snapshot(self) -> Any:
        return dict(self._highest)

    def restore(self, states: list[Any]) -> None:
        active = self.context.active_partitions
        for state in states:
            for partition, highest in state.items():
                name = _MIXED if active is None else partition
                if active is None or name in active:
                    # Several tasks knew it: what the slowest has not read is still to come.
                    known = self._highest.get(name, MAX_TIMESTAMP)
                    self._highest[name] = min(known, highest)
        self.context.partition_watermarks.update(self._highest)

    def _extract(self, batch: Batch) -> Timestamps:
        time = self._spec.time
        if isinstance(time, str) and isinstance(batch, ColumnBatch):
            column = batch.array(time)
            if column.dtype == np.int64:
                return column
        if isinstance(time, str):
            values = batch.column(time)
        elif isinstance(time, Expr):
            values = time.evaluate(batch)
        else:
            values = [time(value) for value in batch.to_rows().values]
        if values and isinstance(values[0], datetime):
            values = [_datetime_ms(value) for value in values]
        if set(map(type, values)) != {int} and not all(map(_is_int, values)):
            raise _not_a_time(values)
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            raise _not_a_time(values) from None

    def _explain(self, error: Exception, batch: Batch) -> Exception:
        node, time = self.context.node, self._spec.time
        if isinstance(error, StreamlineError):
            return UsageError(f"{node}: {error}")
        return blame(node, error, batch, function=as_function(time))

    def _highest_of(self, timestamps: Timestamps, now_ms: int) -> int | None:
        """The highest event time that is not too far ahead; the others are counted."""
        highest = int(timestamps.max())
        limit = now_ms + self._spec.max_future_ms
        if highest <= limit:
            return highest
        sane = timestamps[timestamps <= limit]
        self.context.counters.future += len(timestamps) - len(sane)
        return int(sane.max()) if len(sane) else None

    def _advance(self, now_ms: int, out: Output) -> None:
        watermark = self._current(now_ms)
        if watermark.timestamp < self._watermark.timestamp:
            watermark = Watermark(self._watermark.timestamp, watermark.idle)
        if watermark != self._watermark:
            self._watermark = watermark
            out.watermark(watermark)

    def _current(self, now_ms: int) -> Watermark:
        active = self.context.active_partitions
        partitions: Iterable[str]
        partitions = self._highest if active is None or _MIXED in self._highest else active
        delay = self._spec.max_out_of_orderness_ms + 1
        idle_after = self._spec.idle_after_ms
        lowest: int | None = None
        for partition in partitions:
            heard = self._heard_ms.get(partition, self._opened_ms)
            if idle_after is not None and now_ms - heard >= idle_after:
                continue
            highest = self._highest.get(partition, MIN_TIMESTAMP)
            if lowest is None or highest < lowest:
                lowest = highest
        if lowest is not None:
            return Watermark(lowest - delay if lowest > MIN_TIMESTAMP + delay else MIN_TIMESTAMP)
        if not self._highest:
            return Watermark(MIN_TIMESTAMP, idle=True)
        silent_ms = now_ms - max(self._heard_ms.values(), default=self._opened_ms)
        silent_ms = max(0, silent_ms) if idle_after is not None else 0
        return Watermark(max(self._highest.values()) - delay + silent_ms, idle=True)


def _datetime_ms(value: Any) -> int:
    if not isinstance(value, datetime):
        raise _not_a_time([value])
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    ms: int = round(value.timestamp() * 1000)
    return ms


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _not_a_time(values: list[Any]) -> UsageError:
    bad = next(
        (v for v in values if not _is_int(v) or not MIN_TIMESTAMP <= v <= MAX_TIMESTAMP), values[0]
    )
    return UsageError(
        f"an event time must be an int (ms since the epoch) or a datetime, not {bad!r:.80} "
        f"({type(bad).__name__})"
    )

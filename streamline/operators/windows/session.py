"""The operator for session windows: sessions of a key grow, meet and end after a gap.

State: one entry for each key with its sessions, each a list ``[start, end, fired, *slots]``;
and one timer for each session, which finds out when it rings whether the session has grown.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from streamline.batch import Batch, RowBatch
from streamline.config import duration_ms
from streamline.messages import MIN_TIMESTAMP, Watermark
from streamline.operators.aggregations import AggregateProgram, Named, slots_layout
from streamline.operators.base import LATE, Operator, OperatorContext, OperatorSpec, Output
from streamline.operators.projection import Project, projection_of
from streamline.operators.timers import TIMERS, Timers
from streamline.operators.windows.aligned import Finish, no_timestamp
from streamline.operators.windows.assigners import Session, WindowBounds
from streamline.operators.windows.reached import ReachedByGroup
from streamline.state.backend import Entry
from streamline.state.schema import Convert, Layout, converter

_START, _END, _FIRED, _SLOTS = 0, 1, 2, 3


@dataclass(frozen=True)
class SessionSpec(OperatorSpec):
    """Aggregate over session windows; fields as in AlignedSpec."""

    needs_timestamps: ClassVar[bool] = True
    keyed: ClassVar[bool] = True
    window: Session
    lateness_ms: int
    aggregations: Named
    finish: Finish

    @property
    def kind(self) -> str:
        return "window"

    def build(self) -> Operator:
        return SessionWindows(self)

    def layouts(self) -> dict[str, Layout]:
        slots = slots_layout(self.aggregations)
        return {"sessions": {**slots, "kind": "sessions"}, "timers": TIMERS}

    def converter(self, state: str, was: Layout) -> Convert | None:
        if state != "sessions":
            return None
        program = AggregateProgram("", self.aggregations)
        one = converter(was, self.layouts()[state], program.new, first=_SLOTS)
        return None if one is None else lambda values: [[one(session) for session in values[0]]]

    def projection(self, node: str) -> Project | None:
        return projection_of(node, self.aggregations)


def _end_of(session: list[Any]) -> int:
    end: int = session[_END]
    return end


def _no_sessions() -> Entry:
    return [0, []]


class SessionWindows(ReachedByGroup):
    """Runs a :class:`SessionSpec` for the keys of one task."""

    keyed = True

    def __init__(self, spec: SessionSpec) -> None:
        self._spec = spec
        self._gap_ms = duration_ms(spec.window.gap)
        self._lateness_ms = spec.lateness_ms
        self._results: list[Any] = []
        self._times: list[int] = []

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        assert context.state is not None
        self._table = context.state.table(context.node, "sessions")
        self._timers = Timers(context.state.table(context.node, "timers"))
        self._program = AggregateProgram(context.node, self._spec.aggregations)

    def process(self, batch: Batch, out: Output) -> None:
        assert batch.keys is not None
        times = batch.timestamps.tolist()
        if min(times) == MIN_TIMESTAMP:
            raise no_timestamp(self.context.node)
        columns = self._program.columns(batch)
        rows = zip(*columns, strict=True) if columns else iter([()] * len(times))
        self._table.prefetch(0, batch.keys)
        reached = self._reached(batch)
        for_each = reached.tolist() * (len(times) // len(reached))
        late: list[int] = []
        again: dict[int, tuple[Hashable, list[Any]]] = {}
        records = zip(batch.keys, times, rows, for_each, strict=True)
        for place, (key, at, values, upto) in enumerate(records):
            session = self._session_for(key, at, upto)
            if session is None:
                late.append(place)
                continue
            entry = [0, *session[_SLOTS:]]
            self._program.add_one(entry, values)
            session[_SLOTS:] = entry[1:]
            if session[_FIRED]:
                again[id(session)] = (key, session)
        if late:
            self.context.counters.late += len(late)
            out.emit(batch.take(np.array(late, dtype=np.intp)), LATE)
        for key, session in again.values():
            # It may have been joined to another meanwhile, or gone on beyond the watermark.
            if session[_FIRED] and any(one is session for one in self._sessions(key)):
                self._finish(key, session)
        self._emit(out)

    def on_watermark(self, watermark: Watermark, out: Output) -> None:
        if watermark.timestamp > self._watermark:
            self._advance(watermark.timestamp)
            for key in dict.fromkeys(key for _, key in self._timers.due(self._watermark)):
                self._ring(key)
            self._emit(out)
        out.watermark(watermark)

    def _sessions(self, key: Hashable) -> list[list[Any]]:
        entry = self._table.get(0, key)
        return [] if entry is None else entry[1]

    def _session_for(self, key: Hashable, at: int, reached: int) -> list[Any] | None:
        """The session that a record at that time belongs to; None if it is late."""
        end = at + self._gap_ms
        met = [s for s in self._sessions(key) if s[_START] <= end and at <= s[_END]]
        if not met and end - 1 + self._lateness_ms <= reached:
            return None
        sessions = self._table.touch(0, key, _no_sessions)[1]
        if not met:
            made = [at, end, False, *self._program.new()[1:]]
            sessions.append(made)
            self._timers.set(end - 1, key)
            return made
        first = met[0]
        for other in met[1:]:
            self._merge(first, other)
            sessions.remove(other)
        first[_START] = min(first[_START], at)
        if end > first[_END]:
            if first[_FIRED] and end - 1 > reached:
                first[_FIRED] = False  # open again: it will fire at its new end
                self._timers.set(end - 1, key)
            first[_END] = end
        return first

    def _merge(self, first: list[Any], other: list[Any]) -> None:
        into = [0, *first[_SLOTS:]]
        self._program.merge(into, [[0, *other[_SLOTS:]]])
        first[_SLOTS:] = into[1:]
        first[_START] = min(first[_START], other[_START])
        first[_END] = max(first[_END], other[_END])
        first[_FIRED] = first[_FIRED] and other[_FIRED]

    def _ring(self, key: Hashable) -> None:
        """A timer of the key is due: fire what has ended, forget what has expired."""
        if self._table.get(0, key) is None:
            return
        sessions = self._table.touch(0, key, _no_sessions)[1]
        for session in sorted(sessions, key=_end_of) if len(sessions) > 1 else list(sessions):
            if session[_END] - 1 > self._watermark:
                self._timers.set(session[_END] - 1, key)
                continue
            if not session[_FIRED]:
                session[_FIRED] = True
                self._finish(key, session)
            if session[_END] - 1 + self._lateness_ms <= self._watermark:
                sessions.remove(session)
            else:
                self._timers.set(session[_END] - 1 + self._lateness_ms, key)
        if not sessions:
            self._table.delete(0, key)

    def _finish(self, key: Hashable, session: list[Any]) -> None:
        """Make the results of one session; they wait for ``_emit``."""
        bounds = WindowBounds(session[_START], session[_END])
        items = [(key, [0, *session[_SLOTS:]])]
        self._results += self._spec.finish(self._program, items, bounds)
        self._times += [bounds.end - 1] * (len(self._results) - len(self._times))

    def _emit(self, out: Output) -> None:
        """Hand on the results made since the last call, in batches of bounded length."""
        results, times = self._results, self._times
        if not results:
            return
        self._results, self._times = [], []
        rows = self.context.config.batch_rows
        for first in range(0, len(results), rows):
            part = np.array(times[first : first + rows], dtype=np.int64)
            out.emit(RowBatch(results[first : first + rows], part))

"""The operator for tumbling and sliding windows: fill slices, merge them when a window fires.

State: one table, namespace = start of the slice, one entry for each key in it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise
from typing import Any, ClassVar, TypeAlias, TypeGuard

import numpy as np

from streamline.batch import Batch, ColumnBatch, RowBatch
from streamline.errors import UsageError
from streamline.keys import key_group
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP, Watermark
from streamline.operators.aggregations import (
    AggregatePartials,
    AggregateProgram,
    Named,
    slots_layout,
)
from streamline.operators.base import LATE, Operator, OperatorContext, OperatorSpec, Output
from streamline.operators.combine import Combiner, combines
from streamline.operators.projection import Project, projection_of
from streamline.operators.windows.assigners import Aligned, Slices, WindowBounds
from streamline.operators.windows.reached import ReachedByGroup
from streamline.state.backend import Entry, Table
from streamline.state.schema import Convert, Layout, converter

_NEVER = 1 << 70

Finish: TypeAlias = Callable[
    [AggregateProgram, Iterable[tuple[Hashable, Entry]], WindowBounds], list[Any]
]
"""Turns the keys and entries of a fired window into results."""


Add: TypeAlias = Callable[[Table, int, Sequence[Hashable], list[Sequence[Any]]], None]
"""Takes the records, or the partial results, of one slice."""


@dataclass(frozen=True)
class AlignedSpec(OperatorSpec):
    """Aggregate over tumbling or sliding windows.

    Attributes:
        window: How time is cut.
        lateness_ms: Windows are kept and fired again for so long after their end.
        aggregations: What is kept for each key and slice.
        finish: Turns it into results.
    """

    needs_timestamps: ClassVar[bool] = True
    keyed: ClassVar[bool] = True
    window: Aligned
    lateness_ms: int
    aggregations: Named
    finish: Finish

    @property
    def kind(self) -> str:
        return "window"

    def build(self) -> Operator:
        return AlignedWindows(self)

    def layouts(self) -> dict[str, Layout]:
        return {
            "slices": {**slots_layout(self.aggregations), "window": Slices(self.window).describe()}
        }

    def converter(self, state: str, was: Layout) -> Convert | None:
        program = AggregateProgram("", self.aggregations)
        return converter(was, self.layouts()[state], program.new)

    def projection(self, node: str) -> Project | None:
        combine = None
        if combines([aggregation for _, aggregation in self.aggregations]):
            combine = Combiner(node, self.aggregations, Slices(self.window))
        return projection_of(node, self.aggregations, combine)


class AlignedWindows(ReachedByGroup):
    """Runs an :class:`AlignedSpec` for the keys of one task."""

    keyed = True

    def __init__(self, spec: AlignedSpec) -> None:
        self._spec = spec
        self._slices = Slices(spec.window)
        self._lateness_ms = spec.lateness_ms
        self._next_end: int | None = None
        self._known: set[int] = set()

    def open(self, context: OperatorContext) -> None:
        super().open(context)
        assert context.state is not None
        self._table = context.state.table(context.node, "slices")
        self._program = AggregateProgram(context.node, self._spec.aggregations)
        self._relearn()

    def records(self, batch: Batch) -> int:
        if _is_combined(batch):
            return int(batch.array(AggregatePartials.RECORDS).sum())
        return len(batch)

    def process(self, batch: Batch, out: Output) -> None:
        starts = self._slices.starts(batch.timestamps)
        lowest, highest = int(starts.min()), int(starts.max())
        if int(batch.timestamps.min()) == MIN_TIMESTAMP:
            raise no_timestamp(self.context.node)
        reached = self._reached(batch)
        behind = self._slices.windows_of(lowest)[0].end - 1 <= int(reached.max())
        if behind:
            kept = self._without_late(batch, starts, out)
            if kept is None:
                return
            batch, starts = kept
        assert batch.keys is not None
        program, keys = self._program, batch.keys
        add: Add = program.add
        if _is_combined(batch):
            add, columns = program.add_partials, program.slots(batch)
        else:
            columns = program.columns(batch)
        if lowest == highest:
            self._add(lowest, keys, columns, add)
        elif _is_combined(batch):  # it comes in order of its slices
            ends = [*(np.flatnonzero(np.diff(starts)) + 1).tolist(), len(keys)]
            for first, end in pairwise([0, *ends]):
                parts = [column[first:end] for column in columns]
                self._add(int(starts[first]), keys[first:end], parts, add)
        else:
            for start in np.unique(starts).tolist():
                flags = (starts == start).tolist()
                self._add(
                    start,
                    list(compress(keys, flags)),
                    [list(compress(column, flags)) for column in columns],
                    add,
                )
        if behind and self._lateness_ms:
            self._fire_again(keys, starts, self._reached(batch), out)

    def on_watermark(self, watermark: Watermark, out: Output) -> None:
        if watermark.timestamp > self._watermark:
            reached = watermark.timestamp
            # At the end of time every window has ended, also one that would end behind it.
            ended = reached if reached < MAX_TIMESTAMP else _NEVER
            if self._next_end is not None and self._next_end - 1 <= ended:
                self._fire(ended, out)
            self._advance(reached)
            self._expire()
        out.watermark(watermark)

    def restore(self, states: list[Any]) -> None:
        super().restore(states)
        self._relearn()

    def _not_fired(
        self, window: WindowBounds, items: Iterable[tuple[Hashable, Entry]]
    ) -> Iterable[tuple[Hashable, Entry]]:
        """Without the keys of groups that had fired the window before a restore."""
        ahead = self._ahead
        if ahead is None:
            return items
        limit, last = self.context.max_parallelism, window.end - 1
        return [item for item in items if ahead[key_group(item[0], limit)] < last]

    def _add(
        self, start: int, keys: Sequence[Hashable], columns: list[Sequence[Any]], add: Add
    ) -> None:
        if start not in self._known:
            self._known.add(start)
            self._await(start)
        self._table.prefetch(start, keys)
        add(self._table, start, keys, columns)

    def _await(self, start: int) -> None:
        """Note the first window of a slice that has not fired yet."""
        for window in self._slices.windows_of(start):
            if window.end - 1 > self._watermark:
                if self._next_end is None or window.end < self._next_end:
                    self._next_end = window.end
                return

    def _relearn(self) -> None:
        self._known = set(self._table.namespaces())
        self._next_end = None
        for start in self._known:
            self._await(start)

    def _without_late(
        self, batch: Batch, starts: np.ndarray[Any, Any], out: Output
    ) -> tuple[Batch, np.ndarray[Any, Any]] | None:
        """Take out the records all of whose windows have expired."""
        shifted = starts - self._slices.offset_ms
        last = shifted - shifted % self._slices.every_ms + self._slices.offset_ms
        expiry = last + (self._slices.size_ms - 1 + self._lateness_ms)
        late = expiry <= self._reached(batch)
        count = int(np.count_nonzero(late))
        if count == 0:
            return batch, starts
        refused = batch.where(late)
        self.context.counters.late += self.records(refused)
        if not _is_combined(batch):  # else nobody takes them
            out.emit(refused, LATE)
        if count == len(batch):
            return None
        return batch.where(~late), starts[~late]

    def _fire(self, reached: int, out: Output) -> None:
        """Fire the windows that end by then and have not fired, in order of their end."""
        due = {
            window
            for start in self._known
            for window in self._slices.windows_of(start)
            if self._watermark < window.end - 1 <= reached
        }
        for window in sorted(due, key=lambda window: window.end):
            self._emit(window, self._not_fired(window, self._merged(window, None)), out)
        self._watermark = reached
        self._relearn()

    def _fire_again(
        self,
        keys: Sequence[Hashable],
        starts: np.ndarray[Any, Any],
        reached: np.ndarray[Any, Any],
        out: Output,
    ) -> None:
        """Give the results of windows anew that have fired and got more records."""
        touched: dict[WindowBounds, dict[Hashable, None]] = {}
        for start in np.unique(starts).tolist():
            for window in self._slices.windows_of(start):
                last = window.end - 1
                again = (starts == start) & (last <= reached)
                again &= reached < last + self._lateness_ms
                if again.any():
                    mine = dict.fromkeys(compress(keys, again.tolist()))
                    touched.setdefault(window, {}).update(mine)
        for window, touched_keys in sorted(touched.items()):
            self._emit(window, self._merged(window, touched_keys), out)

    def _merged(
        self, window: WindowBounds, keys: Iterable[Hashable] | None
    ) -> Iterable[tuple[Hashable, Entry]]:
        """Keys of a window with their entries, merged over its slices."""
        table, program = self._table, self._program
        present = [start for start in self._slices.slices_of(window) if start in self._known]
        if keys is not None:
            return [(key, entry) for key in keys if (entry := self._merged_key(present, key))]
        if len(present) == 1:
            return table.items(present[0])
        merged: dict[Hashable, Entry] = {}
        for start in present:
            program.merge_all(merged, table.items(start))
        return merged.items()

    def _merged_key(self, slices: Iterable[int], key: Hashable) -> Entry | None:
        found = [entry for start in slices if (entry := self._table.get(start, key)) is not None]
        if not found:
            return None
        merged = self._program.new()
        self._program.merge(merged, found)
        return merged

    def _emit(
        self, window: WindowBounds, items: Iterable[tuple[Hashable, Entry]], out: Output
    ) -> None:
        results = self._spec.finish(self._program, items, window)
        emit_results(results, window.end - 1, out, batch_rows=self.context.config.batch_rows)

    def _expire(self) -> None:
        """Drop the slices of which no window can be updated any more."""
        keep_ms = self._slices.size_ms - 1 + self._lateness_ms
        for start in list(self._known):
            if self._slices.last_start(start) + keep_ms <= self._watermark:
                self._table.drop(start)
                self._known.discard(start)


def _is_combined(batch: Batch) -> TypeGuard[ColumnBatch]:
    return isinstance(batch, ColumnBatch) and batch.record_type is AggregatePartials


def emit_results(results: list[Any], timestamp: int, out: Output, *, batch_rows: int) -> None:
    """Emit results that all have one event time, in batches of bounded length."""
    timestamp = min(timestamp, MAX_TIMESTAMP - 1)
    for first in range(0, len(results), batch_rows):
        part = results[first : first + batch_rows]
        out.emit(RowBatch(part, np.full(len(part), timestamp, dtype=np.int64)))


def no_timestamp(node: str) -> UsageError:
    """The error for a record without an event time."""
    return UsageError(
        f"window {node!r} got a record without an event time; add "
        '.with_timestamps("field", max_out_of_orderness="5s") before key_by'
    )

"""Combiner: adds up the records of a batch by key and slice before they go through a shuffle.

What is sent are partial results, merged into the window's entries behind the shuffle. A batch is
combined only where that is worth it and gives what the records one by one would give; it knows no
state and no watermark, so it changes neither what is late nor what a checkpoint holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamline.batch import Batch, Column, ColumnBatch
from streamline.keys import KeyCodes
from streamline.messages import MIN_TIMESTAMP
from streamline.operators.aggregations import (
    AggregatePartials,
    AggregateProgram,
    Aggregation,
    Count,
    Max,
    Mean,
    Min,
    Named,
    Sum,
)
from streamline.operators.windows.assigners import Slices

_WORTH = 0.7
"""Combining pays when at most so many partial results stand for a record."""
_PAUSE = 31
"""So many batches go as they are after one that was not combined: looking costs time."""
_ROOM = 16
"""Cells, of keys and slices, that may be looked through for each record."""
_EXACT = 1 << 53
"""Whole numbers up to here are the same as floats."""
_KEY_KINDS: tuple[frozenset[type], ...] = (frozenset({str}), frozenset({bytes}))

Cells = npt.NDArray[np.int64]


class Combiner:
    """Combines batches of one edge.

    Args:
        node: Name of the window.
        aggregations: What it keeps; see :func:`combines`.
        slices: How it cuts time.
    """

    def __init__(self, node: str, aggregations: Named, slices: Slices) -> None:
        self._program = AggregateProgram(node, aggregations)
        self._aggregations = [aggregation for _, aggregation in aggregations]
        self._slices = slices
        self._pause = 0

    def __call__(self, batch: Batch) -> Batch | None:
        """The batch in parts that were added up, or None if it is to go as it is.

        Raises:
            UsageError: If a field is missing.
        """
        if self._pause:
            self._pause -= 1
            return None
        combined = self._combined(batch)
        if combined is None:
            self._pause = _PAUSE
        return combined

    def _combined(self, batch: Batch) -> Batch | None:
        coded = _codes(batch)
        timestamps = batch.timestamps
        if coded is None or int(timestamps.min()) == MIN_TIMESTAMP:
            return None
        columns = self._columns(batch)
        if columns is None:
            return None
        starts = self._slices.starts(timestamps)
        first = int(starts.min())
        rows = (starts - first) // self._slices.slice_ms
        count = int(rows.max()) + 1
        if count * len(coded.names) > _ROOM * len(batch):
            coded = _only_those(coded)  # of many keys few are here
        known = len(coded.names)
        if count * known > _ROOM * len(batch):
            return None
        cells = rows * known + coded.codes
        counts = np.bincount(cells, minlength=count * known)
        present = np.flatnonzero(counts)
        if len(present) > _WORTH * len(batch):
            return None
        slots = self._slots(columns, cells, counts, present)
        if slots is None:
            return None
        of_keys = present % known
        names = coded.names
        return ColumnBatch(
            {AggregatePartials.RECORDS: counts[present], **slots},
            present // known * self._slices.slice_ms + first,
            record_type=AggregatePartials,
            keys=[names[code] for code in of_keys.tolist()],
            groups=coded.groups[of_keys],
            partition=batch.partition,
        )

    def _columns(self, batch: Batch) -> list[Column] | None:
        """What is aggregated, as numbers; None if it is something else."""
        columns: list[Column] = []
        for aggregation in self._program.inputs:
            field = aggregation.field
            if isinstance(batch, ColumnBatch) and isinstance(field, str):
                if batch.array(field).dtype.kind in "if":
                    columns.append(batch.array(field))
                    continue
            column = _numbers(self._program.column(aggregation, batch))
            if column is None:
                return None
            columns.append(column)
        return columns

    def _slots(
        self, columns: list[Column], cells: Cells, counts: Cells, present: Cells
    ) -> dict[str, Column] | None:
        """The slots of the entries, named by their place; None where numbers would not be exact."""
        slots: list[Column] = []
        left = iter(columns)
        for aggregation in self._aggregations:
            if isinstance(aggregation, Count):
                slots.append(counts[present])
                continue
            column = next(left)
            if isinstance(aggregation, Sum | Mean):
                sums = _sums(column, cells, len(counts))
                if sums is None:
                    return None
                slots.append(sums[present])
                if isinstance(aggregation, Mean):
                    slots.append(counts[present])
            else:
                extremes = _extremes(
                    column, cells, len(counts), smallest=isinstance(aggregation, Min)
                )
                if extremes is None:
                    return None
                slots.append(extremes[present])
        return {str(place): slot for place, slot in enumerate(slots)}


def combines(aggregations: Sequence[Aggregation[Any, Any, Any]]) -> bool:
    """Whether aggregations can be added up as columns; fields may be what they like."""
    return all(type(aggregation) in (Count, Sum, Min, Max, Mean) for aggregation in aggregations)


def _codes(batch: Batch) -> KeyCodes | None:
    """The keys as numbers; None where two of them may be equal and yet not the same."""
    if batch.codes is not None:
        return batch.codes if batch.codes.kinds in _KEY_KINDS else None
    assert batch.keys is not None and batch.groups is not None
    if set(map(type, batch.keys)) != {int}:
        return None
    try:
        keys = np.array(batch.keys, dtype=np.int64)
    except OverflowError:
        return None
    names, places, codes = np.unique(keys, return_index=True, return_inverse=True)
    return KeyCodes(codes, names.tolist(), batch.groups[places], frozenset({int}))


def _only_those(coded: KeyCodes) -> KeyCodes:
    """The same with no other keys in it than those that are there."""
    present, codes = np.unique(coded.codes, return_inverse=True)
    names = [coded.names[code] for code in present.tolist()]
    return KeyCodes(codes, names, coded.groups[present], coded.kinds)


def _numbers(values: list[Any]) -> Column | None:
    kinds = set(map(type, values))
    if kinds == {float}:
        return np.array(values, dtype=np.float64)
    if kinds == {int}:
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            pass
    return None


def _sums(column: Column, cells: Cells, size: int) -> Column | None:
    if column.dtype == np.float64:
        return np.bincount(cells, weights=column, minlength=size)
    if column.dtype != np.int64:
        return None
    largest = max(abs(int(column.min())), abs(int(column.max())))
    if largest * len(column) >= _EXACT:
        return None
    return np.bincount(cells, weights=column, minlength=size).astype(np.int64)


def _extremes(column: Column, cells: Cells, size: int, *, smallest: bool) -> Column | None:
    if column.dtype == np.float64:
        # Which of two zeros stays, and what NaN does, depends on the order in Python.
        if np.isnan(column).any() or np.signbit(column[column == 0]).any():
            return None
        found = np.full(size, np.inf if smallest else -np.inf)
    elif column.dtype == np.int64:
        info = np.iinfo(np.int64)
        found = np.full(size, info.max if smallest else info.min, dtype=np.int64)
    else:
        return None
    (np.minimum if smallest else np.maximum).at(found, cells, column)
    return found

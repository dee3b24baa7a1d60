"""How far event time is for a window operator, group by group where tasks differed.

With idle inputs the tasks of a stage need not have seen the same event time. Restored at
another parallelism, one task goes on at that of the slowest; a key group that was further has
fired already what the others have not, and keeps its own until all are there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamline.batch import Batch
from streamline.messages import MIN_TIMESTAMP
from streamline.operators.base import Operator


class ReachedByGroup(Operator):
    """Base of window operators: event time reached, kept over restores at any parallelism."""

    _watermark: int = MIN_TIMESTAMP
    _ahead: npt.NDArray[np.int64] | None = None

    def snapshot(self) -> Any:
        owned = self.context.key_range
        ahead = self._ahead
        reached = self._watermark if ahead is None else np.maximum(ahead, self._watermark).tolist()
        return [owned.start, owned.stop, reached]

    def restore(self, states: list[Any]) -> None:
        """Go on at the event time of the slowest old task."""
        reached = np.full(self.context.max_parallelism, MIN_TIMESTAMP, dtype=np.int64)
        for state in states:
            if isinstance(state, int):  # sessions once kept no more than this
                reached[:] = min(one for one in states if isinstance(one, int))
                continue
            start, stop, of_groups = state
            reached[start:stop] = of_groups if isinstance(of_groups, int) else of_groups[start:stop]
        owned = self.context.key_range
        mine = reached[owned.start : owned.stop]
        self._watermark = int(mine.min())
        self._ahead = reached if int(mine.max()) > self._watermark else None

    def _advance(self, reached: int) -> None:
        """Event time has reached this for all groups."""
        self._watermark = reached
        if self._ahead is not None:
            owned = self.context.key_range
            if int(self._ahead[owned.start : owned.stop].max()) <= reached:
                self._ahead = None  # all are where the furthest was

    def _reached(self, batch: Batch) -> npt.NDArray[np.int64]:
        """Event time reached for each record, by its key group; one for all as a rule."""
        if self._ahead is None or batch.groups is None:
            return np.array([self._watermark])
        return np.maximum(self._ahead[batch.groups], self._watermark)

"""Pace: which task of a source is behind in event time, so that the others wait for it.

Each task tells how far its slowest partition is; it is told how far the others are, and holds
back partitions that are further ahead than the source allows. Pure; what a task does with it
is its reader's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from streamline.ids import TaskId
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP


class Pace:
    """Knows what each task of each source has reached, in one attempt.

    A task that has not told yet may be anywhere, so the others wait for it. One that has
    nothing to read, for now or for ever, tells ``MAX_TIMESTAMP`` and is not waited for.

    Args:
        groups: The tasks of each source.

    >>> ahead, behind = TaskId("in", 0), TaskId("in", 1)
    >>> pace = Pace([[ahead, behind]])
    >>> pace.on_reached({ahead: 9_000})[ahead] == MIN_TIMESTAMP
    True
    >>> pace.on_reached({behind: 1_000})
    {TaskId(node='in', index=0): 1000, TaskId(node='in', index=1): 9000}
    """

    def __init__(self, groups: Iterable[Sequence[TaskId]]) -> None:
        self._groups = [list(group) for group in groups]
        self.reset()

    def reset(self) -> None:
        """A new attempt begins: nothing is known."""
        self._reached: dict[TaskId, int] = {}
        self._told: dict[TaskId, int] = {}

    def on_reached(self, reached: Mapping[TaskId, int]) -> dict[TaskId, int]:
        """Some tasks say how far they are.

        Returns:
            For each task that is to be told: how far the slowest of the others is. Those that
            spoke are told in any case, since what they were told before may have been lost.
        """
        self._reached.update(reached)
        answers: dict[TaskId, int] = {}
        for group in self._groups:
            if not any(task in self._reached for task in group):
                continue  # a source whose tasks do not wait for each other
            known = [self._reached.get(task, MIN_TIMESTAMP) for task in group]
            lowest, second = sorted([*known, MAX_TIMESTAMP])[:2]
            first = known.index(lowest) if lowest < MAX_TIMESTAMP else -1
            for place, task in enumerate(group):
                others = second if place == first else lowest
                if task in reached or self._told.get(task) != others:
                    answers[task] = self._told[task] = others
        return answers

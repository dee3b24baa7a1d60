"""Merging the watermarks of a task's inputs: the lowest of those that are not idle. Pure.

What it knows of an input is its last watermark and whether it is idle: no clock, no channel, no
record. Idle inputs are not waited for; when all are idle, windows close all the same.
"""

from __future__ import annotations

from streamline.errors import InvariantError
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP, Watermark


class WatermarkMerger:
    """Keeps the event time of ``inputs`` channels.

    The merged watermark never goes back. When all inputs are idle it is the highest of them:
    none of them will bring anything older than what it has promised already. Inputs that have
    ended do not count.

    >>> merger = WatermarkMerger(2)
    >>> merger.update(0, Watermark(5)), merger.update(1, Watermark(3))
    (None, Watermark(timestamp=3, idle=False))
    """

    def __init__(self, inputs: int, start: int = MIN_TIMESTAMP) -> None:
        self._of = [Watermark(MIN_TIMESTAMP)] * inputs
        self._merged = Watermark(start)

    @property
    def merged(self) -> Watermark:
        """The watermark last returned."""
        return self._merged

    def check(self, index: int, watermark: Watermark) -> None:
        """Refuse one that goes back; every operator is to see to it that its own do not.

        Raises:
            InvariantError: If it does.
        """
        before = self._of[index].timestamp
        if watermark.timestamp < before:
            raise InvariantError(
                f"the watermark of input {index} goes back from {before} to {watermark.timestamp}"
            )

    def update(self, index: int, watermark: Watermark) -> Watermark | None:
        """A watermark came on an input.

        Returns:
            The merged watermark if that has changed, else None.
        """
        if watermark.timestamp < self._of[index].timestamp:
            watermark = Watermark(self._of[index].timestamp, watermark.idle)
        self._of[index] = watermark
        return self._merge()

    def end(self, index: int) -> Watermark | None:
        """An input has ended; it holds nothing back any more."""
        self._of[index] = Watermark(MAX_TIMESTAMP)
        return self._merge()

    def _merge(self) -> Watermark | None:
        going_on = [watermark for watermark in self._of if watermark.timestamp < MAX_TIMESTAMP]
        busy = [watermark.timestamp for watermark in going_on if not watermark.idle]
        if busy:
            merged = Watermark(min(busy))
        elif going_on:
            merged = Watermark(max(watermark.timestamp for watermark in going_on), idle=True)
        else:
            merged = Watermark(MAX_TIMESTAMP)
        if merged.timestamp < self._merged.timestamp:
            merged = Watermark(self._merged.timestamp, merged.idle)
        if merged == self._merged:
            return None
        self._merged = merged
        return merged

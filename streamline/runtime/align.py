"""Barrier alignment of a task with several inputs: which inputs wait, and when all are there.

Pure: barriers in, decisions out. An input whose barrier has come is blocked until the others'
have; a newer barrier gives up an older one that never came everywhere.
"""

from __future__ import annotations

from streamline.errors import InvariantError
from streamline.ids import Epoch
from streamline.messages import Barrier


class BarrierAligner:
    """Aligns the barriers of ``inputs`` channels.

    >>> aligner = BarrierAligner(2)
    >>> aligner.on_barrier(0, Barrier(Epoch(1))), aligner.is_blocked(0)
    (None, True)
    >>> aligner.on_barrier(1, Barrier(Epoch(1))), aligner.is_blocked(0)
    (Barrier(epoch=1, kind=<BarrierKind.CHECKPOINT: 'checkpoint'>, drain=False), False)
    """

    def __init__(self, inputs: int) -> None:
        self._inputs = inputs
        self._blocked: set[int] = set()
        self._ended: set[int] = set()
        self._current: Barrier | None = None
        self._finished_epoch = 0
        self._last_of: dict[int, int] = {}

    @property
    def aligning(self) -> Barrier | None:
        """The barrier that has come on some inputs but not on all."""
        return self._current

    def is_blocked(self, index: int) -> bool:
        """Whether nothing may be taken from an input for now."""
        return index in self._blocked

    def on_barrier(self, index: int, barrier: Barrier) -> Barrier | None:
        """A barrier came on an input.

        Returns:
            The barrier, if with it all inputs have delivered theirs; else None.

        Raises:
            InvariantError: If epochs on this input do not grow, or the input is blocked or ended.
        """
        if index in self._blocked or index in self._ended:
            raise InvariantError(f"barrier {barrier.epoch} on input {index}, which must be silent")
        if barrier.epoch <= self._last_of.get(index, 0):
            raise InvariantError(
                f"barrier {barrier.epoch} on input {index} behind {self._last_of[index]}"
            )
        self._last_of[index] = barrier.epoch
        if barrier.epoch <= self._finished_epoch:
            return None  # a late copy of one that was given up
        if self._current is None or barrier.epoch > self._current.epoch:
            self._current = barrier
            self._blocked.clear()
        elif barrier.epoch < self._current.epoch:
            return None
        self._blocked.add(index)
        return self._completed()

    def on_end(self, index: int) -> Barrier | None:
        """An input has ended: no barrier is awaited from it any more."""
        self._ended.add(index)
        self._blocked.discard(index)
        return self._completed()

    def abort(self, epoch: Epoch) -> None:
        """Give an epoch up: its inputs flow again and late copies of its barrier are ignored."""
        self._finished_epoch = max(self._finished_epoch, epoch)
        if self._current is not None and self._current.epoch <= epoch:
            self._current = None
            self._blocked.clear()

    def _completed(self) -> Barrier | None:
        barrier = self._current
        if barrier is None or len(self._blocked) + len(self._ended) < self._inputs:
            return None
        self._current = None
        self._blocked.clear()
        self._finished_epoch = barrier.epoch
        return barrier

"""Slots: the transactional ids of one task, of which each transaction under way has one.

They are few, and used again and again; which is free is decided here. What an id is and what the
broker does with it, it does not know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from streamline.errors import ConnectorError

_FIRST = 3
_MOST = 64


class Slots:
    """Numbers that are given out and come back.

    Args:
        what: Whose they are, for messages.
        recent: Those that a restore may name again: they are given out last, so that their
            transactions keep their producer epoch for a while.

    >>> slots = Slots("sink 'out'", recent={0})
    >>> slots.take(), slots.take(), slots.take(), slots.take()
    (1, 2, 0, 3)
    >>> slots.give_back(2)
    >>> slots.take()
    2
    """

    def __init__(self, what: str, recent: Collection[int]) -> None:
        self._what = what
        self._count = max(_FIRST, len(recent) + 1)
        self._free = deque(sorted(range(self._count), key=lambda slot: slot in recent))

    def take(self) -> int:
        """One that is free.

        Raises:
            ConnectorError: If there would be too many under way.
        """
        if not self._free:
            if self._count >= _MOST:
                raise ConnectorError(
                    f"{self._what}: {self._count} transactions wait for a checkpoint to complete; "
                    "see why checkpoints fail"
                )
            self._free.append(self._count)
            self._count += 1
        return self._free.popleft()

    def give_back(self, slot: int) -> None:
        """Its transaction is committed; nothing happens if it is free, or not one of ours."""
        if slot < self._count and slot not in self._free:
            self._free.append(slot)

"""The in-band messages besides Batch: Watermark, Barrier, EndOfInput. There are no others.

With Batch they are all that travels between tasks. They say what is so, never what is to be done:
commands come from the coordinator on another road (``runtime.control``).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from streamline.ids import Epoch

MIN_TIMESTAMP: Final = -(1 << 63)
"""Before all time: no watermark yet, or a record without a timestamp."""

MAX_TIMESTAMP: Final = (1 << 63) - 1
"""After all time: the watermark of a source that has ended."""


@dataclass(frozen=True, slots=True)
class Watermark:
    """No record with an event time at or before ``timestamp`` is expected any more.

    Attributes:
        timestamp: Milliseconds since the epoch.
        idle: The sender has nothing to say for now; do not wait for it.

    >>> Watermark(9_999)
    Watermark(timestamp=9999, idle=False)
    """

    timestamp: int
    idle: bool = False


class BarrierKind(StrEnum):
    """What the snapshot behind a barrier is for."""

    CHECKPOINT = "checkpoint"
    SAVEPOINT = "savepoint"


@dataclass(frozen=True, slots=True)
class Barrier:
    """Separates the records of one epoch from those of the next.

    Attributes:
        epoch: Number of the checkpoint.
        kind: Whether a checkpoint or a savepoint is taken.
        drain: Nothing but EndOfInput follows; the task ends once the epoch is committed.
    """

    epoch: Epoch
    kind: BarrierKind = BarrierKind.CHECKPOINT
    drain: bool = False


@dataclass(frozen=True, slots=True)
class EndOfInput:
    """Nothing follows on this channel."""


END_OF_INPUT: Final = EndOfInput()

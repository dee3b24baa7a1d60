"""Tumbling, Sliding and Session: how event time is cut into windows. Pure arithmetic.

Aligned windows are made of slices: every record belongs to exactly one slice, and a window is
a run of slices (Carbone et al., Cutty, 2016; Traub et al., Scotty, 2018). So a record is
counted once, however many windows overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from streamline.config import Duration, duration_ms, positive_duration_ms
from streamline.errors import UsageError


class WindowBounds(NamedTuple):
    """First millisecond of a window, and the first behind it; since the epoch.

    >>> WindowBounds(0, 10_000).end
    10000
    """

    start: int
    end: int


@dataclass(frozen=True)
class Tumbling:
    """Windows of one size, one after the other.

    Args:
        size: Length of a window.
        offset: Windows begin at multiples of the size plus this.

    Raises:
        UsageError: For a duration that is none, or a size of zero.

    >>> import streamline as sl
    >>> sl.Tumbling("1d", offset="2h").size  # days that begin at two o'clock UTC
    '1d'
    """

    size: Duration
    offset: Duration = "0ms"

    def __post_init__(self) -> None:
        positive_duration_ms(self.size, "size")
        duration_ms(self.offset, "offset")


@dataclass(frozen=True)
class Sliding:
    """Windows of one size that begin ``every`` so often and overlap.

    Args:
        size: Length of a window.
        every: From the beginning of one to the next; not longer than the size.
        offset: Windows begin at multiples of ``every`` plus this.

    Raises:
        UsageError: For a duration that is none or zero, or an ``every`` that is longer.

    >>> import streamline as sl
    >>> sl.Sliding("1m", every="10s").every  # each record is in six windows
    '10s'
    """

    size: Duration
    every: Duration
    offset: Duration = "0ms"

    def __post_init__(self) -> None:
        size = positive_duration_ms(self.size, "size")
        every = positive_duration_ms(self.every, "every")
        duration_ms(self.offset, "offset")
        if every > size:
            raise UsageError(
                f"every={self.every!r} is longer than size={self.size!r}: records between two "
                "windows would be lost; make it at most the size"
            )


@dataclass(frozen=True)
class Session:
    """Windows of activity: they end when a key has been silent for ``gap``.

    Args:
        gap: How long a silence ends it; the window's end is so long behind its last record.

    Raises:
        UsageError: For a duration that is none, or zero.

    >>> import streamline as sl
    >>> sl.Session("30m").gap
    '30m'
    """

    gap: Duration

    def __post_init__(self) -> None:
        positive_duration_ms(self.gap, "gap")


Aligned: TypeAlias = Tumbling | Sliding


class Slices:
    """The arithmetic of aligned windows, in milliseconds.

    >>> slices = Slices(Sliding("10s", "5s"))
    >>> slices.slice_ms, [tuple(window) for window in slices.windows_of(5_000)]
    (5000, [(0, 10000), (5000, 15000)])
    """

    def __init__(self, window: Aligned) -> None:
        self.size_ms = duration_ms(window.size)
        self.every_ms = self.size_ms if isinstance(window, Tumbling) else duration_ms(window.every)
        self.offset_ms = duration_ms(window.offset) % self.every_ms
        self.slice_ms = gcd(self.size_ms, self.every_ms)

    def describe(self) -> str:
        """The same windows have the same text, however they were written."""
        every = "" if self.every_ms == self.size_ms else f" every {self.every_ms} ms"
        offset = f" at offset {self.offset_ms} ms" if self.offset_ms else ""
        return f"{self.size_ms} ms long{every}{offset}"

    def starts(self, timestamps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Start of the slice of each timestamp, shape ``(n,)``."""
        shifted = timestamps - self.offset_ms
        return shifted - shifted % self.slice_ms + self.offset_ms

    def windows_of(self, slice_start: int) -> list[WindowBounds]:
        """The windows that a slice is part of, the earliest first."""
        last = self.last_start(slice_start)
        count = (self.size_ms - self.slice_ms - (slice_start - last)) // self.every_ms + 1
        return [
            WindowBounds(start, start + self.size_ms)
            for start in range(last - (count - 1) * self.every_ms, last + 1, self.every_ms)
        ]

    def last_start(self, slice_start: int) -> int:
        """Start of the last window that a slice is part of."""
        shifted = slice_start - self.offset_ms
        return shifted - shifted % self.every_ms + self.offset_ms

    def slices_of(self, window: WindowBounds) -> range:
        """Starts of the slices of a window."""
        return range(window.start, window.end, self.slice_ms)

"""Where time comes from. Nothing else in the package reads a clock.

Two readings: ``now_ms`` is wall time (it may jump), ``monotonic_s`` only moves forward.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time, handed in from outside.

    >>> def took_s(clock: Clock, work) -> float:
    ...     began_s = clock.monotonic_s()
    ...     work()
    ...     return clock.monotonic_s() - began_s
    >>> clock = ManualClock(start_ms=1_000)
    >>> took_s(clock, lambda: clock.advance(ms=1_500)), clock.now_ms()
    (1.5, 2500)
    """

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...


class SystemClock:
    """The machine's own clocks.

    >>> clock = SystemClock()
    >>> before = clock.monotonic_s()
    >>> clock.monotonic_s() >= before, clock.now_ms() > 1_700_000_000_000
    (True, True)
    """

    def now_ms(self) -> int:
        """Milliseconds since the epoch, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()


class ManualClock:
    """A clock that moves when told to: for tests, the simulator and replay.

    >>> clock = ManualClock(start_ms=1_000)
    >>> clock.advance(ms=250)
    >>> clock.now_ms(), clock.monotonic_s()
    (1250, 0.25)
    """

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._start_ms = start_ms
        self._elapsed_ms = 0

    def now_ms(self) -> int:
        """The time it was set to, in milliseconds since the epoch."""
        return self._start_ms + self._elapsed_ms

    def monotonic_s(self) -> float:
        """Seconds since this clock was made."""
        return self._elapsed_ms / 1000

    def advance(self, ms: int) -> None:
        """Move forward by ``ms`` milliseconds.

        Raises:
            ValueError: If ``ms`` is negative.
        """
        if ms < 0:
            raise ValueError(f"a clock cannot be moved back (by {ms} ms)")
        self._elapsed_ms += ms

"""RestartStrategy: whether and when a failed job is tried again. Pure.

Exponential backoff with jitter, which begins anew once a checkpoint was completed, and a budget
of restarts within a window of time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from streamline.plural import counted


class RestartStrategy:
    """Decides about restarts.

    Args:
        initial_ms: Longest wait before the first restart.
        max_ms: Longest wait ever.
        budget: More restarts than that within the window are refused.
        window_ms: Length of the window.
        jitter: Gives a number from 0 to 1; the wait is that part, at least half, of the longest.

    >>> strategy = RestartStrategy(
    ...     initial_ms=100, max_ms=1_000, budget=2, window_ms=60_000, jitter=lambda: 1.0
    ... )
    >>> [strategy.delay_ms(now_ms) for now_ms in (0, 10, 20, 70_000)]
    [100, 200, None, 400]
    >>> strategy.progressed()
    >>> strategy.delay_ms(now_ms=75_000)
    100
    """

    def __init__(
        self,
        *,
        initial_ms: int,
        max_ms: int,
        budget: int,
        window_ms: int,
        jitter: Callable[[], float],
    ) -> None:
        self._initial_ms = initial_ms
        self._max_ms = max_ms
        self._budget = budget
        self._window_ms = window_ms
        self._jitter = jitter
        self._recent: deque[int] = deque()
        self._in_vain = 0

    @property
    def budget(self) -> str:
        """The budget in words."""
        return f"{counted(self._budget, 'restart')} in {self._window_ms / 1000:g} s"

    def progressed(self) -> None:
        """A checkpoint was completed: the next failure is another one, and waits the least."""
        self._in_vain = 0

    def delay_ms(self, now_ms: int) -> int | None:
        """A failure happened now: wait so long before trying again, or None to give up."""
        while self._recent and now_ms - self._recent[0] > self._window_ms:
            self._recent.popleft()
        if len(self._recent) >= self._budget:
            return None
        longest = min(self._max_ms, self._initial_ms << min(self._in_vain, 30))
        self._in_vain += 1
        self._recent.append(now_ms)
        return round(longest * (0.5 + 0.5 * self._jitter()))

"""An event loop in which time passes when the simulation says so."""

import asyncio
import selectors
from typing import Any

START_MS = 1_700_000_000_000


class _Jump(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Never waits: what would be waited for is added to the loop's time."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "nothing will ever happen again"
        self.loop.now += max(timeout, 0.0) + self.loop.tick_s
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs everything in one thread; a turn of the loop takes a fixed time.

    Args:
        tick_s: So long.
    """

    def __init__(self, tick_s: float) -> None:
        selector = _Jump()
        super().__init__(selector)
        selector.loop = self
        self.now = 0.0
        self.tick_s = tick_s

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        """At once: a thread would make it another run every time."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        pass

    def remove_signal_handler(self, sig: int) -> bool:
        return True

    def now_ms(self) -> int:
        return START_MS + int(self.now * 1000)

    def monotonic_s(self) -> float:
        return self.now

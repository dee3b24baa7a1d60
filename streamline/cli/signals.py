"""Signals that come before there is something to be stopped.

They are counted by a handler. Blocking them in the main thread is not enough: the kernel hands them
to any thread of the process, such as those of numpy and RocksDB.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from streamline.engines.local import STOPPING


class HeldSignals:
    """Holds SIGINT and SIGTERM back while it is open, until somebody takes them."""

    def __init__(self) -> None:
        self._held = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._came) for number in STOPPING}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hand_over(self, interrupt: Callable[[], None]) -> None:
        """Pass on what has come; whoever takes it handles the signals from now on."""
        for _ in range(self._held):
            interrupt()
        self._held = 0

    def _came(self, number: int, frame: FrameType | None) -> None:
        self._held += 1

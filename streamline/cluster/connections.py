"""Connections to the API that say nothing, never end, or never read: each is ended after a while.

uvicorn ends a connection only that is idle behind an answer. Here one that does not come to a whole
head in time, stops in the midst of a body, or does not take its answer is ended and counted, and of
too many the one goes that has been silent for longest. It knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_PIECE = 1024
"""What has to come, or be taken, to count as progress: a byte now and then does not."""


@dataclass(frozen=True)
class Patience:
    """How long the API waits for those who connect.

    Attributes:
        head_s: For the head of a request, from the connection or the last answer on.
        stall_s: For the next piece of a body, or for the next piece of an answer to be taken.
        connections: So many may be open at once: each takes one of the process's files.
    """

    head_s: float = 10.0
    stall_s: float = 30.0
    connections: int = 256


class Refusals:
    """A count.

    Attributes:
        count: Connections that were ended because nothing came of them.
    """

    def __init__(self) -> None:
        self.count = 0


def patient(patience: Patience, refusals: Refusals) -> type[H11Protocol]:
    """What uvicorn makes of each connection, with limits.

    Args:
        patience: The limits.
        refusals: Where those who are refused are counted.
    """

    class Patient(_Patient):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.patience, self.refusals = patience, refusals

    return Patient


class _Patient(H11Protocol):
    """One connection.

    Attributes:
        patience, refusals: See :func:`patient`.
        since_s: Since when nothing has come of it, by the loop's time.
    """

    patience: Patience
    refusals: Refusals

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.since_s = self.loop.time()
        self._received = 0
        self._seen: tuple[str, int] = ("head", 0)
        self._looking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since_s = self.loop.time()
        self._look()
        if len(self.connections) > self.patience.connections:
            others = [one for one in self.connections if isinstance(one, _Patient)]
            silent = [one for one in others if one.waits_for() == "head"]
            min(silent, key=lambda one: one.since_s, default=self).refuse()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._looking is not None:
            self._looking.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)

    def shutdown(self) -> None:
        """The server ends: what has not come to its end is waited for no more."""
        if self.waits_for() == "body":
            self.transport.abort()
        else:
            super().shutdown()

    def waits_for(self) -> str:
        """What has to come next from the other side; empty if it is our turn."""
        if self.transport.get_write_buffer_size():
            return "answer"
        if self.cycle is None or self.cycle.response_complete:
            return "head"
        if self.cycle.more_body and not self.flow.read_paused:
            return "body"
        return ""

    def refuse(self) -> None:
        """End it."""
        self.refusals.count += 1
        self.transport.abort()

    def _look(self) -> None:
        """End it if nothing has come of it for too long; or else look again."""
        now_s = self.loop.time()
        waits_for = self.waits_for()
        progress = {
            "answer": self.transport.get_write_buffer_size(),
            "head": self.server_state.total_requests if self.cycle is None else id(self.cycle),
            "body": self._received // _PIECE,
        }
        seen = (waits_for, progress.get(waits_for, 0))
        if seen != self._seen or not waits_for:
            self._seen, self.since_s = seen, now_s
        limit_s = self.patience.head_s if waits_for == "head" else self.patience.stall_s
        if now_s - self.since_s > limit_s:
            self.refuse()
            return
        self._looking = self.loop.call_later(min(limit_s / 4, 1.0), self._look)

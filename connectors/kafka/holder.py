"""Holder: which run of a job writes to a sink, as they leave word of it at the broker.

The mark of a run stands at an id of its own, under which nothing is written; a newer run
overwrites it. What a run does that has lost its place is the writer's.
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from streamline.connectors.kafka.transactions import Transactions, run_id
from streamline.errors import FencedError
from streamline.io import WriterContext

_KEEP_EVERY_S = 24 * 3600.0
"""Brokers forget an id that was not used for a week, unless they are told otherwise."""
Again: TypeAlias = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""Does something until Kafka is there."""


class Holder:
    """The place of our run among those of the job.

    Args:
        context: Whose place it is.
        topic: Where it writes, for messages.
        timeout_ms: Of its transactions: no mark may be above it.
        again: How to bear with an outage.
    """

    def __init__(
        self, context: WriterContext, topic: str, *, timeout_ms: int, again: Again
    ) -> None:
        self._context = context
        self._topic = topic
        self._again = again
        self._held_s: float | None = None
        self._name = run_id(context.job, context.node)
        # Two runs have the same once in as many times as the timeout has milliseconds.
        self._mark = 1 + zlib.crc32(context.whole_run.encode()) % timeout_ms

    async def take_over(self, transactions: Transactions) -> None:
        """Let other runs know that ours writes here now.

        Raises:
            FencedError: If ours was at work before, and has lost its place to a newer one.
        """
        if not self._context.whole_run:
            return
        if self._context.took_over and await self.overthrown(transactions):
            raise self.fenced()
        await self._hold(transactions)

    async def keep(self, transactions: Transactions) -> None:
        """Renew the mark before brokers forget it; to be called from time to time.

        Raises:
            FencedError: If it is that of a newer run.
        """
        held_s = self._held_s
        if held_s is None or self._context.clock.monotonic_s() - held_s < _KEEP_EVERY_S:
            return
        if await self.overthrown(transactions):
            raise self.fenced()
        await self._hold(transactions)

    async def _hold(self, transactions: Transactions) -> None:
        await self._again(lambda: transactions.hold(self._name, self._mark))
        self._held_s = self._context.clock.monotonic_s()

    async def overthrown(self, transactions: Transactions | None) -> bool:
        """Whether another run has taken over since ours did."""
        if transactions is None or not self._context.whole_run:
            return False
        holder = await self._again(lambda: transactions.holder(self._name))
        return holder not in (None, self._mark)

    def fenced(self) -> FencedError:
        """What to tell then."""
        context = self._context
        return FencedError(
            f"sink {context.node!r}: a newer run of job {context.job!r} writes to topic "
            f"{self._topic!r} now, so this one ends; see to it that only one is started, "
            "or give one of the jobs another name"
        )

"""Router: which task behind an edge gets which records of a batch.

By key group, in turn, or all to all. A batch is split once, by arrays. What the channels behind it
are made of, and what stands on their other end, it does not know.
"""

from __future__ import annotations

from collections.abc import Callable

from streamline.batch import Batch
from streamline.errors import InvariantError
from streamline.graph import Partitioning
from streamline.keys import owner_table
from streamline.messages import Barrier, EndOfInput, Watermark
from streamline.runtime.channel import Sender


class Router:
    """The outgoing side of one edge in one task.

    Args:
        partitioning: How records are spread.
        senders: One channel for each task behind the edge, by index.
        max_parallelism: Number of key groups.
        first: Index of the task that gets the first batch of a rebalance.
        project: What reduces a batch to what the operator behind looks at, if anything.
    """

    def __init__(
        self,
        partitioning: Partitioning,
        senders: list[Sender],
        *,
        max_parallelism: int,
        first: int = 0,
        project: Callable[[Batch], Batch] | None = None,
    ) -> None:
        self.senders = senders
        self._partitioning = partitioning
        self._owners = owner_table(len(senders), max_parallelism)
        self._next = first % len(senders)
        self._project = project

    @property
    def ready(self) -> bool:
        """Whether all that was sent has been delivered."""
        return all(sender.ready for sender in self.senders)

    def emit(self, batch: Batch) -> None:
        """Send each record where it belongs."""
        senders = self.senders
        if self._project is not None:
            batch = self._project(batch)
        if self._partitioning == Partitioning.BROADCAST:
            for sender in senders:
                sender.send(batch)
        elif len(senders) == 1:
            senders[0].send(batch)
        elif self._partitioning == Partitioning.HASH:
            if batch.groups is None:
                raise InvariantError("a batch without keys on a hash edge")
            for sender, part in zip(
                senders, batch.split(self._owners[batch.groups], len(senders)), strict=True
            ):
                if part is not None:
                    sender.send(part)
        else:
            senders[self._next].send(batch)
            self._next = (self._next + 1) % len(senders)

    def control(self, message: Watermark | Barrier | EndOfInput) -> None:
        """Send to every task behind the edge."""
        for sender in self.senders:
            sender.send(message)

"""Credits of a channel: the sender's purse. Pure counting; it knows no transport.

The receiver grants, the sender spends before it sends. A batch larger than all credits
together is charged all of them, so that it passes alone instead of never
(as in RisingWave's ``exchange/permit.rs``).
"""

from __future__ import annotations

from typing import NamedTuple

from streamline.errors import InvariantError


class Cost(NamedTuple):
    """What a batch costs: one of the batches and some of the bytes."""

    batches: int
    size_bytes: int


class Credits:
    """What a sender may still send.

    >>> credits = Credits(batches=1, size_bytes=100)
    >>> cost = credits.spend(250)
    >>> cost, credits.allow(1)
    (Cost(batches=1, size_bytes=100), False)
    >>> credits.grant(cost)
    >>> credits.allow(250)
    True
    """

    def __init__(self, *, batches: int, size_bytes: int) -> None:
        self.limit = Cost(batches, size_bytes)
        self.left = Cost(batches, size_bytes)

    def cost(self, size_bytes: int) -> Cost:
        """What a batch of that size costs."""
        return Cost(1, min(size_bytes, self.limit.size_bytes))

    def allow(self, size_bytes: int) -> bool:
        """Whether a batch of that size may be sent now."""
        return self.left.batches >= 1 and self.left.size_bytes >= min(
            size_bytes, self.limit.size_bytes
        )

    def spend(self, size_bytes: int) -> Cost:
        """Pay for a batch.

        Raises:
            InvariantError: If it was not allowed.
        """
        cost = self.cost(size_bytes)
        left = Cost(self.left.batches - cost.batches, self.left.size_bytes - cost.size_bytes)
        if left.batches < 0 or left.size_bytes < 0:
            raise InvariantError(f"credits would fall to {left} by a batch of {size_bytes} bytes")
        self.left = left
        return cost

    def grant(self, cost: Cost) -> None:
        """Take back what the receiver has consumed.

        Raises:
            InvariantError: If more comes back than was ever given.
        """
        left = Cost(self.left.batches + cost.batches, self.left.size_bytes + cost.size_bytes)
        if left.batches > self.limit.batches or left.size_bytes > self.limit.size_bytes:
            raise InvariantError(f"credits would grow to {left}, beyond {self.limit}")
        self.left = left

"""Which partition a key goes to: the same one as with Kafka's Java client.

The arithmetic is Kafka's ``DefaultPartitioner``: murmur2 of the key's bytes. It has nothing to do
with our key groups, and asks no broker: how many partitions there are, it is told.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiokafka.partitioner import murmur2

_MOST_KEYS = 1 << 18


class Partitions(dict[bytes, int]):
    """Partition of each key, remembered; keys that come back cost a look into a dict.

    A key's partition is ``murmur2(key) & 0x7fffffff`` modulo the number of partitions, so that
    topics written by other clients are partitioned alike.

    >>> Partitions(10)[b"foobar"]
    6
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count
        self._turn = 0

    def __missing__(self, key: bytes) -> int:
        if len(self) >= _MOST_KEYS:
            self.clear()
        partition: int = (murmur2(key) & 0x7FFFFFFF) % self.count
        self[key] = partition
        return partition

    def of(self, keys: Sequence[bytes | None]) -> list[int]:
        """Partitions of many keys; records without a key go to one partition a batch, in turn."""
        if None not in keys:
            return [self[key] for key in keys]  # type: ignore[index]
        turn = self.next()
        return [turn if key is None else self[key] for key in keys]

    def next(self) -> int:
        """The partition whose turn it is."""
        self._turn = (self._turn + 1) % self.count
        return self._turn

"""The same as ``batches``, by aiokafka's public ``getmany``: for when its inside has changed.

It makes an object of every record and is several times slower. The reader sees the same pieces
either way, and does not know which of the two brought them.
"""

from __future__ import annotations

import asyncio
from collections import deque

from aiokafka import AIOKafkaConsumer, TopicPartition, errors

from streamline.connectors.kafka.batches import Fetched, Piece

_MOST_OF_ONE = 10_000
"""So many records of a partition are kept until they are taken."""
_WAIT_MS = 100


class FetchedByGetmany(Fetched):
    """What ``getmany`` has brought, by partition; a task asks for more when little is left."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer
        self._pieces: dict[TopicPartition, deque[Piece]] = {}
        self._errors: dict[TopicPartition, errors.KafkaError] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._stopped: set[TopicPartition] = set()
        self._arrived = asyncio.Event()
        self._wanted = asyncio.Event()
        self._task = asyncio.ensure_future(self._fetch())

    def partitions(self) -> list[TopicPartition]:
        return [*self._errors, *(at for at in self._pieces if at not in self._errors)]

    def take(self, partition: TopicPartition) -> Piece | None:
        error = self._errors.pop(partition, None)
        if error is not None:
            raise error
        pieces = self._pieces.get(partition)
        if not pieces:
            return None
        piece = pieces.popleft()
        if not pieces:
            del self._pieces[partition]
        self._wanted.set()
        return piece

    def stop(self, partition: TopicPartition) -> None:
        self._stopped.add(partition)
        self._pieces.pop(partition, None)

    async def wait(self, timeout_s: float) -> None:
        self._arrived.clear()
        try:
            await asyncio.wait_for(self._arrived.wait(), timeout_s)
        except TimeoutError:
            pass

    def forget(self) -> None:
        self._pieces.clear()
        self._errors.clear()
        self._positions.clear()

    def failure(self) -> BaseException | None:
        task = self._task
        return task.exception() if task.done() and not task.cancelled() else None

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _kept(self, partition: TopicPartition) -> int:
        return sum(len(one.values) for one in self._pieces.get(partition, ()))

    async def _fetch(self) -> None:
        consumer = self._consumer
        while True:
            assigned = consumer.assignment()
            if all(self._kept(at) >= _MOST_OF_ONE for at in assigned):
                self._wanted.clear()
                try:
                    await asyncio.wait_for(self._wanted.wait(), _WAIT_MS / 1000)
                except TimeoutError:
                    pass
                continue
            # One that is held back must not hold back the others by what is kept of it.
            full = {at for at in assigned if self._kept(at) >= _MOST_OF_ONE} | self._stopped
            consumer.pause(*full & assigned)
            consumer.resume(*assigned - full)
            try:
                found = await consumer.getmany(timeout_ms=_WAIT_MS)
            except errors.OffsetOutOfRangeError as error:
                for partition in error.args[0]:
                    self._errors[partition] = error
                self._arrived.set()
                await asyncio.sleep(_WAIT_MS / 1000)
                continue
            if consumer.assignment() != assigned:
                continue  # it was assigned anew meanwhile
            for partition in assigned - self._stopped:
                behind = await consumer.position(partition)
                if behind > self._positions.get(partition, -1):
                    # Also when nothing but markers of transactions lay there.
                    self._positions[partition] = behind
                    records = found.get(partition, [])
                    self._pieces.setdefault(partition, deque()).append(Piece.of(records, behind))
                    self._arrived.set()


def fetched_by(consumer: AIOKafkaConsumer, *, whole_batches: bool, whole_records: bool) -> Fetched:
    """What a consumer fetches: whole batches where that is possible.

    Args:
        consumer: It.
        whole_batches: Whether it is possible.
        whole_records: Whether more is wanted of records than their values.
    """
    if whole_batches:
        return Fetched(consumer, whole=whole_records)
    return FetchedByGetmany(consumer)

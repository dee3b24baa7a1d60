"""Whole record batches out of aiokafka's fetcher, instead of an object for each record.

``getmany`` makes a ConsumerRecord of every record, and that is nearly all it spends its time
on. This file, and no other, looks inside its fetcher: a fetched piece of a partition is taken
out and its record batches are read as they are. When aiokafka changes, ``fit`` says so,
a test fails, and ``getmany`` does the same more slowly.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import fetcher as inside
from aiokafka.errors import CorruptRecordException, KafkaConnectionError, KafkaError
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.default_records import DefaultRecordBatch

from streamline.connectors.kafka.client import check_alive

_LOOK_EVERY_S = 0.2


@dataclass
class Piece:
    """Some records of one partition, one after the other.

    Attributes:
        values: What the records hold, None for a tombstone.
        offsets: Where they stand, ascending.
        next_offset: Where reading goes on behind them; it may lie behind markers of
            transactions and records that were aborted or compacted away.
        records: Objects with ``offset``, ``timestamp``, ``key``, ``value`` and ``headers``; none
            if nobody asked for them.
    """

    values: list[Any]
    offsets: Sequence[int]
    next_offset: int
    records: list[Any]

    @classmethod
    def of(cls, records: list[Any], next_offset: int) -> Piece:
        """A piece of some records, which are kept."""
        values = [record.value for record in records]
        return cls(values, [record.offset for record in records], next_offset, records)

    def between(self, start: int, stop: int | None) -> Piece:
        """Those from one offset on and before another."""
        first = bisect_left(self.offsets, start)
        end = len(self.offsets) if stop is None else bisect_left(self.offsets, stop)
        if first == 0 and end == len(self.offsets):
            return self
        part = slice(first, end)
        return Piece(self.values[part], self.offsets[part], self.next_offset, self.records[part])


class GapsError(Exception):
    """Records were compacted away, so where the others stand has to be asked of each."""


class Fetched:
    """What a consumer has fetched and nobody has taken yet, by partition.

    Args:
        consumer: It.
        whole: Whether pieces have their records, not values and offsets alone.
    """

    def __init__(self, consumer: AIOKafkaConsumer, *, whole: bool) -> None:
        self._consumer: Any = consumer
        self._whole = whole
        self._with_gaps: set[TopicPartition] = set()
        self._fetcher: Any = consumer._fetcher
        # A partition that is held back must not hold back the others of its broker.
        self._fetcher._prefetch_backoff = 0.0
        self._open: dict[TopicPartition, Iterator[Piece]] = {}
        self._results: dict[TopicPartition, Any] = {}

    def partitions(self) -> list[TopicPartition]:
        """Partitions that have something to take, or an error to raise."""
        return list(self._fetcher._records)

    def take(self, partition: TopicPartition) -> Piece | None:
        """The next record batch of a partition, or None if none is left of what was fetched.

        A piece may be without records: nothing but markers lay there.

        Raises:
            KafkaError: What fetching from this partition came to.
        """
        waiting = self._fetcher._records
        result = waiting.get(partition)
        if result is None:
            return None
        if isinstance(result, inside.FetchError):
            self._done(partition)
            result.check_raise()
        if self._results.get(partition) is not result:
            if not result.has_more() or not result.check_assignment(partition):
                self._done(partition)
                return None
            self._results[partition] = result
            whole = self._whole or partition in self._with_gaps
            self._open[partition] = pieces_of(result._partition_records, whole=whole)
        try:
            piece = next(self._open[partition], None)
        except GapsError:
            # What was read is gone: it is fetched once more, and read with its offsets from now on.
            self._with_gaps.add(partition)
            self._consumer.seek(partition, result._partition_records.next_fetch_offset)
            self._done(partition)
            return None
        if not result._partition_records._records.has_next():
            # At once, or else the fetcher would not ask for more until we come again.
            result._update_position()
            self._done(partition)
        return piece

    def stop(self, partition: TopicPartition) -> None:
        """No more of this partition is wanted; what is not taken keeps it from being fetched."""

    async def wait(self, timeout_s: float) -> None:
        """Return when something was fetched, or after some time."""
        arrived = self._fetcher._create_fetch_waiter()
        try:
            await asyncio.wait(
                [arrived, self._fetcher.error_future],
                timeout=timeout_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            arrived.cancel()

    def caught_up(self, partition: TopicPartition, offset: int) -> bool:
        """Whether the broker has nothing more at ``offset``, as far as it has told us."""
        behind = self.behind(partition, offset)
        return behind is not None and behind <= 0

    def behind(self, partition: TopicPartition, offset: int) -> int | None:
        """How many offsets there are from ``offset`` on, as far as the broker has told us."""
        if partition not in self._consumer.assignment():
            return None  # not yet, or not any more; aiokafka would not have the question
        last: int | None = self._consumer.last_stable_offset(partition)
        if last is None or last < 0:
            last = self._consumer.highwater(partition)
        return None if last is None else last - offset

    async def reachable(self, within_s: float) -> bool:
        """Ask the brokers who they are; False if none answers in time."""
        try:
            # aiokafka itself would wait for one that stands still for 40 s.
            async with asyncio.timeout(within_s):
                answered: bool = await self._consumer._client.force_metadata_update()
        except TimeoutError:
            return False
        return answered

    def missing_topic(self) -> str:
        """A topic that is read and that the brokers do not know, by what they told last; or ""."""
        consumer = self._consumer
        topics = {at.topic for at in consumer.assignment()}
        topics -= consumer._client.cluster.unauthorized_topics
        return next((one for one in sorted(topics) if not consumer.partitions_for_topic(one)), "")

    def forget(self) -> None:
        """The consumer was assigned anew: what it had fetched is void."""
        self._open.clear()
        self._results.clear()

    def failure(self) -> BaseException | None:
        """What ended the fetcher itself, if anything has."""
        found: BaseException | None = None
        try:
            check_alive(self._consumer._client)
        except KafkaError as error:
            found = error
        task = self._fetcher.error_future
        if task.done() and not task.cancelled():
            found = task.exception() or found
        return found

    async def close(self) -> None:
        """Before the consumer is stopped."""

    def _done(self, partition: TopicPartition) -> None:
        """Let the fetcher ask for more of this partition."""
        self._fetcher._records.pop(partition, None)
        self._results.pop(partition, None)
        self._open.pop(partition, None)
        self._fetcher._notify(self._fetcher._wait_consume_future)


class Marker(Enum):
    """How a transaction ended, as it stands in the log."""

    COMMIT = "commit"
    ABORT = "abort"


async def markers(
    consumer: AIOKafkaConsumer, partition: TopicPartition, producer_id: int, end: int
) -> Marker | None:
    """The first marker of a producer at or behind the consumer's position, before ``end``.

    Raises:
        KafkaError: If the partition cannot be read, or not from that position any more.
    """
    fetcher: Any = consumer._fetcher
    while True:
        result = fetcher._records.pop(partition, None)
        if result is None:
            if await consumer.position(partition) >= end:
                return None
            arrived = fetcher._create_fetch_waiter()
            fetcher._notify(fetcher._wait_consume_future)
            await asyncio.wait([arrived], timeout=_LOOK_EVERY_S)
            arrived.cancel()
            check_alive(consumer._client)
            dead = fetcher.error_future
            if dead.done() and not dead.cancelled():
                raise KafkaConnectionError(f"fetching has ended: {dead.exception()}")
            continue
        if isinstance(result, inside.FetchError):
            result.check_raise()
        records = result._partition_records._records
        while records.has_next():
            batch = records.next_batch()
            result._partition_records.next_fetch_offset = batch.next_offset
            if batch.is_control_batch and batch.producer_id == producer_id:
                kind = ControlRecord.parse(next(iter(batch)).key)
                return Marker.ABORT if kind == ABORT_MARKER else Marker.COMMIT
        result._update_position()


def pieces_of(fetched: Any, *, whole: bool) -> Iterator[Piece]:
    """The record batches of one fetched piece, without those that were aborted.

    Follows ``PartitionRecords._unpack_records`` of aiokafka, a batch at a time.

    Args:
        fetched: What was fetched.
        whole: Keep the records. To let go of each as soon as its value is known takes two thirds
            of the time; they stand one behind the other then, which is so as long as none was
            compacted away.

    Raises:
        GapsError: If that is not so; ``fetched.next_fetch_offset`` is where to read again.
    """
    records, committed_only = fetched._records, fetched._isolation_level
    while records.has_next():
        batch = records.next_batch()
        if fetched._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"a record batch of {fetched._tp} is damaged")
        first, behind = fetched.next_fetch_offset, batch.next_offset
        hidden = batch.is_control_batch
        if committed_only and batch.producer_id is not None:
            fetched._consume_aborted_up_to(batch.base_offset)
            aborted = fetched._aborted_producers
            if batch.is_control_batch and fetched._contains_abort_marker(batch):
                aborted.discard(batch.producer_id)
            hidden = hidden or (batch.is_transactional and batch.producer_id in aborted)
        if hidden:
            piece = Piece([], [], behind, [])
        elif whole or not isinstance(batch, DefaultRecordBatch):
            piece = Piece.of(list(batch), behind)
        else:
            offsets = range(batch.base_offset, behind)
            piece = Piece([row.value for row in batch], offsets, behind, [])
            if len(piece.values) != len(offsets):
                raise GapsError
        piece = piece.between(first, None)  # reading may begin inside this batch
        fetched.next_fetch_offset = behind
        yield piece

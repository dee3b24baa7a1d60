"""KafkaReader: the partitions of one task, read a record batch at a time.

It owns one consumer: where reading stands in each partition, where a bounded one ends, and what
the group is told. Positions come from the checkpoint; those of the group count only where a job
begins from scratch. How record batches come out of aiokafka stands in ``batches``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import aiokafka
from aiokafka import AIOKafkaConsumer, TopicPartition, errors

from streamline.batch import Batch
from streamline.connectors.kafka.batches import Fetched
from streamline.connectors.kafka.client import AWAY, OURS, KafkaSecurity, explain, log, retry
from streamline.connectors.kafka.decode import Decoder
from streamline.connectors.kafka.fit import lacking
from streamline.connectors.kafka.getmany import fetched_by
from streamline.errors import ConnectorError, OutageError
from streamline.formats import Format
from streamline.io import Position, ReaderContext, SourceReader
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP

T = TypeVar("T")
_LOOK_AFTER_S = 1.0
_ANSWER_WITHIN_S = 3.0
_WAIT_S = 0.2
_GONE_LOOKS = 12
_TELL_WITHIN_S = 5.0
_FOREVER_S = 1e9


@dataclass(frozen=True)
class ReadSettings:
    """What a reader is told of its source; ``KafkaSource`` says what each means."""

    servers: str
    format: Format[Any]
    group: str | None
    start: str | datetime
    bounded: bool
    isolation: str
    on_offset_reset: str
    max_skew_ms: int | None
    give_up_after_ms: int
    fetch_bytes: int
    security: KafkaSecurity
    metadata: bool = False


@dataclass
class _Partition:
    """Where reading stands in one partition.

    Attributes:
        name: As in ``batch.partition``.
        at: Topic and number.
        offset: Of the next record; None until it is known where to begin.
        end: Where a bounded source ends; None if it does not, or it is not known yet.
        first: The job starts from scratch: begin where ``start`` says.
    """

    name: str
    at: TopicPartition
    offset: int | None
    end: int | None
    first: bool

    @property
    def ended(self) -> bool:
        return self.offset is not None and self.end is not None and self.offset >= self.end


class KafkaReader(SourceReader[T]):
    """Reads record batches that the consumer fetches ahead; ``poll`` never waits for it."""

    def __init__(self, source: ReadSettings) -> None:
        self._source = source
        self._partitions: dict[TopicPartition, _Partition] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self._fetched: Fetched | None = None
        self._placing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None
        self._untold: dict[TopicPartition, int] = {}
        self._group_away = False
        self._gone = ""
        self._assigned = False
        self._lag: int | None = None
        self._reached = MIN_TIMESTAMP
        self.active: set[str] = set()

    @property
    def lag(self) -> int | None:
        return self._lag

    @property
    def reached(self) -> int | None:
        return None if self._source.max_skew_ms is None else self._reached

    # ------------------------------------------------------------------ begin and end

    async def open(self, context: ReaderContext) -> None:
        self._context = context
        source = self._source
        self._decoder = Decoder(source.format, metadata=source.metadata, context=context)
        self._loop = asyncio.get_running_loop()
        await self._again(self._connect, self._source.give_up_after_ms / 1000)
        self._watching = asyncio.ensure_future(self._watch())

    async def _connect(self) -> None:
        source = self._source
        consumer = AIOKafkaConsumer(
            bootstrap_servers=source.servers,
            client_id=f"{OURS}{self._context.node}-{self._context.index}",
            group_id=source.group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=source.isolation,
            max_partition_fetch_bytes=source.fetch_bytes,
            **source.security.options(),
        )
        try:
            await consumer.start()
        except BaseException:
            await consumer.stop()
            raise
        self._consumer = consumer
        lacks = lacking(consumer)
        if lacks:
            log.warning(
                "streamline: source %r: aiokafka %s is not the one that whole record batches are "
                "read by (%s), so records are read one by one, several times as slowly; install a "
                "version that streamline names",
                self._node,
                aiokafka.__version__,
                lacks,
            )
        self._fetched = fetched_by(consumer, whole_batches=not lacks, whole_records=source.metadata)

    def assign(self, positions: Mapping[str, Position | None]) -> None:
        begins = not self._assigned and not self._context.restored
        self._assigned = True
        for name, position in sorted(positions.items()):
            topic, _, number = name.rpartition("/")
            at = TopicPartition(topic, int(number))
            if at in self._partitions:
                continue
            offset, end, first = position or (None, None, begins)
            partition = _Partition(name, at, offset, end, first)
            self._partitions[at] = partition
            if not partition.ended:
                self.active.add(name)
        if self._placing is not None:
            self._placing.cancel()
        self._placing = asyncio.ensure_future(self._place())

    async def close(self) -> None:
        telling, self._telling = self._telling, None
        if telling is not None:
            await asyncio.wait([telling], timeout=1.0)  # so that a job that ends shows no lag
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        tasks = [task for task in (self._placing, self._watching) if task is not None]
        self._placing = self._watching = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        consumer, self._consumer = self._consumer, None
        fetched, self._fetched = self._fetched, None
        if fetched is not None:
            await fetched.close()
        if consumer is not None:
            try:
                await consumer.stop()
            except errors.KafkaError as error:
                log.debug("closing a consumer: %s", error)

    async def checkpoint_committed(self, positions: Mapping[str, Position]) -> None:
        consumer = self._consumer
        if self._source.group is None or consumer is None:
            return
        assigned = consumer.assignment()
        self._untold |= {
            partition.at: position[0]
            for partition in self._partitions.values()
            if partition.at in assigned
            and (position := positions.get(partition.name))
            and position[0] is not None
        }
        # The job does not wait for it; what comes meanwhile goes with the next.
        if self._untold and (self._telling is None or self._telling.done()):
            self._telling = asyncio.ensure_future(self._tell_group(consumer))

    async def _tell_group(self, consumer: AIOKafkaConsumer) -> None:
        """Commit offsets to the group, for tools that show the lag; an error is said once."""
        while self._untold:
            assigned = consumer.assignment()
            offsets = {at: offset for at, offset in self._untold.items() if at in assigned}
            self._untold = {}
            if not offsets:
                return
            try:
                async with asyncio.timeout(_TELL_WITHIN_S):
                    await consumer.commit(offsets)
                self._group_away = False
            except TimeoutError:
                self._say_of_group("its coordinator does not answer")
            except errors.KafkaError as error:
                self._say_of_group(explain(error, self._source.servers))

    def _say_of_group(self, why: str) -> None:
        if not self._group_away:
            self._group_away = True
            log.warning(
                "streamline: source %r: offsets are not told to group %r, so tools show no lag: %s",
                self._node,
                self._source.group,
                why,
            )

    # ------------------------------------------------------------------ where to begin

    async def _place(self) -> None:
        """Find out where to begin, then have the consumer fetch."""
        consumer = self._consumer
        assert consumer is not None
        lost = [one for one in self._partitions.values() if one.offset is None]
        if lost:
            await self._again(lambda: self._locate(consumer, lost), _FOREVER_S)
        wanted = [one for one in self._partitions.values() if not one.ended]
        self.active.intersection_update({one.name for one in wanted})
        # In one go: between the two the fetcher would ask where to begin.
        consumer.assign([one.at for one in wanted])
        for one in wanted:
            consumer.seek(one.at, one.offset)
        assert self._fetched is not None
        self._fetched.forget()

    async def _locate(self, consumer: AIOKafkaConsumer, lost: list[_Partition]) -> None:
        source = self._source
        ats = [one.at for one in lost]
        earliest = await consumer.beginning_offsets(ats)
        latest = await consumer.end_offsets(ats)
        found: dict[TopicPartition, int] = {}
        if source.start == "latest":
            found = latest
        elif source.start == "committed":
            for at in ats:
                committed = await consumer.committed(at)
                # Also where its records are gone: that is for on_offset_reset to decide.
                found[at] = earliest[at] if committed is None else committed
        elif isinstance(source.start, datetime):
            time_ms = round(source.start.timestamp() * 1000)
            for at, there in (
                await consumer.offsets_for_times(dict.fromkeys(ats, time_ms))
            ).items():
                found[at] = latest[at] if there is None else there.offset
        for one in lost:
            if source.bounded:
                # What was added after the start does not belong to it.
                one.end = latest[one.at] if one.first else earliest[one.at]
            one.offset = found.get(one.at, earliest[one.at]) if one.first else earliest[one.at]
            one.first = False

    # ------------------------------------------------------------------ reading

    def poll(self) -> Batch | None:
        if self._placing is not None:
            if not self._placing.done():
                return None
            placing, self._placing = self._placing, None
            placing.result()
        if self._watching is not None and self._watching.done():
            self._watching.result()  # it ends by an error alone, and nobody would see it
        fetched = self._fetched
        assert fetched is not None
        failure = fetched.failure()
        if failure is not None:
            kind = OutageError if isinstance(failure, AWAY) else ConnectorError
            raise kind(f"source {self._node!r}: {explain(failure, self._source.servers)}")
        if self._gone:
            raise ConnectorError(
                f"source {self._node!r}: there is no topic {self._gone!r} at "
                f"{self._source.servers} any more; create it again and begin the job with --fresh, "
                "or correct topic="
            )
        for partition in self._choose(fetched):
            batch = self._read(fetched, partition)
            if batch is not None or self._placing is not None:
                return batch
        return None

    async def wait(self) -> None:
        fetched, placing = self._fetched, self._placing
        if placing is not None:
            await asyncio.wait([placing], timeout=_WAIT_S)
        elif fetched is not None and not self._choose(fetched):
            await fetched.wait(_WAIT_S)

    def snapshot(self) -> dict[str, Position]:
        return {one.name: [one.offset, one.end, one.first] for one in self._partitions.values()}

    def _choose(self, fetched: Fetched) -> list[_Partition]:
        """Partitions with something to read: the one furthest behind in event time first."""
        ready = [
            one
            for at in fetched.partitions()
            if (one := self._partitions.get(at)) is not None and not one.ended
        ]
        reached = self._context.watermarks
        if len(ready) > 1:
            ready.sort(key=lambda one: reached.get(one.name, MIN_TIMESTAMP))
        skew = self._source.max_skew_ms
        if skew is None:
            return ready
        waited_for = [
            reached.get(one.name, MIN_TIMESTAMP)
            for one in self._partitions.values()
            if not one.ended and not fetched.caught_up(one.at, one.offset or 0)
        ]
        self._reached = min(waited_for, default=MAX_TIMESTAMP)
        furthest = min(self._reached, self._context.others()) + skew
        return [one for one in ready if reached.get(one.name, MIN_TIMESTAMP) <= furthest]

    def _read(self, fetched: Fetched, partition: _Partition) -> Batch | None:
        """The next records of a partition; None if nothing but markers was there."""
        assert partition.offset is not None
        pieces, count = [], 0
        try:
            while count < self._context.batch_rows and not partition.ended:
                piece = fetched.take(partition.at)
                if piece is None:
                    break
                partition.offset = piece.next_offset
                piece = piece.between(0, partition.end)
                pieces.append(piece)
                count += len(piece.values)
        except errors.OffsetOutOfRangeError:
            # Not every engine calls us from within its loop.
            self._placing = self._loop.create_task(self._reset(partition))
        except AWAY as error:
            log.debug("fetching %s: %s", partition.name, error)
        except errors.KafkaError as error:
            reason = explain(error, self._source.servers)
            raise ConnectorError(f"source {self._node!r}, {partition.name}: {reason}") from error
        if partition.ended:
            assert partition.end is not None
            partition.offset = partition.end
            fetched.stop(partition.at)
            self.active.discard(partition.name)
        return self._decoder.decode(partition.name, partition.at, pieces) if count else None

    # ------------------------------------------------------------------ when things go wrong

    @property
    def _node(self) -> str:
        return self._context.node

    async def _again(self, work: Callable[[], Awaitable[None]], give_up_after_s: float) -> None:
        await retry(
            work,
            what=f"source {self._node!r}",
            servers=self._source.servers,
            give_up_after_s=give_up_after_s,
        )

    async def _reset(self, partition: _Partition) -> None:
        """The next record is not there any more, or not there yet."""
        consumer, source = self._consumer, self._source
        assert consumer is not None
        bounds: list[int] = []

        async def look() -> None:
            earliest = await consumer.beginning_offsets([partition.at])
            latest = await consumer.end_offsets([partition.at])
            bounds[:] = earliest[partition.at], latest[partition.at]

        await self._again(look, _FOREVER_S)
        earliest, latest = bounds
        where = (
            f"source {self._node!r}: offset {partition.offset} of {partition.name} is not there; "
            f"the topic now holds offsets {earliest} to {latest}, so records are lost"
        )
        if source.on_offset_reset == "fail":
            raise ConnectorError(
                f'{where}; on_offset_reset="earliest" or "latest" would go on, and --fresh start '
                "over"
            )
        partition.offset = earliest if source.on_offset_reset == "earliest" else latest
        log.warning("streamline: %s; going on at %d", where, partition.offset)
        await self._place()

    def _measure(self, fetched: Fetched) -> None:
        """How far behind reading is; partitions that have not been asked for yet do not count."""
        behind = [
            fetched.behind(one.at, one.offset)
            for one in self._partitions.values()
            if one.offset is not None and not one.ended
        ]
        self._lag = sum(max(0, one) for one in behind if one is not None)

    async def _watch(self) -> None:
        """Say so when no broker answers any more, and when one does again; see topics go."""
        away, missing, looks = False, "", 0
        while self._fetched is not None:
            await asyncio.sleep(_LOOK_AFTER_S)
            self._measure(self._fetched)
            there = await self._fetched.reachable(_ANSWER_WITHIN_S)
            if there == away:
                away = not there
                state = "is back" if there else "cannot be reached; trying again"
                log.warning(
                    "streamline: source %r: Kafka at %s %s", self._node, self._source.servers, state
                )
            # A broker that has just begun may not know all topics yet.
            before, missing = missing, self._fetched.missing_topic() if there else ""
            looks = looks + 1 if missing and missing == before else 0
            if looks >= _GONE_LOOKS:
                self._gone = missing

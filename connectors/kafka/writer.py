"""KafkaWriter: one transaction for each epoch of one task.

It owns the producers of a task and the life of their transactions: prepared at the barrier,
committed by number behind the manifest, and those of earlier runs settled or shut out. When a
checkpoint is taken, and whether it was completed, it is told by its task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from aiokafka import errors

from streamline.batch import Batch
from streamline.connectors.kafka.client import KafkaSecurity, log, retry
from streamline.connectors.kafka.encode import Encoder
from streamline.connectors.kafka.failures import ENDED, broken, lost
from streamline.connectors.kafka.holder import Holder
from streamline.connectors.kafka.partitioner import Partitions
from streamline.connectors.kafka.producer import Producer
from streamline.connectors.kafka.slots import Slots
from streamline.connectors.kafka.topic import look_at_topic
from streamline.connectors.kafka.transactions import (
    Outcome,
    Prepared,
    Transactions,
    parse_id,
    transactional_id,
)
from streamline.errors import ConnectorError, UsageError
from streamline.formats import Format
from streamline.io import Committable, SinkWriter, WriterContext
from streamline.messages import MIN_TIMESTAMP

T = TypeVar("T")
_IN_FLIGHT_BYTES = 8 << 20
_CLOSE_WITHIN_S = 2.0
_NEAR = 0.75
"""What part of its timeout a prepared transaction may wait for its checkpoint."""


@dataclass(frozen=True)
class WriteSettings:
    """What a writer is told of its sink; ``KafkaSink`` says what each means."""

    servers: str
    topic: str
    format: Format[Any]
    key: str | Callable[[Any], Any] | None
    value: Callable[[Any], Any] | None
    headers: Callable[[Any], Any] | None
    exactly_once: bool
    transaction_timeout_ms: int
    fail_on_loss: bool
    compression: str | None
    batch_bytes: int
    give_up_after_ms: int
    security: KafkaSecurity


class KafkaWriter(SinkWriter[T]):
    """Writes record batches; a spare producer stands ready for the next epoch.

    Each transaction has a producer of its own, so that its producer epoch names it alone. The
    producer goes when its epoch is prepared; to commit takes no more than the three numbers in
    the committable, here or in another process.
    """

    def __init__(self, settings: WriteSettings) -> None:
        self._settings = settings
        self._transactions: Transactions | None = None
        self._current: Producer | None = None
        self._spare: asyncio.Task[Producer] | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._slots: Slots | None = None
        self._begun_s: dict[str, float] = {}

    # ------------------------------------------------------------------ begin

    async def open(self, context: WriterContext) -> None:
        self._context = context
        settings = self._settings
        self._encoder = Encoder(
            self._what,
            format=settings.format,
            key=settings.key,
            value=settings.value,
            headers=settings.headers,
        )
        if settings.exactly_once:
            interval = context.checkpoint_interval_ms
            if interval is not None and settings.transaction_timeout_ms < 2 * interval:
                raise UsageError(
                    f"{self._what}: transaction_timeout={settings.transaction_timeout_ms} ms must "
                    f"be at least twice the time between checkpoints, {interval} ms, or records "
                    "that a checkpoint covers are lost; set it higher, or --checkpoint-every lower"
                )
        self._holder = Holder(
            context,
            settings.topic,
            timeout_ms=settings.transaction_timeout_ms,
            again=self._again,
        )
        look = partial(
            look_at_topic,
            settings.servers,
            settings.topic,
            what=self._what,
            security=settings.security,
            transaction_timeout_ms=(
                settings.transaction_timeout_ms if settings.exactly_once else None
            ),
        )
        self._partitions = Partitions(await self._again(look))
        if settings.exactly_once:
            await self._connect()

    async def _connect(self) -> None:
        settings = self._settings
        self._transactions = Transactions(
            settings.servers, settings.security, timeout_ms=settings.transaction_timeout_ms
        )
        await self._again(self._transactions.open)

    async def recover(self, committables: list[Committable]) -> None:
        prepared = [Prepared.of(stored) for stored in committables]
        if self._settings.exactly_once:
            assert self._transactions is not None
            await self._holder.take_over(self._transactions)
            await self._settle_earlier(prepared)
            mine = [parsed for one in prepared if (parsed := parse_id(one.id))]
            recent = {slot for _, _, index, slot in mine if index == self._context.index}
            self._slots = Slots(self._what, recent)
            self._spare = asyncio.ensure_future(self._produce(self._slots.take()))
        else:
            if self._context.restored:
                # The job may have promised more before it was changed.
                await self._connect()
                await self._settle_earlier(prepared)
                earlier, self._transactions = self._transactions, None
                if earlier is not None:
                    await earlier.close()
            self._spare = asyncio.ensure_future(self._produce(None))
        await self._next()
        self._context.probe("producing")

    async def _settle_earlier(self, prepared: list[Prepared]) -> None:
        await self._commit(prepared)
        self._context.probe("settled")
        await self._shut_out({one.id for one in prepared})
        self._context.probe("shut_out")

    async def _shut_out(self, named: set[str]) -> None:
        """Abort what the earlier writers of our share left open, and fence who wrote it.

        Not those that the checkpoint names: they are committed, and must stay what they are.
        """
        context, transactions = self._context, self._transactions
        assert transactions is not None
        for one in await self._again(lambda: transactions.listed(context.job, context.node)):
            parsed = parse_id(one.id)
            ours = parsed is not None and parsed[2] % context.parallelism == context.index
            if ours and one.id not in named:
                await self._again(partial(transactions.fence, one.id))

    # ------------------------------------------------------------------ producers

    async def _produce(self, slot: int | None) -> Producer:
        """A producer under a new producer epoch."""
        settings, context = self._settings, self._context
        name = None
        if slot is not None:
            name = transactional_id(context.job, context.node, context.index, slot)
        producer = Producer(
            settings.servers,
            settings.topic,
            what=self._what,
            slot=slot,
            transactional_id=name,
            timeout_ms=settings.transaction_timeout_ms,
            compression=settings.compression,
            batch_bytes=settings.batch_bytes,
            security=settings.security,
        )
        await self._again(producer.open)
        return producer

    async def _next(self) -> None:
        """Go over to the spare producer, and begin to make another."""
        assert self._spare is not None
        self._current = await self._spare
        self._spare = None
        await self._count_partitions(self._current)
        if self._slots is not None:
            self._spare = asyncio.ensure_future(self._produce(self._slots.take()))

    async def _count_partitions(self, producer: Producer) -> None:
        count = await producer.partition_count()
        if count != self._partitions.count:
            self._partitions = Partitions(count)  # some were added

    def _check_age(self) -> None:
        """See that nothing prepared is near its end.

        Raises:
            ConnectorError: If something is: to go back one checkpoint is no loss, and it would be.
        """
        oldest_s = min(self._begun_s.values(), default=None)
        if oldest_s is None:
            return
        limit_s = self._settings.transaction_timeout_ms / 1000
        if self._context.clock.monotonic_s() - oldest_s > _NEAR * limit_s:
            raise ConnectorError(
                f"{self._what}: a transaction has waited for its checkpoint to complete nearly as "
                f"long as transaction_timeout lets it, {limit_s:g} s; see why checkpoints fail"
            )

    # ------------------------------------------------------------------ writing

    def write(self, batch: Batch) -> None:
        producer = self._current
        assert producer is not None
        rows = batch.to_rows()
        values = rows.values
        keys, headers = self._encoder.keys(values), self._encoder.headers(values)
        encoded = self._encoder.values(values)
        if keys is None:
            targets = [self._partitions.next()] * len(encoded)
        else:
            targets = self._partitions.of(keys)
        now_ms = self._context.clock.now_ms()
        # Brokers refuse times that lie too far in the future, such as the end of a window.
        at = np.minimum(rows.timestamps, now_ms)
        times = np.where(at == MIN_TIMESTAMP, now_ms, at).tolist()
        if not producer.begun:
            producer.begun_s = self._context.clock.monotonic_s()
        producer.add(targets, encoded, keys, times, headers)
        self._context.counters.bytes_out += sum(map(len, encoded))

    async def ready(self) -> None:
        assert self._current is not None
        try:
            await self._current.send(_IN_FLIGHT_BYTES)
        except errors.KafkaError as error:
            raise await self._broken(error) from error

    async def prepare(self, epoch: int) -> list[Committable]:
        producer, settings = self._current, self._settings
        assert producer is not None
        try:
            await producer.send(0)
            if self._transactions is not None:
                await self._holder.keep(self._transactions)
            else:
                await self._count_partitions(producer)
        except errors.KafkaError as error:
            raise await self._broken(error) from error
        if not settings.exactly_once or not producer.ends:
            return []
        assert producer.transactional_id is not None
        self._check_age()
        self._begun_s[producer.transactional_id] = producer.begun_s
        prepared = Prepared(
            producer.transactional_id,
            *producer.identity,
            settings.topic,
            epoch,
            dict(producer.ends),
        )
        retiring = asyncio.ensure_future(producer.close())
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        self._current = None
        await self._next()
        return [prepared.as_list()]

    async def commit(self, committables: list[Committable]) -> None:
        if self._transactions is not None and committables:
            await self._commit([Prepared.of(stored) for stored in committables])

    async def _commit(self, prepared: list[Prepared]) -> None:
        transactions = self._transactions
        assert transactions is not None
        work = [self._again(partial(transactions.commit, one)) for one in prepared]
        outcomes = await asyncio.gather(*work)
        for one, outcome in zip(prepared, outcomes, strict=True):
            if outcome is not Outcome.COMMITTED:
                if await self._holder.overthrown(self._transactions):
                    raise self._holder.fenced()
                self._lost(one, outcome)
            self._begun_s.pop(one.id, None)
            parsed = parse_id(one.id)
            if parsed is not None and parsed[2] == self._context.index and self._slots:
                self._slots.give_back(parsed[3])

    def _lost(self, prepared: Prepared, outcome: Outcome) -> None:
        """A transaction that a checkpoint covers has not been committed, and cannot be."""
        message = lost(self._what, prepared, outcome)
        if self._settings.fail_on_loss:
            raise ConnectorError(f'{message}; on_lost_transaction="log" would go on without them')
        log.error("streamline: %s", message)

    # ------------------------------------------------------------------ end

    async def close(self) -> None:
        current, self._current = self._current, None
        spare, self._spare = self._spare, None
        transactions, self._transactions = self._transactions, None
        if spare is not None:
            # To cancel it at once would leave a half-made connection behind.
            await asyncio.wait([spare], timeout=_CLOSE_WITHIN_S)
            spare.cancel()
            (made,) = await asyncio.gather(spare, return_exceptions=True)
            if isinstance(made, Producer):
                await made.close()
        if current is not None:
            await current.close()
            if transactions is not None and current.begun:
                await self._abort(transactions, current)
        await asyncio.gather(*self._retiring, return_exceptions=True)
        if transactions is not None:
            await transactions.close()

    async def _abort(self, transactions: Transactions, producer: Producer) -> None:
        """Out of politeness: whoever recovers would do it, or the broker in the end."""
        assert producer.transactional_id is not None
        given_up = Prepared(producer.transactional_id, *producer.identity, "", 0, {})
        try:
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await transactions.end(given_up, commit=False)
        except (TimeoutError, errors.KafkaError) as error:
            log.debug("aborting %s: %s", given_up.id, error)

    @property
    def _what(self) -> str:
        return f"sink {self._context.node!r}"

    async def _again(self, work: Callable[[], Any]) -> Any:
        return await retry(
            work,
            what=self._what,
            servers=self._settings.servers,
            give_up_after_s=self._settings.give_up_after_ms / 1000,
        )

    async def _broken(self, error: errors.KafkaError) -> ConnectorError:
        if isinstance(error, ENDED) and await self._holder.overthrown(self._transactions):
            return self._holder.fenced()
        settings = self._settings
        return broken(
            self._what,
            error,
            servers=settings.servers,
            topic=settings.topic,
            batch_bytes=settings.batch_bytes,
            transaction_timeout_ms=settings.transaction_timeout_ms,
        )

"""Producer: the records of one epoch on their way to one topic.

It owns one aiokafka producer and, where there are transactions, the one that is open in it. It
never commits or aborts: that is done by number in ``transactions``. What became of the records
before it, and which checkpoint covers them, it does not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer, errors
from aiokafka.producer.message_accumulator import BatchBuilder

from streamline.connectors.kafka.client import OURS, KafkaSecurity, check_alive, log

_CLOSE_WITHIN_S = 2.0
_OPEN_WITHIN_S = 10.0
_LOOK_EVERY_S = 1.0
_TELL_LOOKS, _SILENT_LOOKS = 3, 20


class Producer:
    """An aiokafka producer that is fed whole record batches.

    Args:
        servers: Some brokers.
        topic: Where to write.
        what: Whose producer it is, for messages.
        slot: Which of the task's transactions this is; None without transactions.
        transactional_id: Its name; None without transactions.
        timeout_ms: After so long the broker aborts the transaction.
        compression: Of record batches.
        batch_bytes: Most bytes of records in one record batch.
        security: Encryption, and who we are.

    Attributes:
        ends: For each partition that was written to, the offset of the last record there.
        begun: Something was handed over to be sent.
        begun_s: When that was, for whoever wants to note it.
    """

    def __init__(
        self,
        servers: str,
        topic: str,
        *,
        what: str,
        slot: int | None,
        transactional_id: str | None,
        timeout_ms: int,
        compression: str | None,
        batch_bytes: int,
        security: KafkaSecurity,
    ) -> None:
        self.topic = topic
        self.slot = slot
        self.transactional_id = transactional_id
        self.ends: dict[int, int] = {}
        self.begun = False
        self.begun_s = 0.0
        self._what, self._servers = what, servers
        self._options: dict[str, Any] = {
            "bootstrap_servers": servers,
            "client_id": f"{OURS}producer",
            "transactional_id": transactional_id,
            "transaction_timeout_ms": timeout_ms,
            "enable_idempotence": True,
            "compression_type": compression,
            "max_batch_size": batch_bytes,
            **security.options(),
        }
        self._producer: AIOKafkaProducer | None = None
        self._queue: list[tuple[int, BatchBuilder]] = []
        self._flying: dict[asyncio.Future[Any], tuple[int, int, int]] = {}
        self._flying_bytes = 0

    @property
    def identity(self) -> tuple[int, int]:
        """Producer id and epoch."""
        assert self._producer is not None
        manager = self._producer._txn_manager
        return manager.producer_id, manager.producer_epoch

    async def open(self) -> None:
        """Get a producer id; aborts and shuts out whoever had the transactional id before.

        Raises:
            KafkaError: If a broker refuses it, or none gives it in time.
        """
        producer = AIOKafkaProducer(**self._options)
        try:
            # aiokafka would ask for a transaction coordinator for ever.
            async with asyncio.timeout(_OPEN_WITHIN_S):
                await producer.start()
                if self.transactional_id is not None:
                    await producer.begin_transaction()
        except TimeoutError:
            await _stop(producer)
            what = "transaction coordinator" if self.transactional_id is not None else "broker"
            raise errors.KafkaTimeoutError(f"no {what} gives out a producer id") from None
        except BaseException:
            await _stop(producer)
            raise
        self._producer = producer

    async def partition_count(self) -> int:
        """How many partitions the topic has now."""
        assert self._producer is not None
        return len(await self._producer.partitions_for(self.topic))

    def add(
        self,
        targets: Sequence[int],
        values: Sequence[bytes],
        keys: Sequence[bytes | None] | None,
        times: Sequence[int],
        headers: Sequence[Sequence[tuple[str, bytes]]] | None,
    ) -> None:
        """Put records into record batches, by partition; ``send`` sends them."""
        assert self._producer is not None
        self.begun = True
        create = self._producer.create_batch
        builders: dict[int, BatchBuilder] = {}
        for place, target in enumerate(targets):
            key = None if keys is None else keys[place]
            extra = [] if headers is None else headers[place]
            builder = builders.get(target)
            if builder is None:
                builder = builders[target] = create()
            at, value = times[place], values[place]
            if builder.append(timestamp=at, key=key, value=value, headers=extra) is None:
                self._queue.append((target, builder))
                builder = builders[target] = create()
                builder.append(timestamp=at, key=key, value=value, headers=extra)
        self._queue += builders.items()

    async def send(self, leave_bytes: int) -> None:
        """Send what was added, and wait until no more than so many bytes are under way.

        Raises:
            KafkaError: If a record batch could not be written.
        """
        assert self._producer is not None
        queue, self._queue = self._queue, []
        for partition, builder in queue:
            size, count = builder.size(), builder.record_count()
            builder.close()
            sent = await self._producer.send_batch(builder, self.topic, partition=partition)
            self._flying[sent] = partition, size, count
            self._flying_bytes += size
        silent, away = 0, False
        while self._flying and (self._flying_bytes > leave_bytes or leave_bytes == 0):
            done, _ = await asyncio.wait(
                self._flying, timeout=_LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED
            )
            self._land()
            check_alive(self._producer.client)
            silent = 0 if done else silent + 1
            if away if done else silent == _TELL_LOOKS:
                away = not done
                state = "cannot be reached; trying again" if away else "is back"
                log.warning("streamline: %s: Kafka at %s %s", self._what, self._servers, state)
            if silent >= _SILENT_LOOKS:
                # aiokafka may wait for ever for brokers that have come back long ago.
                raise errors.KafkaTimeoutError("nothing that was sent has been confirmed")
        self._land()

    def _land(self) -> None:
        """Take note of what has arrived."""
        for future in [one for one in self._flying if one.done()]:
            partition, size, count = self._flying.pop(future)
            self._flying_bytes -= size
            last = future.result().offset + count - 1
            self.ends[partition] = max(self.ends.get(partition, -1), last)

    async def close(self) -> None:
        """Let go of the connection; a transaction stays as it is."""
        producer, self._producer = self._producer, self._producer
        if producer is not None:
            for future in self._flying:
                future.add_done_callback(_ignore)
            await _stop(producer)


async def _stop(producer: AIOKafkaProducer) -> None:
    """Close a producer also when it has something to send and nobody takes it.

    Each step by itself, since one may wait for a task that waits for a broker for ever.
    """
    for close in (producer.stop, producer._sender.close, producer.client.close):
        try:
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await close()
        except (TimeoutError, errors.KafkaError) as error:
            log.debug("closing a producer: %r", error)
        else:
            if close == producer.stop:
                return


def _ignore(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()

"""Transactions at the broker: end, abort, list, and find out what became of one.

A prepared transaction is named by its id, producer id and producer epoch. No two of ours share
all three, so whoever knows them can end it, also in another process, as long as nobody has
asked for a new producer id under its id. What became of one that is gone stands in the log of
the partitions it wrote to, as a marker behind its records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote, unquote

from aiokafka import AIOKafkaConsumer, TopicPartition, errors
from aiokafka.client import AIOKafkaClient, ConnectionGroup, CoordinationType
from aiokafka.protocol.transaction import EndTxnRequest, InitProducerIdRequest
from aiokafka.util import get_running_loop

from streamline.connectors.kafka.batches import Marker, markers
from streamline.connectors.kafka.client import AWAY, OURS, KafkaSecurity, check_alive, explain
from streamline.connectors.kafka.requests import DescribeTransactions, ListTransactions
from streamline.errors import ConnectorError

PREFIX = "streamline"
OPEN_STATES = ("Ongoing", "PrepareCommit", "PrepareAbort", "PrepareEpochFence")
_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0
_PATIENCE_S = 3.0
_LOG_WITHIN_S = 20.0
_UNKNOWN_ID = 105
_FENCED = (47, 48, 49, 90)  # epoch, state, mapping, fenced: it is not that transaction any more
_BUSY = (14, 15, 16, 51)  # the coordinator loads or moves, or an earlier end is still under way


class Outcome(Enum):
    """What became of a transaction."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Prepared:
    """A transaction whose records are all at the broker, not yet visible.

    Attributes:
        id: Its transactional id.
        producer_id, producer_epoch: What it was written under.
        topic: What it was written to.
        checkpoint: Epoch of the checkpoint that covers it.
        ends: For each partition, the offset of its last record.
    """

    id: str
    producer_id: int
    producer_epoch: int
    topic: str
    checkpoint: int
    ends: dict[int, int]

    def as_list(self) -> list[Any]:
        """For the checkpoint."""
        ends = [[partition, offset] for partition, offset in sorted(self.ends.items())]
        return [
            self.id, self.producer_id, self.producer_epoch, self.topic, self.checkpoint, ends,
        ]  # fmt: skip

    @classmethod
    def of(cls, stored: Sequence[Any]) -> Prepared:
        """Undo :meth:`as_list`."""
        name, producer_id, producer_epoch, topic, checkpoint, ends = stored
        return cls(name, producer_id, producer_epoch, topic, checkpoint, dict(ends))


@dataclass(frozen=True)
class Listed:
    """A transaction as the broker tells it.

    Attributes:
        id: Transactional id.
        state: ``Empty``, ``Ongoing``, ``PrepareCommit``, ``CompleteCommit`` ...
        producer_id, producer_epoch: Of who began it last.
        started_ms: When it was begun (ms since the epoch), or -1.
        timeout_ms: After so long the broker aborts it.
        partitions: Topics with partitions that it has written to.
    """

    id: str
    state: str
    producer_id: int
    producer_epoch: int = -1
    started_ms: int = -1
    timeout_ms: int = 0
    partitions: tuple[tuple[str, tuple[int, ...]], ...] = ()


def transactional_id(job: str, node: str, index: int, slot: int) -> str:
    """The stable name of one of a task's transactions.

    >>> transactional_id("orders", "out", 1, 0)
    'streamline/orders/out/1/0'
    """
    return f"{PREFIX}/{quote(job, safe='')}/{quote(node, safe='')}/{index}/{slot}"


def run_id(job: str, node: str) -> str:
    """The id by which runs of a job know which of them holds a sink; nothing is written under it.

    >>> run_id("orders", "out")
    'streamline/orders/out/run'
    """
    return f"{PREFIX}/{quote(job, safe='')}/{quote(node, safe='')}/run"


def parse_id(name: str) -> tuple[str, str, int, int] | None:
    """Job, node, index and slot of a transactional id; None if it is not one of ours."""
    parts = name.split("/")
    if len(parts) != 5 or parts[0] != PREFIX or not (parts[3] + parts[4]).isdigit():
        return None
    return unquote(parts[1]), unquote(parts[2]), int(parts[3]), int(parts[4])


class Transactions:
    """A connection to the transaction coordinators of a cluster.

    While a coordinator is away or busy it is asked again for a short while; then that is raised,
    so that the caller can say so before it goes on asking.

    Args:
        servers: Some brokers.
        security: Encryption, and who we are.
        timeout_ms: What ``fence`` asks for.
        patience_s: For how long to ask again.
    """

    def __init__(
        self,
        servers: str,
        security: KafkaSecurity,
        *,
        timeout_ms: int = 60_000,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._servers = servers
        self._security = security
        self._timeout_ms = timeout_ms
        self._patience_s = patience_s
        self._client: AIOKafkaClient | None = None
        self._anew = asyncio.Lock()

    async def open(self) -> None:
        """Connect.

        Raises:
            KafkaError: If no broker can be reached.
        """
        client = AIOKafkaClient(
            loop=get_running_loop(),
            bootstrap_servers=self._servers,
            client_id=f"{OURS}transactions",
            **self._security.options(),
        )
        try:
            await client.bootstrap()
        except BaseException:
            await client.close()
            raise
        self._client = client

    async def close(self) -> None:
        """Let go of the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def commit(self, prepared: Prepared) -> Outcome:
        """Commit a prepared transaction; repeating it changes nothing.

        Returns:
            ``COMMITTED``, now or before; otherwise what became of it.
        """
        if await self.end(prepared, commit=True):
            return Outcome.COMMITTED
        return await self._look_into_the_log(prepared)

    async def end(self, prepared: Prepared, *, commit: bool) -> bool:
        """End this very transaction; False if it is not there any more."""
        request = EndTxnRequest(prepared.id, prepared.producer_id, prepared.producer_epoch, commit)
        answer = await self._ask(prepared.id, request, lambda answer: answer.error_code)
        if answer.error_code in _FENCED:
            return False
        if answer.error_code != 0:
            raise errors.for_code(answer.error_code)(prepared.id)
        return True

    async def fence(self, name: str, *, timeout_ms: int | None = None) -> tuple[int, int]:
        """Abort what is open under an id, and shut out whoever has written under it.

        Returns:
            Producer id and epoch that are now its owner's.
        """
        request = InitProducerIdRequest(name, timeout_ms or self._timeout_ms)
        answer = await self._ask(name, request, lambda answer: answer.error_code)
        if answer.error_code != 0:
            raise errors.for_code(answer.error_code)(name)
        return answer.producer_id, answer.producer_epoch

    async def hold(self, name: str, mark: int) -> None:
        """Leave a mark at an id under which nothing is written."""
        # It is the timeout of transactions that never are: all that a broker keeps of an id.
        await self.fence(name, timeout_ms=mark)

    async def holder(self, name: str) -> int | None:
        """The mark that was left last; None if there is none, or it has been there for a week."""
        found = await self.describe(name)
        return None if found is None else found.timeout_ms

    async def listed(self, job: str | None = None, node: str | None = None) -> list[Listed]:
        """Transactions of ours, by the id, in whatever state they are."""

        async def ask_all() -> list[Listed]:
            # Each time anew: who is there, and who coordinates what, may have changed.
            found: list[Listed] = []
            for broker in await self._brokers():
                answer = await self._send(broker, ListTransactions())
                if answer.error_code != 0:
                    # A list of a broker that has just begun would be empty, and not the truth.
                    raise errors.for_code(answer.error_code)(f"broker {broker}")
                for name, producer_id, state, _ in answer.transactions:
                    parsed = parse_id(name)
                    if (
                        parsed is not None
                        and job in (None, parsed[0])
                        and node in (None, parsed[1])
                    ):
                        found.append(Listed(name, state, producer_id))
            return found

        return sorted(await self._until_there(ask_all), key=lambda one: one.id)

    async def describe(self, name: str) -> Listed | None:
        """All that is known of one transactional id; None if the broker does not know it."""
        answer = await self._ask(name, DescribeTransactions([name]), lambda a: a.states[0][0])
        code, _, state, timeout_ms, started_ms, producer_id, epoch, topics, _ = answer.states[0]
        if code == _UNKNOWN_ID:
            return None
        if code != 0:
            raise errors.for_code(code)(name)
        partitions = tuple((topic, tuple(numbers)) for topic, numbers, _ in topics)
        return Listed(name, state, producer_id, epoch, started_ms, timeout_ms, partitions)

    # ------------------------------------------------------------------ inside

    async def _ask(self, name: str, request: Any, code: Callable[[Any], int]) -> Any:
        """Send to the coordinator of an id until it has an answer."""

        async def ask() -> Any:
            node = await self._coordinator(name)
            answer = await self._send(node, request, group=ConnectionGroup.COORDINATION)
            if code(answer) in _BUSY:
                raise errors.for_code(code(answer))(name)
            return answer

        return await self._until_there(ask)

    async def _coordinator(self, name: str) -> int:
        assert self._client is not None
        node: int = await self._client.coordinator_lookup(CoordinationType.TRANSACTION, name)
        return node

    async def _send(self, node: int, request: Any, **options: Any) -> Any:
        assert self._client is not None
        return await self._client.send(node, request, **options)

    async def _brokers(self) -> list[int]:
        assert self._client is not None
        try:
            cluster = await self._client.fetch_all_metadata()
        except AWAY:
            raise
        except errors.KafkaError as error:  # it has no kind of its own for that
            raise errors.KafkaConnectionError(str(error)) from error
        await self._client.force_metadata_update()  # to reach those that are new
        return [broker.nodeId for broker in cluster.brokers()]

    async def _until_there(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do something until it succeeds, but not for longer than patience lasts."""
        clock = asyncio.get_running_loop().time
        began_s, pause_s = clock(), _PAUSE_S
        while True:
            try:
                assert self._client is not None
                check_alive(self._client)
                return await work()
            except AWAY:
                if clock() - began_s >= self._patience_s:
                    await self._begin_anew()
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                await self._begin_anew()

    async def _begin_anew(self) -> None:
        """A new client for one that has died; otherwise a new look at who is there."""
        async with self._anew:  # several may wait at the same time
            client = self._client
            if client is None:
                return
            try:
                check_alive(client)
                await client.force_metadata_update()
            except AWAY:
                await self.open()
                await client.close()

    async def _look_into_the_log(self, prepared: Prepared) -> Outcome:
        """Find the marker that ended a transaction, behind its last record in some partition."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers,
            client_id=f"{OURS}log",
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_uncommitted",
            **self._security.options(),
        )
        try:
            await consumer.start()
            for partition, offset in sorted(prepared.ends.items()):
                at = TopicPartition(prepared.topic, partition)
                marker = await self._marker(consumer, at, prepared.producer_id, offset)
                if marker is not None:
                    return Outcome.COMMITTED if marker is Marker.COMMIT else Outcome.ABORTED
        except AWAY:
            raise
        except errors.KafkaError as error:
            raise ConnectorError(explain(error, self._servers)) from error
        finally:
            await consumer.stop()
        return Outcome.UNKNOWN

    async def _marker(
        self, consumer: AIOKafkaConsumer, at: TopicPartition, producer_id: int, offset: int
    ) -> Marker | None:
        """What stands in one partition; None if the topic does not keep it any more."""
        try:
            async with asyncio.timeout(_LOG_WITHIN_S):
                end = (await consumer.end_offsets([at]))[at]
                consumer.assign([at])
                consumer.seek(at, offset)
                return await markers(consumer, at, producer_id, end)
        except errors.OffsetOutOfRangeError:
            return None

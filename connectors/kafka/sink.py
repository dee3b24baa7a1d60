"""KafkaSink: records into a topic, visible with the checkpoint that covers them.

The description alone: it checks what the user has set and makes writers. Nothing here talks to a
broker; see ``writer``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, TypeVar

from streamline.config import Duration, positive_duration_ms
from streamline.connectors.kafka.client import NO_SECURITY, KafkaSecurity
from streamline.connectors.kafka.writer import KafkaWriter, WriteSettings
from streamline.errors import UsageError
from streamline.formats import Format
from streamline.io import Guarantee, Sink, SinkWriter

T = TypeVar("T")
Key: TypeAlias = str | Callable[[Any], bytes | str | int | None]
Headers: TypeAlias = Callable[[Any], Sequence[tuple[str, bytes]]]


class KafkaSink(Sink[T]):
    """Writes to a topic of Apache Kafka.

    Exactly once: what is written between two checkpoints is one transaction of each task. It is
    committed once the checkpoint is complete, also by another process after a crash. Consumers
    must read with ``isolation.level=read_committed``, and see records as often as the job takes
    checkpoints.

    A record goes to the partition that Kafka's Java client would choose for its key. Its
    timestamp is its event time, or the time of writing if it has none or if its event time lies
    in the future, which brokers refuse.

    Args:
        servers: Some brokers, ``"host:port,host:port"``.
        topic: Where to write; it must be there.
        format: How a value is encoded.
        key: A field, or a function, that gives the key: bytes as they are, text as UTF-8,
            an int as its digits, None for no key.
        value: What of a record is written, if not all of it.
        headers: A function that gives names with bytes.
        guarantee: ``"exactly-once"``, or ``"at-least-once"`` for records that are visible at
            once, and again after a crash.
        transaction_timeout: The broker aborts what is not committed for so long, and its records
            are lost; so it must be longer than any downtime that is to be survived. The broker
            has a limit of its own, 15 minutes unless set otherwise.
        on_lost_transaction: What to do when the broker has aborted records that a checkpoint
            covers: ``"fail"``, or ``"log"`` and go on without them.
        compression: Of record batches.
        batch_bytes: Most bytes of records, uncompressed, in one record batch.
        give_up_after: How long to try while no broker can be reached, when the job starts.
        security: Encryption, and who we are.

    Raises:
        UsageError: For a setting that cannot be.

    >>> import streamline as sl
    >>> KafkaSink("localhost:9092", topic="spend", format=sl.Json(), key="user").guarantee
    <Guarantee.EXACTLY_ONCE: 'exactly-once'>
    """

    def __init__(
        self,
        servers: str,
        *,
        topic: str,
        format: Format[Any],
        key: Key | None = None,
        value: Callable[[T], Any] | None = None,
        headers: Headers | None = None,
        guarantee: Literal["exactly-once", "at-least-once"] = "exactly-once",
        transaction_timeout: Duration = "15m",
        on_lost_transaction: Literal["fail", "log"] = "fail",
        compression: Literal["gzip", "snappy", "lz4", "zstd"] | None = None,
        batch_bytes: int = 1 << 18,
        give_up_after: Duration = "5m",
        security: KafkaSecurity = NO_SECURITY,
    ) -> None:
        if not isinstance(format, Format):
            raise UsageError(
                f"KafkaSink(format=...) needs a format such as sl.Json(), not {format!r}"
            )
        if not isinstance(topic, str) or not topic:
            raise UsageError(f"KafkaSink(topic=...) must be the name of a topic, not {topic!r}")
        if guarantee not in tuple(Guarantee):
            raise UsageError(f'guarantee={guarantee!r} must be "exactly-once" or "at-least-once"')
        if on_lost_transaction not in ("fail", "log"):
            raise UsageError(f'on_lost_transaction={on_lost_transaction!r} must be "fail" or "log"')
        if compression not in ("gzip", "snappy", "lz4", "zstd", None):
            raise UsageError(
                f'compression={compression!r} must be "gzip", "snappy", "lz4" or "zstd"'
            )
        self.guarantee = Guarantee(guarantee)
        self.settings = WriteSettings(
            servers=servers,
            topic=topic,
            format=format,
            key=key,
            value=value,
            headers=headers,
            exactly_once=self.guarantee == Guarantee.EXACTLY_ONCE,
            transaction_timeout_ms=positive_duration_ms(transaction_timeout, "transaction_timeout"),
            fail_on_loss=on_lost_transaction == "fail",
            compression=compression,
            batch_bytes=batch_bytes,
            give_up_after_ms=positive_duration_ms(give_up_after, "give_up_after"),
            security=security,
        )

    def writer(self) -> SinkWriter[T]:
        return KafkaWriter(self.settings)

"""KafkaRecord: a value together with what Kafka keeps beside it.

Only the shape: the reader fills it when ``with_metadata()`` asks for it.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from streamline.record import Record

T = TypeVar("T")


class KafkaRecord(Record, Generic[T]):
    """What ``KafkaSource(...).with_metadata()`` brings.

    Attributes:
        value: The decoded value; None for a record without one (a tombstone).
        key: The key's bytes, or None.
        headers: Names with the bytes behind them, in order; a name may come twice.
        timestamp: Milliseconds since the epoch, of the producer or of the broker as the topic
            is set up.
        topic, partition, offset: Where it stands.

    >>> record = KafkaRecord({"user": "ada"}, b"ada", [("trace", b"7")], 1_000, "orders", 3, 42)
    >>> record.value["user"], dict(record.headers)["trace"]
    ('ada', b'7')
    """

    value: T | None
    key: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp: int
    topic: str
    partition: int
    offset: int

"""Dead letters to a topic: the bytes as they were, the reason in the headers."""

from __future__ import annotations

from typing import Any

from streamline.connectors.kafka.sink import KafkaSink
from streamline.formats import Raw
from streamline.io import DeadLetter


def dead_letters_to(servers: str, topic: str, **options: Any) -> KafkaSink[DeadLetter]:
    """A sink for the dead letters of a source.

    The value is what could not be decoded. The headers are ``reason``, ``source`` (the node),
    ``partition`` (such as ``orders/3``) and ``offset``.

    Args:
        servers: Some brokers.
        topic: Where to write; it must be there.
        options: As of :class:`KafkaSink`.

    >>> dead_letters_to("localhost:9092", topic="orders-bad").settings.topic
    'orders-bad'
    """
    return KafkaSink(servers, topic=topic, format=Raw(), value=_data, headers=_headers, **options)


def _data(letter: DeadLetter) -> bytes:
    return letter.data


def _headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    return [
        ("reason", letter.reason.encode()),
        ("source", letter.source.encode()),
        ("partition", letter.partition.encode()),
        ("offset", str(letter.offset).encode()),
    ]

"""Dead letters to a topic: the bytes as they were, the reason in the headers.

It only describes a ``KafkaSink``: what of a dead letter is value and what is header. It writes
nothing itself.
"""

from __future__ import annotations

from typing import Any

from streamline.connectors.kafka.sink import KafkaSink
from streamline.formats import Raw
from streamline.io import DeadLetter

_TRACE_CHARS = 10_000


def dead_letters_to(servers: str, topic: str, **options: Any) -> KafkaSink[DeadLetter]:
    """A sink for the dead letters of a source's format, or of a function's ``on_error``.

    The value is the record's bytes as they were read. The headers are ``reason``, ``node``,
    ``partition`` (topic and number, such as ``orders/3``), ``offset``, and ``trace`` if a
    function raised. Behind a ``key_by``, where the record as it was read is not known any more,
    the value is the record as JSON, and there is neither partition nor offset.

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
    found = {"reason": letter.reason, "node": letter.node}
    if letter.offset >= 0:
        found |= {"partition": letter.partition, "offset": str(letter.offset)}
    if letter.trace:
        found["trace"] = letter.trace[-_TRACE_CHARS:]
    return [(name, text.encode(errors="replace")) for name, text in found.items()]

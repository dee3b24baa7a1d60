"""Bring back records that could not be decoded, once the reason is gone.

A job wrote them to a topic by ``dead_letters_to``, as they were, with the reason in a header.
Here they are decoded as what they should have been: amounts may also be text. What can be
mended goes back to the first topic; the rest is left out and counted.

    streamline run examples/replay_dead_letters.py -p servers=localhost:9092
"""

from __future__ import annotations

import streamline as sl
from streamline.connectors.kafka import KafkaRecord, KafkaSink, KafkaSource


class Loose(sl.Record):
    """An order as some client wrote it."""

    user: str
    amount: float | str
    at: int


class Order(sl.Record):
    """An order as it should be."""

    user: str
    amount: float
    at: int


def mend(letter: KafkaRecord[Loose]) -> list[Order]:
    """The order, if its amount is a number after all."""
    loose = letter.value
    if loose is None:
        return []
    try:
        return [Order(loose.user, float(loose.amount), loose.at)]
    except ValueError:
        return []


def job(servers: str = "localhost:9092", bad: str = "orders-bad", target: str = "orders") -> sl.Job:
    """The pipeline; it ends at what is now the end of the topic."""
    job = sl.Job("replay-dead-letters")
    letters: KafkaSource[Loose] = KafkaSource(
        servers, topic=bad, format=sl.Json(Loose, on_error="skip"), until="latest"
    )
    (
        job.source("letters", letters.with_metadata())
        .flat_map(mend)
        .sink("orders", KafkaSink(servers, topic=target, format=sl.Json()))
    )
    return job

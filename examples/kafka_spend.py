"""What each user spends in every ten seconds: from a topic to a topic, exactly once.

    streamline run examples/kafka_spend.py -p servers=localhost:9092

``-p until=latest`` ends it at what is now the end of the topic. docs/kafka.md tells what is
promised, and what a consumer of the results must set.
"""

from __future__ import annotations

import streamline as sl
from streamline.connectors.kafka import KafkaSink, KafkaSource, dead_letters_to


class Order(sl.Record):
    """One record of the input."""

    user: str
    amount: float
    at: int  # ms since the epoch


def job(
    servers: str = "localhost:9092",
    source: str = "orders",
    target: str = "spend",
    bad: str = "orders-bad",
    until: str = "",
) -> sl.Job:
    """The pipeline; records that cannot be decoded go to a topic of their own."""
    job = sl.Job("kafka-spend")
    orders = job.source(
        "orders",
        KafkaSource(
            servers,
            topic=source,
            format=sl.Json(Order, on_error="dead_letter"),
            until="latest" if until else None,
        ),
    )
    orders.dead_letters.sink("bad", dead_letters_to(servers, topic=bad))
    (
        orders.with_timestamps("at", max_out_of_orderness="5s", idle_after="30s")
        .filter(lambda order: order.amount > 0)
        .key_by("user")
        .window(sl.Tumbling("10s"), allowed_lateness="1m")
        .aggregate(total=sl.Sum("amount"), orders=sl.Count())
        .sink("spend", KafkaSink(servers, topic=target, format=sl.Json(), key="key"))
    )
    return job

"""The jobs that are measured on Kafka; apart, since others are not to load its client."""

import streamline as sl
from streamline.connectors.kafka import KafkaSink, KafkaSource


class Order(sl.Record):
    """One record of the input."""

    user: str
    amount: float
    at: int


def kafka_keyed(servers: str, source: str, target: str) -> sl.Job:
    """Filter, key, sliding window: Kafka to Kafka, exactly once."""
    job = sl.Job("kafka-keyed")
    orders = KafkaSource(servers, topic=source, format=sl.Json(Order), until="latest")
    (
        job.source("orders", orders)
        .with_timestamps("at", max_out_of_orderness="5s")
        .filter(lambda order: order.amount > 0)
        .key_by(lambda order: order.user)
        .window(sl.Sliding("10s", "5s"))
        .aggregate(total=sl.Sum("amount"), orders=sl.Count())
        .sink("totals", KafkaSink(servers, topic=target, format=sl.Json(), key="key"))
    )
    return job


def kafka_copy(servers: str, source: str, target: str) -> sl.Job:
    """Every record as it comes, exactly once; does not end."""
    job = sl.Job("kafka-copy")
    job.source("in", KafkaSource(servers, topic=source, format=sl.Json())).sink(
        "out", KafkaSink(servers, topic=target, format=sl.Json())
    )
    return job

"""Jobs from Kafka to Kafka, run by the command line."""

import streamline as sl
from streamline.connectors.kafka import KafkaSink, KafkaSource


class Order(sl.Record):
    number: int
    user: str
    amount: int
    at: int


def spend(servers: str, source: str, target: str) -> sl.Job:
    job = sl.Job("spend")
    (
        job.source(
            "orders", KafkaSource(servers, topic=source, format=sl.Json(Order), until="latest")
        )
        .with_timestamps("at", max_out_of_orderness="20s")
        .filter(lambda order: order.amount > 3)
        .key_by("user")
        .window(sl.Tumbling("10s"))
        .aggregate(total=sl.Sum("amount"), count=sl.Count())
        .sink("out", KafkaSink(servers, topic=target, format=sl.Json(), key="key"))
    )
    return job


def copy(servers: str, source: str, target: str) -> sl.Job:
    """Every record goes on, so that every transaction holds many."""
    job = sl.Job("copy")
    (
        job.source(
            "orders", KafkaSource(servers, topic=source, format=sl.Json(Order), until="latest")
        )
        .map(lambda order: {"number": order.number, "user": order.user})
        .sink("out", KafkaSink(servers, topic=target, format=sl.Json(), key="user"))
    )
    return job

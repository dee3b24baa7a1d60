"""A job from Kafka to PostgreSQL, run by the command line."""

import streamline as sl
from streamline.connectors.kafka import KafkaSource
from streamline.connectors.postgres import PostgresSink


class Order(sl.Record):
    number: int
    user: str
    amount: int
    at: int


def store(servers: str, source: str, dsn: str, totals: str, orders: str) -> sl.Job:
    """Every order into one table, and what each user spends in ten seconds into another."""
    job = sl.Job("store")
    stream = job.source(
        "orders", KafkaSource(servers, topic=source, format=sl.Json(Order), until="latest")
    ).with_timestamps("at", max_out_of_orderness="20s")
    stream.map(lambda order: {"number": order.number, "owner": order.user}).sink(
        "copy", PostgresSink(dsn, table=orders)
    )
    (
        stream.filter(lambda order: order.amount > 3)
        .key_by("user")
        .window(sl.Tumbling("10s"))
        .aggregate(total=sl.Sum("amount"), count=sl.Count())
        .sink(
            "totals",
            PostgresSink(
                dsn,
                table=totals,
                columns=["key", "window_start", "total", "count"],
                mode="upsert",
                key=["key", "window_start"],
            ),
        )
    )
    return job

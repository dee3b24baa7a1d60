"""What each user spends in every ten seconds: from a topic into a table, exactly once.

    create table spend (key text, window_start int8, window_end int8, total float8, orders int8,
                        primary key (key, window_start));

    streamline run examples/kafka_to_postgres.py \\
        -p servers=localhost:9092 -p dsn=postgresql://localhost/shop
"""

from __future__ import annotations

import streamline as sl
from streamline.connectors.kafka import KafkaSource
from streamline.connectors.postgres import PostgresSink


class Order(sl.Record):
    """One record of the input."""

    user: str
    amount: float
    at: int  # ms since the epoch


def job(
    servers: str = "localhost:9092",
    dsn: str = "postgresql://localhost/shop",
    source: str = "orders",
    table: str = "spend",
    until: str = "",
) -> sl.Job:
    """The pipeline; a window that is updated by late records replaces its row."""
    job = sl.Job("kafka-to-postgres")
    orders = KafkaSource(
        servers, topic=source, format=sl.Json(Order), until="latest" if until else None
    )
    (
        job.source("orders", orders)
        .with_timestamps("at", max_out_of_orderness="5s", idle_after="30s")
        .key_by("user")
        .window(sl.Tumbling("10s"), allowed_lateness="1m")
        .aggregate(total=sl.Sum("amount"), orders=sl.Count())
        .sink("spend", PostgresSink(dsn, table=table, mode="upsert", key=["key", "window_start"]))
    )
    return job

"""The same, changed: an operator more, and a field more in what it writes."""

import streamline as sl
from streamline.connectors.kafka import KafkaSink, KafkaSource


def job(servers: str, source: str, target: str) -> sl.Job:
    job = sl.Job("copy")
    orders = KafkaSource(servers, topic=source, format=sl.Json(), until="latest")
    (
        job.source("orders", orders)
        .filter(lambda order: order["amount"] >= 0, name="sane")
        .key_by("user")
        .aggregate(count=sl.Count(), name="count")
        .map(lambda one: {"key": one.key, "count": one.count, "checked": True})
        .sink("out", KafkaSink(servers, topic=target, format=sl.Json(), key="key"))
    )
    return job

"""Kafka to Kafka: every order moves its user's count on by one."""

from typing import Any

import streamline as sl
from streamline.connectors.kafka import KafkaSink, KafkaSource


class Seen(sl.Record):
    """What is kept of a user."""

    orders: int


class Remember(sl.ProcessFunction):
    seen = sl.ValueState(Seen)

    def process(self, value: dict[str, Any], ctx: Any) -> Any:
        before = self.seen.get() or Seen(0)
        self.seen.set(Seen(before.orders + 1))
        yield {"key": value["user"], "count": before.orders + 1}


def job(servers: str, source: str, target: str, name: str = "copy") -> sl.Job:
    job = sl.Job(name)
    orders = KafkaSource(servers, topic=source, format=sl.Json())
    (
        job.source("orders", orders)
        .key_by("user")
        .process(Remember(), name="remember")
        .sink("out", KafkaSink(servers, topic=target, format=sl.Json(), key="key"))
    )
    return job

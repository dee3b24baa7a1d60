"""Jobs from Kafka to Kafka, run by the command line."""

import re

import streamline as sl
from streamline.connectors.kafka import KafkaSink, KafkaSource, dead_letters_to


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


def copy(
    servers: str, source: str, target: str, timeout: str = "15m", until: str = "latest"
) -> sl.Job:
    """Every record goes on, so that every transaction holds many."""
    job = sl.Job("copy")
    orders = KafkaSource(
        servers, topic=source, format=sl.Json(Order), until="latest" if until else None
    )
    (
        job.source("orders", orders)
        .map(lambda order: {"number": order.number, "user": order.user})
        .sink(
            "out",
            KafkaSink(
                servers, topic=target, format=sl.Json(), key="user", transaction_timeout=timeout
            ),
        )
    )
    return job


def picky(servers: str, source: str, target: str) -> sl.Job:
    """One order in a thousand makes the function raise, in another task than it was read in."""

    def user_of(order: Order) -> dict[str, object]:
        if order.number % 1000 == 7:
            raise LookupError(f"nobody knows {order.user}")
        return {"number": order.number, "user": order.user}

    job = sl.Job("picky")
    orders = job.source(
        "orders", KafkaSource(servers, topic=source, format=sl.Json(Order), until="latest")
    )
    users = orders.rebalance().map(user_of, on_error="dead_letter", name="user", parallelism=2)
    users.sink("out", KafkaSink(servers, topic=target, format=sl.Json(), key="user"))
    users.dead_letters.sink("bad", dead_letters_to(servers, topic=f"{target}-bad"))
    return job


def grouped(servers: str, source: str, target: str) -> sl.Job:
    """Offsets go to a group as well."""
    job = sl.Job("grouped")
    orders = KafkaSource(servers, topic=source, format=sl.Raw(), group="watched", until="latest")
    job.source("orders", orders).sink("out", KafkaSink(servers, topic=target, format=sl.Raw()))
    return job


def growing(servers: str, source: str, target: str) -> sl.Job:
    """For ever, from all topics whose names begin like that."""
    job = sl.Job("growing")
    topics = re.compile(re.escape(source) + ".*")
    orders = KafkaSource(servers, topic=topics, format=sl.Text())
    job.source("orders", orders).sink("out", KafkaSink(servers, topic=target, format=sl.Text()))
    return job


def skewed(servers: str, source: str, target: str, skew: str) -> sl.Job:
    """Records as they arrive at one task, and windows of them: neither waits for late ones."""
    job = sl.Job("skewed")
    orders = KafkaSource(
        servers, topic=source, format=sl.Json(Order), until="latest", max_skew=skew
    )
    stream = job.source("orders", orders).with_timestamps("at", max_out_of_orderness="1s")
    arrived = stream.rebalance().map(lambda order: {"at": order.at}, parallelism=1, name="arrived")
    arrived.sink("order", KafkaSink(servers, topic=f"{target}-order", format=sl.Json()))
    (
        stream.key_by("user")
        .window(sl.Tumbling("1m"))
        .aggregate(total=sl.Sum("amount"), count=sl.Count())
        .sink("out", KafkaSink(servers, topic=target, format=sl.Json(), key="key"))
    )
    return job


def quiet(servers: str, source: str, target: str) -> sl.Job:
    """For ever, over partitions some of which bring nothing."""
    job = sl.Job("quiet")
    orders = KafkaSource(servers, topic=source, format=sl.Json(Order), max_skew="10s")
    (
        job.source("orders", orders)
        .with_timestamps("at", max_out_of_orderness="1s", idle_after="2s")
        .key_by("user")
        .window(sl.Tumbling("10s"))
        .aggregate(total=sl.Sum("amount"))
        .sink("out", KafkaSink(servers, topic=target, format=sl.Json(), key="key"))
    )
    return job

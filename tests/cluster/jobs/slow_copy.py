"""Kafka to Kafka, slowly: every order goes on."""

import time

import streamline as sl
from streamline.connectors.kafka import KafkaSink, KafkaSource


def slowly(values: list[dict[str, int]]) -> list[dict[str, int]]:
    time.sleep(len(values) / 4_000)
    return values


def job(servers: str, source: str, target: str) -> sl.Job:
    job = sl.Job("copy")
    orders = KafkaSource(servers, topic=source, format=sl.Json(), until="latest")
    (
        job.source("orders", orders)
        .map_batch(slowly, name="slowly")
        .key_by("user")
        .aggregate(count=sl.Count(), name="count")
        .sink("out", KafkaSink(servers, topic=target, format=sl.Json(), key="key"))
    )
    return job

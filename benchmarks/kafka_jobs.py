"""The jobs that are measured on Kafka; apart, since others are not to load its client."""

import json
import time
from pathlib import Path
from typing import TypeVar

import streamline as sl
from streamline.connectors.kafka import KafkaSink, KafkaSource
from streamline.connectors.kafka.writer import KafkaWriter, WriteSettings
from streamline.io import Committable, SinkWriter

T = TypeVar("T")


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


def kafka_columns(servers: str, source: str, target: str) -> sl.Job:
    """The same on columns."""
    job = sl.Job("kafka-columns")
    orders = KafkaSource(servers, topic=source, format=sl.Json(Order), until="latest")
    (
        job.source("orders", orders, layout="columns")
        .with_timestamps("at", max_out_of_orderness="5s")
        .filter(sl.col("amount") > 0)
        .key_by("user")
        .window(sl.Sliding("10s", "5s"))
        .aggregate(total=sl.Sum("amount"), orders=sl.Count())
        .sink("totals", KafkaSink(servers, topic=target, format=sl.Json(), key="key"))
    )
    return job


class _NotedWriter(KafkaWriter[T]):
    """Notes when it prepares and commits what has records in it."""

    def __init__(self, settings: WriteSettings, notes: str) -> None:
        super().__init__(settings)
        self._notes = notes

    async def prepare(self, epoch: int) -> list[Committable]:
        began = time.time()
        committables = await super().prepare(epoch)
        if committables:
            self._note("prepare", began)
        return committables

    async def commit(self, committables: list[Committable]) -> None:
        began = time.time()
        await super().commit(committables)
        if committables:
            self._note("commit", began)

    def _note(self, what: str, began: float) -> None:
        with Path(self._notes).open("a") as file:
            file.write(json.dumps([what, began, time.time()]) + "\n")


class NotedSink(KafkaSink[T]):
    """A KafkaSink that writes into a file when it did what."""

    notes: str

    def writer(self) -> SinkWriter[T]:
        return _NotedWriter(self.settings, self.notes)


def kafka_copy(servers: str, source: str, target: str, notes: str) -> sl.Job:
    """Every record as it comes, exactly once; does not end."""
    job = sl.Job("kafka-copy")
    sink: NotedSink[object] = NotedSink(servers, topic=target, format=sl.Json())
    sink.notes = notes
    job.source("in", KafkaSource(servers, topic=source, format=sl.Json())).sink("out", sink)
    return job

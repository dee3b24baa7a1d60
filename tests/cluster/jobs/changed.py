"""The same with a field and an operator more."""

import streamline as sl
from streamline.connectors.datagen import GeneratorSource
from streamline.connectors.files import FileSink


def make(number: int, _: object) -> dict[str, object]:
    return {"user": f"u{number % 97}", "at": 1_700_000_000_000 + number, "amount": number}


def job(output: str, count: int, rate: int = 15_000) -> sl.Job:
    job = sl.Job("paced")
    (
        job.source("numbers", GeneratorSource(make, count=count, rate=rate))
        .with_timestamps("at")
        .filter(lambda value: value["amount"] >= 0, name="sane")
        .key_by("user")
        .window(sl.Tumbling("1s"))
        .aggregate(count=sl.Count(), name="window")
        .map(lambda result: {"key": result.key, "count": result.count, "checked": True})
        .sink("out", FileSink(output, format=sl.Json()))
    )
    return job

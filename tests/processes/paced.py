"""Jobs that take their time, so that something can be done to them meanwhile."""

import streamline as sl
from streamline.connectors.datagen import GeneratorSource
from streamline.connectors.files import FileSink


def make(number: int, rng: object) -> dict[str, object]:
    return {"user": f"u{number % 97}", "at": 1_700_000_000_000 + number}


def paced(output: str, count: int, rate: int = 15_000) -> sl.Job:
    """Counts per user and second of event time."""
    job = sl.Job("paced")
    (
        job.source("numbers", GeneratorSource(make, count=count, rate=rate))
        .with_timestamps("at")
        .key_by("user")
        .window(sl.Tumbling("1s"))
        .aggregate(count=sl.Count(), name="window")
        .sink("out", FileSink(output, format=sl.Json()))
    )
    return job

"""The paced job with the node that held its state of another kind, or gone."""

import streamline as sl
from streamline.connectors.datagen import GeneratorSource
from streamline.connectors.files import FileSink


def make(number: int, _: object) -> dict[str, object]:
    return {"user": f"u{number % 97}", "at": 1_700_000_000_000 + number}


def job(output: str, count: int, kind: str, rate: int = 15_000) -> sl.Job:
    job = sl.Job("paced")
    stream = job.source("numbers", GeneratorSource(make, count=count, rate=rate))
    if kind == "other":
        stream = stream.map(lambda value: value, name="window")
    stream.sink("out", FileSink(output, format=sl.Json()))
    return job

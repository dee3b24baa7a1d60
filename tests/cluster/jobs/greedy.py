"""The paced job with a function that takes 400 MB once, and does not give them back."""

from pathlib import Path
from typing import Any

import streamline as sl
from streamline.connectors.datagen import GeneratorSource
from streamline.connectors.files import FileSink

_held: list[bytes] = []


def make(number: int, _: object) -> dict[str, Any]:
    return {"n": number, "user": f"u{number % 97}", "at": 1_700_000_000_000 + number}


def job(output: str, eaten: str, count: int, rate: int = 15_000) -> sl.Job:
    def eat(value: dict[str, Any]) -> bool:
        if value["n"] == 30_000 and not Path(eaten).exists():
            Path(eaten).touch()
            _held.append(b"x" * 400_000_000)
        return True

    job = sl.Job("greedy")
    (
        job.source("numbers", GeneratorSource(make, count=count, rate=rate))
        .with_timestamps("at")
        .filter(eat)
        .key_by("user")
        .window(sl.Tumbling("1s"))
        .aggregate(count=sl.Count(), name="window")
        .sink("out", FileSink(output, format=sl.Json()))
    )
    return job

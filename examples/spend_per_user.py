"""What each user spends in every ten seconds of event time: the job of the README.

It shows typed records, event time with orders out of order, a filter, keys, a tumbling window
with two aggregations, and a sink whose files appear exactly once. A window is closed by the
watermark, not by the clock: the result is the same however fast the files are read, in what
order, with how many tasks, and however often the run is killed.

    streamline run examples/spend_per_user.py
    streamline run examples/spend_per_user.py -p input=FOLDER -p output=FOLDER --parallelism 2

``python -m examples.generate FOLDER`` makes as many orders as you like.
"""

from __future__ import annotations

from pathlib import Path

import streamline as sl
from streamline.connectors.files import FileSink, FileSource

SAMPLE = str(Path(__file__).parent / "data" / "orders.jsonl")


class Order(sl.Record):
    """One line of the input; a line that does not fit stops the job and is shown."""

    user: str
    amount: float
    at: int  # ms since the epoch


def job(
    input: str = SAMPLE, output: str = "demo-output/spend", size: str = "10s", lateness: str = "1m"
) -> sl.Job:
    """Sum up the orders of ``input`` for each user and window of ``size``."""
    job = sl.Job("spend-per-user")
    (
        job.source("orders", FileSource(input, format=sl.Json(Order)))
        # How far orders of one file may be out of order. More means later results; less means
        # that more orders come after their window was closed.
        .with_timestamps("at", max_out_of_orderness="5s")
        .filter(lambda order: order.amount > 0, name="without-returns")
        .key_by("user", name="by-user")
        .window(sl.Tumbling(size), allowed_lateness=lateness)
        .aggregate(total=sl.Sum("amount"), orders=sl.Count(), name="spend-per-window")
        .sink("spend", FileSink(output, format=sl.Json()))
    )
    return job

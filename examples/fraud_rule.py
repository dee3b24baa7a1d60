"""A rule against stolen cards: a small payment, to try the card, and soon after a large one.

It shows a process function: your own code with state for each key and timers of event time. The
small payment is remembered for a minute of event time, then a timer forgets it. Without the
timer the state of every card ever seen would be kept for ever.

    streamline run examples/fraud_rule.py
    streamline run examples/fraud_rule.py -p input=payments.jsonl -p output=FOLDER -p large=1000
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import streamline as sl
from streamline.connectors.files import FileSink, FileSource

SAMPLE = str(Path(__file__).parent / "data" / "payments.jsonl")


class Payment(sl.Record):
    """One line of the input."""

    card: str
    amount: float
    at: int  # ms since the epoch


class Alert(sl.Record):
    """The two payments that look like fraud."""

    card: str
    tried: Payment
    taken: Payment


class SmallThenLarge(sl.ProcessFunction[str, Payment, Alert]):
    """Remembers the last small payment of a card, for a while."""

    tried = sl.ValueState(Payment)

    def __init__(self, small: float, large: float, within_ms: int) -> None:
        self.small, self.large, self.within_ms = small, large, within_ms

    def process(self, value: Payment, ctx: sl.ProcessContext[str]) -> Iterator[Alert]:
        """Called for each payment."""
        tried = self.tried.get()
        # Compare event times too: the timer may ring a little later than the minute is over.
        if tried is not None and value.amount >= self.large:
            if 0 <= value.at - tried.at <= self.within_ms:
                yield Alert(ctx.key, tried, value)
        if value.amount <= self.small:
            if tried is not None:
                ctx.delete_timer(tried.at + self.within_ms)
            self.tried.set(value)
            ctx.set_timer(value.at + self.within_ms)

    def on_timer(self, timestamp: int, ctx: sl.ProcessContext[str]) -> None:
        """Called when the minute after the last small payment is over."""
        self.tried.clear()


def job(
    input: str = SAMPLE,
    output: str = "demo-output/alerts",
    small: float = 1.0,
    large: float = 500.0,
    within_s: int = 60,
) -> sl.Job:
    """Watch the payments of ``input``."""
    job = sl.Job("fraud-rule")
    (
        job.source("payments", FileSource(input, format=sl.Json(Payment)))
        .with_timestamps("at", max_out_of_orderness="5s")
        .key_by("card", name="by-card")
        .process(SmallThenLarge(small, large, within_s * 1000), name="rule")
        .sink("alerts", FileSink(output, format=sl.Json()))
    )
    return job
